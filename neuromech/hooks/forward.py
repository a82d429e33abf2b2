"""How the forwards of a model are seen without being touched: one pair of hooks, and whoever listens to it.

A hook is an object of its own so that a copied or pickled model carries a dead one: `copy.deepcopy(model)`, as for an
average of weights, must not copy the instrument along.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neuromech.compat import (
    anything_compiled,
    at_end_of_backward,
    backward_id,
    forget_compiled,
    has_compiled_parts,
    transforms_active,
    unprofiled,
)
from neuromech.detect import Follower, Graph, is_our_call, tensors_of
from neuromech.hooks import compiled
from neuromech.hooks.guard import Guard
from neuromech.rng import GeneratorStates, states


@dataclass(eq=False)
class Forward:
    """One forward of the model: its inputs, its outputs, and the gradients that these receive, once they do.

    `graph`: what it computed, written down as it ran; None if it ran out of sight, as compiled code does.
    `problem`: why it could not be written down. `transformed`: it ran inside of a transform of `torch.func`.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    training: bool
    outputs: list[Tensor] = field(default_factory=list)
    cotangents: list[Tensor | None] = field(default_factory=list)
    finite: bool = True
    graph: Graph | None = None
    problem: Exception | None = None
    transformed: bool = False
    generators: GeneratorStates | None = None  # as it found them


class Hook:
    """Calls a function, until it is copied or pickled: the copy does nothing. `hear`: see `compiled.tell`."""

    def __init__(self, function: Callable[..., None] | None = None, hear: Callable[..., int] | None = None) -> None:
        self.function, self.hear = function, hear

    def __call__(self, *args: Any) -> None:
        if torch.compiler.is_dynamo_compiling():
            if self.hear is not None:
                compiled.tell(self.hear, args[1], args[2])
        elif self.function is not None and not torch.compiler.is_compiling():
            self.function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


class Listener(Protocol):
    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None: ...

    def after(self, model: nn.Module, output: Any) -> None: ...


Called = Callable[[tuple[Any, ...], dict[str, Any]], None]


class ForwardHooks:
    """A pair of hooks on `model`: tells `listeners` of its forwards, but for those that are our own.

    `compiled_with` hears of the inputs if the forward becomes part of compiled code, in which no hook runs, and
    `transformed_with` if it runs in a transform of `torch.func`, where tensors have no values and a backward no end.
    """

    def __init__(self, model: nn.Module, guard: Guard, compiled_with: Called, transformed_with: Called) -> None:
        self.listeners: list[Listener] = []
        self.guard = guard
        self._traced = compiled.Listener(lambda args, kwargs: guard(compiled_with, args, kwargs))
        self._transformed = transformed_with
        self._running: list[nn.Module] = []  # from the outermost on: one that calls itself has one forward
        self._calling: tuple[int, FrameType] | None = None  # the thread and the frame that run the outermost one
        self._model = model
        self._handles: list[RemovableHandle] = []
        self._attach(model, self._traced.hear)
        self._let_go: Callable[[], None] = lambda: None
        if anything_compiled():
            forget_compiled(Hook.__call__)  # as it was traced for another model
            self._let_go = compiled.set_apart(model)

    def follow_parts(self) -> None:
        """From now on a call of any part of the model, the outermost one that runs, is a forward."""
        for m in self._model.modules():
            if m is not self._model:
                self._attach(m)

    def _attach(self, m: nn.Module, hear: Callable[..., int] | None = None) -> None:
        before, after = Hook(self._before, hear), Hook(self._after)
        self._handles += (
            m.register_forward_pre_hook(before, with_kwargs=True),
            m.register_forward_hook(after, always_call=True),  # also if the forward fails
        )

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_our_call():
            return
        if transforms_active():
            if model is self._model:
                self.guard(self._transformed, args, kwargs)
            return
        if self._running and not self._still_runs():
            self._give_up()
        self._running.append(model)
        if len(self._running) == 1:
            self._calling = threading.get_ident(), sys._getframe(2)
            with unprofiled():
                for listener in self.listeners:
                    self.guard(listener.before, model, args, kwargs)

    def _after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if is_our_call() or transforms_active() or not self._running:
            return
        self._running.pop()
        if not self._running:
            self._calling = None
            with unprofiled():
                for listener in reversed(self.listeners):
                    self.guard(listener.after, model, output)

    def _still_runs(self) -> bool:
        """False once the outermost forward was interrupted (Ctrl-C): torch calls no hook behind it then."""
        if self._calling is None:
            return False
        thread, calling = self._calling
        frame = sys._current_frames().get(thread)
        while frame is not None and frame is not calling:
            frame = frame.f_back
        return frame is not None

    def _give_up(self) -> None:
        self._running.clear()
        for listener in reversed(self.listeners):
            self.guard(listener.after, self._model, None)

    def remove(self) -> None:
        self._let_go()
        for handle in self._handles:
            handle.remove()


