"""How optimizer steps are seen without being touched: hooks on every optimizer that holds one of our parameters."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from neuromech.compat import left_uncompiled
from neuromech.hooks.guard import Guard


class _Everywhere:
    """One hook of torch's for the steps of all optimizers, which calls those that are added.

    It stays for good: the garbage collector may forget a probe while torch goes through its hooks, and to take one away
    just then would end the step of whoever is training.
    """

    def __init__(self, register: Callable[[Callable[..., Any]], Any]) -> None:
        self._register, self._hooks, self._registered = register, dict[object, Callable[..., None]](), False

    def add(self, owner: object, hook: Callable[..., None]) -> Callable[[], Any]:
        """Calls `hook` until `owner` is forgotten, or what is returned is called."""
        if not self._registered:
            self._registered = True
            self._register(_Left(self._call))
        self._hooks[key := object()] = hook
        return weakref.finalize(owner, self._hooks.pop, key, None)

    def _call(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for hook in list(self._hooks.values()):
            hook(optimizer, args, kwargs)


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
        guard: Guard,
    ) -> None:
        self._parameters, self._before, self._after, self._guard = parameters, before, after, guard
        self._attached: weakref.WeakKeyDictionary[Optimizer, tuple[Any, Any]] = weakref.WeakKeyDictionary()
        self._measured: Optimizer | None = None
        self._depth = 0  # of steps within a step of the same optimizer
        self._removed = False
        # The registry of torch lives for ever: it must not keep a forgotten model alive.
        me = weakref.ref(self)

        def discover(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (watch := me()) is not None:
                watch._guard(watch.consider, optimizer)

        self._forget = _ahead.add(self, discover)

    def consider(self, optimizer: Optimizer) -> None:
        """Attach to `optimizer` if it holds one of our parameters; if attached already, go behind its other hooks."""
        if isinstance(getattr(optimizer, "base", None), Optimizer):
            return  # a wrapper, as EoMOptimizer: its base will step, and is met then
        if optimizer in self._attached:
            begin, end = self._attached[optimizer]
            begin.remove()
        elif held(optimizer, self._parameters()):
            end = optimizer.register_step_post_hook(_Left(self._end))
        else:
            return
        # Hooks run in the order of their registration: the last one sees gradients that another has clipped.
        self._attached[optimizer] = optimizer.register_step_pre_hook(_Left(self._begin)), end

    def _begin(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._removed:
            return None
        if self._measured is not None and hasattr(self._measured, "consolidate_state_dict"):
            return None  # ZeroRedundancyOptimizer steps its share by this one, and then fetches that of the others
        if self._measured is optimizer and _wrappers(optimizer) > 1:
            self._depth += 1  # a subclass that calls the step of its class, which torch has wrapped too
            return None
        self._measured, self._depth = None, 0
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
        if self._removed:
            return
        if self._measured is optimizer and self._depth:
            self._depth -= 1
        elif self._measured is optimizer:  # else it steps by means of another optimizer, which was measured
            self._measured = None
            self._after(optimizer)

    def remove(self) -> None:
        self._forget()
        self._removed = True
        for optimizer, handles in self._attached.items():
            if not _wrappers(optimizer):  # torch is going through these hooks just now: they stay, and do nothing
                for handle in handles:
                    handle.remove()
        self._attached.clear()


class ForeignSteps:
    """Calls `begins(optimizer)` ahead of the steps of optimizers that hold none of `parameters`, `stepped` behind."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        begins: Callable[[Optimizer], None],
        stepped: Callable[[Optimizer], None],
    ) -> None:
        mine, me = set(map(id, parameters)), weakref.ref(self)
        self._begins, self._stepped = begins, stepped

        def foreign(optimizer: Optimizer) -> ForeignSteps | None:
            watch = me()
            return None if watch is None or any(id(p) in mine for p in _params_of(optimizer)) else watch

        def ahead(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (watch := foreign(optimizer)) is not None:
                watch._begins(optimizer)

        def behind(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (watch := foreign(optimizer)) is not None:
                watch._stepped(optimizer)

        self._forget = _ahead.add(self, ahead), _behind.add(self, behind)

    def remove(self) -> None:
        for forget in self._forget:
            forget()


class OuterSteps:
    """Calls `stepped(optimizer)` behind the steps of all optimizers that hold one of `parameters`."""

    def __init__(self, parameters: list[nn.Parameter], stepped: Callable[[Optimizer], None]) -> None:
        mine, me = set(map(id, parameters)), weakref.ref(self)
        self._stepped = stepped

        def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (watch := me()) is not None and any(id(p) in mine for p in _params_of(optimizer)):
                watch._stepped(optimizer)

        self._forget = _behind.add(self, hook)

    def remove(self) -> None:
        self._forget()


def _wrappers(optimizer: Optimizer) -> int:
    """How many of torch's wrappers around a step of `optimizer` are running."""
    frame, count = sys._getframe(1), 0
    while frame.f_back is not None:
        frame = frame.f_back
        count += frame.f_code.co_name == "wrapper" and frame.f_locals.get("self") is optimizer
    return count


def _params_of(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


class _Left:
    """A hook that Dynamo leaves as it is: a compiled step breaks its graph at its hooks anyhow."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook

    def __call__(self, *args: Any) -> Any:
        return self._run(*args)

    @left_uncompiled
    def _run(self, *args: Any) -> Any:
        return self._hook(*args)


_ahead = _Everywhere(register_optimizer_step_pre_hook)
_behind = _Everywhere(register_optimizer_step_post_hook)


def held(optimizer: Optimizer, parameters: list[nn.Parameter]) -> bool:
    """True if the optimizer holds at least one of `parameters`."""
    mine = set(map(id, parameters))
    return any(id(p) in mine for group in optimizer.param_groups for p in group["params"])
