"""How the forwards of a model are seen without being touched: one pair of hooks, and whoever listens to it.

A hook is an object of its own so that a copied or pickled model carries a dead one: `copy.deepcopy(model)`, as for an
average of weights, must not copy the instrument along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neuromech.detect import is_our_call, tensors_of
from neuromech.rng import GeneratorStates, states


@dataclass(eq=False)
class Forward:
    """One forward of the model: its inputs, its outputs, and the gradients that these receive, once they do."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    training: bool
    outputs: list[Tensor] = field(default_factory=list)
    cotangents: list[Tensor | None] = field(default_factory=list)
    finite: bool = True
    generators: GeneratorStates | None = None  # as it found them


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


class Listener(Protocol):
    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None: ...

    def after(self, model: nn.Module, output: Any) -> None: ...


class ForwardHooks:
    """The one pair of hooks on `model`: tells `listeners` of its forwards, but for those that are our own."""

    def __init__(self, model: nn.Module) -> None:
        self.listeners: list[Listener] = []
        before, after = Hook(self._before), Hook(self._after)
        self._handles = (
            model.register_forward_pre_hook(before, with_kwargs=True),
            model.register_forward_hook(after),
        )

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_our_call():
            for listener in self.listeners:
                listener.before(model, args, kwargs)

    def _after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not is_our_call():
            for listener in self.listeners:
                listener.after(model, output)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class ForwardWatch:
    """Keeps the first forward whose output receives a gradient: the one that trains.

    One whose gradient overflowed gives way to the next: a `GradScaler` finds its scale by such steps, and skips them.
    `seen` is called with every candidate before it runs; what it raises is raised once the forward has succeeded, as a
    forward that fails by itself must fail with its own error. Evaluation under `no_grad` is no candidate.
    """

    def __init__(self, seen: Callable[[Forward], None]) -> None:
        self.trained: Forward | None = None
        self.autocast: torch.dtype | None = None  # in which gradients are rounded, if not in that of the weights
        self._seen = seen
        self._candidate: Forward | None = None
        self._failure: Exception | None = None

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._candidate = self._failure = None
        if (self.trained is None or not self.trained.finite) and torch.is_grad_enabled():
            self._candidate = Forward(args, kwargs, model.training, generators=states(devices_of(model)))
            try:
                self._seen(self._candidate)
            except Exception as error:
                self._failure = error

    def after(self, model: nn.Module, output: Any) -> None:
        if self._candidate is None:
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

    def again(self) -> None:
        """Keep the next forward that trains."""
        self.trained = None

    def forget(self) -> None:
        """Let go of the tensors, keep watching no more."""
        self._seen = lambda _: None
        self.trained = Forward((), {}, True)


def devices_of(model: nn.Module) -> set[torch.device]:
    return {p.device for p in model.parameters()}


def _autocast(model: nn.Module) -> torch.dtype | None:
    """The dtype in which operators of the model run here, if torch chooses it."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