class ForwardWatch:
    """Keeps the first forward whose output receives a gradient: the one that trains.

    One whose gradient overflowed gives way to the next: a `GradScaler` finds its scale by such steps, and skips them.
    The first forward is written down as it runs, and the first in another mode again, until one has trained; `seen`
    hears of each. `backward` is called at the end of every backward in which the forward that trains got its gradient.
    Evaluation under `no_grad` is not a candidate, nor is a model that is frozen while others train through it.
    """

    def __init__(self, guard: Guard, seen: Callable[[Forward], None], backward: Callable[[], None]) -> None:
        self.trained: Forward | None = None
        self.empty = False  # a forward of an empty batch was seen
        self.autocast: torch.dtype | None = None  # in which gradients are rounded, if not in that of the weights
        self._guard, self._seen, self._backward = guard, seen, backward
        self._graph: Graph | None = None
        self._problem: Exception | None = None
        self._mode: bool | None = None  # in which the graph was recorded
        self._candidate: Forward | None = None
        self._follower: Follower | None = None
        self._task = -1
        self._done = False

    @property
    def finite(self) -> bool:
        """False: a forward has trained, by gradients that were all NaN or infinite until now."""
        return self.trained is None or self.trained.finite

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._candidate = None
        if self._done or self._follower is not None or not _may_train(model):
            return
        if self.trained is None or not self.finite:
            generators = states({p.device for p in model.parameters()})
            self._candidate = Forward(args, kwargs, model.training, generators=generators)
            # What is compiled has no calls to follow, and would be compiled anew for the mode that follows them.
            if self._mode != model.training and not has_compiled_parts(model):
                follower = Follower(model, args, kwargs)
                follower.__enter__()  # type: ignore[no-untyped-call]
                self._follower = follower

    def after(self, model: nn.Module, output: Any) -> None:
        forward, self._candidate = self._candidate, None
        if follower := self._stop_following():
            self.autocast = self.autocast or follower.autocast
        if forward is None or output is None:
            return
        outputs = tensors_of(output)
        if outputs and not any(t.numel() for t in outputs):
            self.empty = True
            return
        if follower is not None:
            self._mode, self._graph, self._problem = forward.training, None, None
            try:
                self._graph = follower.graph(output)
            except Exception as error:
                self._problem = error
        forward.graph, forward.problem = self._graph, self._problem
        self._seen(forward)
        self.autocast = self.autocast or _autocast(model)
        for i, t in enumerate(outputs):
            forward.outputs.append(t.detach())
            forward.cotangents.append(None)
            if t.requires_grad:
                t.register_hook(lambda gradient, i=i: self._guard(self._received, forward, i, gradient))

    def _stop_following(self) -> Follower | None:
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.leave()
        return follower

    def _received(self, forward: Forward, i: int, gradient: Tensor) -> None:
        if self._done:
            return
        if self.trained is None or self.trained is forward or not self.trained.finite:
            self.trained = forward
            before = forward.cotangents[i]  # another backward of the same outputs: the loss is the sum of both
            forward.cotangents[i] = gradient.detach() if before is None else before + gradient.detach()
            forward.finite = forward.finite and bool(torch.isfinite(gradient).all())
            task = backward_id()
            if task != self._task:
                self._task = task
                # Twice: behind those who have work to do at the end of the backward too, as wrappers have.
                at_end_of_backward(lambda: at_end_of_backward(lambda: self._guard(self._backward)))

    def stale(self) -> frozenset[str]:
        """The parameters whose gradient is older than the forward that trained."""
        return frozenset()

    def again(self) -> None:
        """Keep the next forward that trains."""
        self._done, self.trained = False, None

    def forget(self) -> None:
        """Let go of the tensors, keep watching no more."""
        self._done, self._graph = True, None
        self.trained = Forward((), {}, True)


def _may_train(model: nn.Module) -> bool:
    return torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters())


def _autocast(model: nn.Module) -> torch.dtype | None:
    """The dtype in which operators of the model run here, if torch chooses it."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
