"""`register` of earlier releases: it teaches the laws one optimizer, by a function of what is about to move.

Deprecated: `neuromech.register_optimizer` teaches laws, monitor, flows and report at once. Goes in the next release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.dynamics.forms.vectors import Computed
from neuromech.errors import warn
from neuromech.optimizers import Window, decay_factor, followed, number, takes_step_of

_TAUGHT: dict[type[Optimizer] | str, Callable[[Moving], Update]] = {}


class Update(NamedTuple):
    """theta+ = decay * theta - rate * u, with u computed when it is read; `late`: after the step."""

    decay: float
    rate: float
    direction: Computed
    late: bool = False


class Moving(NamedTuple):
    """What a rule is given: the param group, the state of the parameter (empty before its first step; looked up anew at
    every call), the parameter, and the gradient that the step follows, without weight decay."""

    group: Mapping[str, Any]
    state: Callable[[], Mapping[str, Any]]
    parameter: Tensor
    gradient: Callable[[Window], Tensor]

    @classmethod
    def of(cls, optimizer: Optimizer, group: Mapping[str, Any], p: Tensor, scale: Tensor | None) -> Moving:
        g, follow = p.grad, followed(group, scale)
        assert g is not None
        return cls(group, lambda: optimizer.state.get(p, {}), p, lambda w: follow(w(g)))

    def number(self, key: str) -> float:
        return number(self.group[key])

    @property
    def step(self) -> float:
        """Which step this will be for the parameter: 1, 2, ..."""
        return number(self.state().get("step", 0.0)) + 1.0

    @property
    def decay(self) -> float:
        """The factor of the weights under decoupled weight decay."""
        return decay_factor(self.group, self.parameter.dtype)

    def kept(self, key: str, w: Window) -> Tensor:
        """A piece of a buffer, before the step; zeros if it is not there yet."""
        found = self.state().get(key)
        return w(found) if isinstance(found, Tensor) else torch.zeros_like(w(self.parameter))

    def force(self, w: Window, coupled: float) -> Tensor:
        """Gradient + coupled * theta."""
        g = self.gradient(w)
        return g.add(w(self.parameter), alpha=coupled) if coupled else g


def register(optimizer: type[Optimizer] | str, rule: Callable[[Moving], Update]) -> None:
    """Deprecated: teach the laws, and nothing else, an optimizer, given as its class or the name of its class.

    `rule(moving) -> Update` is asked for every parameter before every step.
    """
    message = "neuromech.dynamics.register teaches the laws alone: use neuromech.register_optimizer(optimizer, rule)"
    warn(message, "deprecated", DeprecationWarning, "neuromech.dynamics.register is deprecated")
    _TAUGHT[optimizer] = rule


def taught(optimizer: Optimizer) -> Callable[[Moving], Update] | None:
    """What `register` was given for an optimizer."""
    for cls in type(optimizer).__mro__ if _TAUGHT else ():
        if cls in _TAUGHT and takes_step_of(optimizer, cls):
            return _TAUGHT[cls]
    return _TAUGHT.get(type(optimizer).__name__)
