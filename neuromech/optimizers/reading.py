"""`Elements` of a real optimizer's parameters: whole ones, and flat pieces of them as a window shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.optimizers.rule import Elements, Rule
from neuromech.optimizers.settings import Group, followed, number

Window = Callable[[Tensor], Tensor]
"""Takes a tensor of a parameter's shape to a flat piece of it: the same piece for every tensor."""


def whole(t: Tensor) -> Tensor:
    return t


class Reader:
    """One parameter of an optimizer ahead of a step: `scale` as from `grad_scale`.

    The state is looked up anew whenever it is read, so that the same reader gives what a step has left of it.
    """

    def __init__(self, rule: Rule, optimizer: Optimizer, group: Group, p: Tensor, scale: Tensor | None) -> None:
        self._optimizer, self._p = optimizer, p
        state = self.state
        if rule.clock:
            step = number(state.get("step", 0.0)) + 1.0
        else:
            step = 2.0 if any(isinstance(x, Tensor) for x in state.values()) else 1.0
        scalars = {key: state[key] for key in rule.scalars if key in state}
        self._facts = group, step, p.dtype, scalars
        self._followed = followed(group, scale)

    @property
    def state(self) -> Mapping[str, Any]:
        return self._optimizer.state.get(self._p, {})

    def elements(self, w: Window = whole) -> Elements:
        p, follow = self._p, self._followed

        def gradient() -> Tensor:
            assert p.grad is not None
            return follow(w(p.grad))

        def kept(key: str) -> Tensor | None:
            found = self.state.get(key)
            return w(found) if isinstance(found, Tensor) else None

        return Elements(*self._facts, lambda: w(p), gradient, kept, lambda x: torch.full_like(w(p), x), p)

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
