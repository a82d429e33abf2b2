"""A model whose own forward is not what trains: its parts are called one by one, as `training_step` calls them.

What the parts compute is written down into one graph, as they are called. A tensor that comes from one part and goes
into the next as it is joins them; one that other code has made of it is an input of the next, and what a part returns
is an output, with the gradient that it receives. So nothing is claimed across code that was not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuromech.compat import has_compiled_parts
from neuromech.detect import JointFollower, tensors_of
from neuromech.errors import CaptureError
from neuromech.hooks.backward import Mark, mark
from neuromech.hooks.forward import Forward, ForwardWatch
from neuromech.hooks.guard import Guard
from neuromech.params import named_parameters

LATE = 8  # calls whose inputs come from parts that ran before these were watched, as those of the first step do
CALLS = 64  # of parts before the first backward: more is an evaluation with gradients, and is not followed on


def is_never_called(model: nn.Module) -> bool:
    """True for a model without a forward of its own: a container, or a `LightningModule` with a `training_step`."""
    forward = type(model).forward
    home = getattr(forward, "__module__", None) or ""  # generated code, as of torch.fx and torch.export, has none
    return forward is nn.Module.forward or home.split(".")[0] in ("lightning", "pytorch_lightning")


class PartsWatch(ForwardWatch):
    """As `ForwardWatch`, for the outermost calls of parts of `model`, until the first backward through one of them."""

    def __init__(
        self, model: nn.Module, guard: Guard, seen: Callable[[Forward], None], backward: Callable[[], None]
    ) -> None:
        super().__init__(guard, seen, backward)
        self._model = model
        self._joint: JointFollower | None = None
        self._forward: Forward | None = None
        self._made: dict[Any, None] = {}  # the nodes of autograd that end what a part returned
        self._calls = 0
        self._late = 0
        self._earlier: dict[str, Mark] = {}

    def stale(self) -> frozenset[str]:
        now = self._gradients()
        return frozenset(name for name, at in self._earlier.items() if now.get(name) == at)

    def _gradients(self) -> dict[str, Mark]:
        return {name: mark(p.grad) for name, p in named_parameters(self._model).items() if p.grad is not None}

    def before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._done or self.trained is not None or not torch.is_grad_enabled() or has_compiled_parts(model):
            return
        if self._joint is None or self._calls >= CALLS:
            self._joint, self._forward = JointFollower(self._model), Forward((), {}, self._model.training)
            self._made, self._calls, self._earlier = {}, 0, self._gradients()
        self._calls += 1
        try:
            self._joint.take_in((args, kwargs), set(self._made))
        except CaptureError:
            self._joint, self._late = None, self._late + 1
            if self._made or self._late > LATE:
                raise
            return
        self._joint.__enter__()  # type: ignore[no-untyped-call]

    def after(self, model: nn.Module, output: Any) -> None:
        follower, forward = self._joint, self._forward
        if follower is None or forward is None or not follower.follows():
            return
        follower.leave()
        self.autocast = self.autocast or follower.autocast
        if output is None:
            return
        for t in tensors_of(output):
            i = len(forward.outputs)
            follower.give_out(t, set(self._made))
            forward.outputs.append(t.detach())
            forward.cotangents.append(None)
            if t.requires_grad:
                self._made[t.grad_fn] = None
                t.register_hook(lambda gradient, i=i: self._guard(self._received, forward, i, gradient))

    def _received(self, forward: Forward, i: int, gradient: Tensor) -> None:
        if forward.graph is None and forward.problem is None and self._joint is not None:
            try:
                forward.graph = self._joint.joint()
            except Exception as error:
                forward.problem = error
            self._seen(forward)
            self._joint, self._made = None, {}
        super()._received(forward, i, gradient)

    def again(self) -> None:
        super().again()
        self._joint, self._forward, self._calls = None, None, 0

    def forget(self) -> None:
        super().forget()
        self._joint, self._forward, self._made = None, None, {}
