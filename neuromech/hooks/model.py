"""How a training loop is seen without being touched: hooks on the model's forward and on optimizer steps.

A hook is an object of its own so that a copied or pickled model carries a dead one: `copy.deepcopy(model)`, as for an
average of weights, must not copy the instrument along.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from neuromech.detect import is_our_call, tensors_of


@dataclass(eq=False)
class Forward:
    """One forward of the model: its inputs, its outputs, and the gradients that these receive, once they do."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    training: bool
    outputs: list[Tensor] = field(default_factory=list)
    cotangents: list[Tensor | None] = field(default_factory=list)
    finite: bool = True


class ForwardWatch:
    """Keeps the first forward whose output receives a gradient: the one that trains.

    One whose gradient overflowed gives way to the next: a `GradScaler` finds its scale by such steps, and skips them.
    `seen` is called with every candidate before it runs; what it raises is raised once the forward has succeeded, as a
    forward that fails by itself must fail with its own error. Evaluation under `no_grad` is no candidate.
    """

    def __init__(self, model: nn.Module, seen: Callable[[Forward], None]) -> None:
        self.trained: Forward | None = None
        self.autocast: torch.dtype | None = None  # in which gradients are rounded, if not in that of the weights
        self._seen = seen
        self._candidate: Forward | None = None
        self._failure: Exception | None = None
        before, after = Hook(self._before), Hook(self._after)
        self._handles = (
            model.register_forward_pre_hook(before, with_kwargs=True),
            model.register_forward_hook(after),
        )

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_our_call():
            return
        self._candidate = self._failure = None
        if (self.trained is None or not self.trained.finite) and torch.is_grad_enabled():
            self._candidate = Forward(args, kwargs, model.training)
            try:
                self._seen(self._candidate)
            except Exception as error:
                self._failure = error

    def _after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if is_our_call() or self._candidate is None:
            return
        forward, self._candidate = self._candidate, None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        self.autocast = self.autocast or _autocast(model)
        for i, t in enumerate(tensors_of(output)):
            forward.outputs.append(t.detach())
            forward.cotangents.append(None)
            if t.requires_grad:
                t.register_hook(lambda gradient, i=i: self._received(forward, i, gradient))

    def _received(self, forward: Forward, i: int, gradient: Tensor) -> None:
        if self.trained is None or self.trained is forward or not self.trained.finite:
            self.trained = forward
            forward.cotangents[i] = gradient.detach()
            forward.finite = forward.finite and bool(torch.isfinite(gradient).all())

    def forget(self) -> None:
        """Let go of the tensors, keep watching no more."""
        self._seen = lambda _: None
        self.trained = Forward((), {}, True)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _autocast(model: nn.Module) -> torch.dtype | None:
    """The dtype in which operators of the model run here, if torch chooses it."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


class Hook:
    """Calls a function, until it is copied or pickled: the copy does nothing."""

    def __init__(self, function: Callable[..., None] | None = None) -> None:
        self.function = function

    def __call__(self, *args: Any) -> None:
        if self.function is not None:
            self.function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


class StepWatch:
    """Calls `before(optimizer)` when the gradients of a step are ready, and `after(optimizer)` when it is done.

    It finds by itself, at their first step, the optimizers that hold one of `parameters`. The gradients of a step with
    a closure are ready once the closure has been called.
    """

    def __init__(
        self,
        parameters: Callable[[], list[nn.Parameter]],
        before: Callable[[Optimizer], None],
        after: Callable[[Optimizer], None],
    ) -> None:
        self._parameters, self._before, self._after = parameters, before, after
        self._attached: weakref.WeakKeyDictionary[Optimizer, tuple[Any, Any]] = weakref.WeakKeyDictionary()
        self._measured: Optimizer | None = None
        # The registry of torch lives for ever: it must not keep a forgotten model alive.
        me = weakref.ref(self)

        def discover(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (watch := me()) is not None:
                watch.consider(optimizer)

        self._everywhere = register_optimizer_step_pre_hook(discover)
        weakref.finalize(self, self._everywhere.remove)

    def consider(self, optimizer: Optimizer) -> None:
        """Attach to `optimizer` if it holds one of our parameters; if attached already, go behind its other hooks."""
        if isinstance(getattr(optimizer, "base", None), Optimizer):
            return  # a wrapper, as EoMOptimizer: its base will step, and is met then
        if optimizer in self._attached:
            begin, end = self._attached[optimizer]
            begin.remove()
        elif held(optimizer, self._parameters()):
            end = optimizer.register_step_post_hook(self._end)
        else:
            return
        # Hooks run in the order of their registration: the last one sees gradients that another has clipped.
        self._attached[optimizer] = optimizer.register_step_pre_hook(self._begin), end

    def _begin(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._measured = None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._measure(optimizer)
            return None

        def measured() -> Any:
            loss = closure()
            self._measure(optimizer)
            return loss

        return (args[0], measured, *args[2:]), {k: v for k, v in kwargs.items() if k != "closure"}

    def _measure(self, optimizer: Optimizer) -> None:
        if self._measured is not optimizer:  # a line search calls its closure many times; the first one counts
            self._measured = optimizer
            self._before(optimizer)

    def _end(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._measured is optimizer:  # else it steps by means of another optimizer, which was measured
            self._measured = None
            self._after(optimizer)

    def remove(self) -> None:
        self._everywhere.remove()
        for handles in self._attached.values():
            for handle in handles:
                handle.remove()
        self._attached.clear()


def held(optimizer: Optimizer, parameters: list[nn.Parameter]) -> bool:
    """True if the optimizer holds at least one of `parameters`."""
    mine = set(map(id, parameters))
    return any(id(p) in mine for group in optimizer.param_groups for p in group["params"])
