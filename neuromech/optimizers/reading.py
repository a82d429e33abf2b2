"""`Elements` of a real optimizer's parameters: whole ones, and flat pieces of them as a window shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.optimizers.rule import Elements, Rule
from neuromech.optimizers.settings import ParamGroup, followed

Window = Callable[[Tensor], Tensor]
"""Takes a tensor of a parameter's shape to a flat piece of it: the same piece for every tensor."""


def whole(t: Tensor) -> Tensor:
    return t


class ParameterReader:
    """One parameter of an optimizer ahead of a step: `scale` as from `grad_scale`.

    State and settings are looked up anew whenever they are read, so that the same reader gives what a step has left of
    them; the number of the step and the scalars are those ahead of it.
    """

    def __init__(self, rule: Rule, optimizer: Optimizer, group: ParamGroup, p: Tensor, scale: Tensor | None) -> None:
        self._rule, self._optimizer, self._group, self._p = rule, optimizer, group, p
        state = self.state
        self._step = rule.step(group, state)
        self._scalars = {key: state[key] for key in rule.scalars if key in state}
        self._followed = followed(rule.told(optimizer, group), scale)

    @property
    def state(self) -> Mapping[str, Any]:
        state: Mapping[str, Any] = self._optimizer.state.get(self._p, {})
        return state

    def elements(self, w: Window = whole) -> Elements:
        p, follow = self._p, self._followed

        def gradient() -> Tensor:
            assert p.grad is not None
            return follow(w(p.grad))

        def kept(key: str) -> Tensor | None:
            found = self.state.get(key)
            return w(found) if isinstance(found, Tensor) else None

        told = self._rule.told(self._optimizer, self._group)
        return Elements(
            told,
            self._step,
            p.dtype,
            self._scalars,
            lambda: w(p),
            gradient,
            kept,
            lambda x: torch.full_like(w(p), x),
            p,
        )

    def after(self, w: Window = whole) -> Mapping[str, Tensor]:
        """The state as it is now."""
        return _Windowed(self.state, w)


class _Windowed(Mapping[str, Tensor]):
    def __init__(self, state: Mapping[str, Any], w: Window) -> None:
        self._state, self._w = state, w

    def __getitem__(self, key: str) -> Tensor:
        return self._w(self._state[key])

    def __iter__(self) -> Any:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)
