"""`Rule`: what a step of one optimizer does to a parameter, in two halves: a wrong step is told from a wrong state.

    advance   state, gradient                 -> the state after the step
    update    state after the step, gradient  -> u, in theta+ = decay * theta - rate * u

A formula is written once, with the methods of `torch.Tensor`, and evaluated by two arithmetics: on pieces of the
tensors themselves (the laws: the same operations as torch's, in the same order), and on a sample in float64 that
carries a bound on its rounding (the monitor: see rounded.py). Beside the formulas a rule states what else is asked of
an optimizer: how its update answers to the size of the gradient, what it remembers, whether weight decay acts on the
weights by themselves, and which flow its steps follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.optimizers.settings import ParamGroup, decay_factor, number

State = Mapping[str, Tensor]


class Elements(NamedTuple):
    """One parameter ahead of a step, or some elements of one; arrays are read when they are asked for.

    `group`: its settings. `step`: which step this will be for it, 1, 2, ... `weights`, `grad` and `kept` give arrays
    of one shape: the weights, the gradient that the step follows (without weight decay), an entry of the state before
    the step or None, and `blank` a constant. `scalars`: those numbers of the state that the rule names, as tensors.
    `parameter`: the whole, for what mixes elements.
    """

    group: ParamGroup
    step: float
    dtype: torch.dtype
    scalars: Mapping[str, Tensor]
    weights: Callable[[], Tensor]
    grad: Callable[[], Tensor]
    kept: Callable[[str], Tensor | None]
    blank: Callable[[float], Tensor]
    parameter: Tensor

    def number(self, key: str) -> float:
        return number(self.group[key])

    @property
    def betas(self) -> tuple[float, ...]:
        return tuple(map(number, self.group["betas"]))

    @property
    def theta(self) -> Tensor:
        return self.weights()

    @property
    def gradient(self) -> Tensor:
        return self.grad()

    def force(self, coupled: float) -> Tensor:
        """Gradient + coupled * theta."""
        g = self.gradient
        return g.add(self.theta, alpha=coupled) if coupled else g

    def old(self, key: str, start: float = 0.0) -> Tensor:
        """An entry of the state before the step; `start` everywhere if it is not there yet."""
        found = self.kept(key)
        return self.blank(start) if found is None else found


Scalar = Callable[[Elements], float]


def plain_rate(e: Elements) -> float:
    return e.number("lr")


def no_decay(e: Elements) -> float:
    return 1.0


def decoupled_decay(e: Elements) -> float:
    """The factor of the weights under decoupled weight decay."""
    return decay_factor(e.group, e.dtype)


def no_flow(group: ParamGroup) -> dict[str, Any] | str:
    return "it is not worked out"


def _nothing(e: Elements) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Rule:
    """The step of one optimizer. Functions of `Elements` read no array unless they give one.

    formulas   `update(e, after)` -> u, `advance(e)` -> entries of the state after the step, `rate(e)`, `decay(e)` ->
               numbers. What `update` reads of the old state, `advance` reads too.
    `local`    False: u mixes elements, and is asked for whole parameters only.
    `late`     True: u is read off the state after the step alone, which needs less memory.
    `exact`    True: u is linear in the gradients, so symmetries of the loss protect the charges (SGD).
    `clock`    what counts the steps: the entry "step" of a parameter's "state", that of its "group", or nothing, "".
    `attributes`  what the optimizer keeps on itself; formulas find it in the settings.
    `replayed`  False: the settings that `update` reads are themselves changed by the step.
    `package`  where a rule belongs to one that torch does not have: the name of the package, or "" for any.
    `scalars`  numbers that the state keeps for each parameter, and that the formulas read.
    `cancels`  by how much rounding grows where a device works the bias correction out in single precision.
    `power`    how the update answers to the gradient: 1 in proportion, 0 not at all, -1: it is relative to the weights.
    `memory`   settings -> the share of an update that is remembered at the next; nan: not one number.
    `accumulation`  settings, shape -> what the squared length of a step is multiplied by to give what it adds to
               squared lengths in the long run, under white gradients (accumulation.py); None: as `memory` says.
    `unit`     settings, shape -> what a step adds to the squared length of an entry in the long run, at lr 1 and under
               white gradients; nan: that follows the gradients. `fixed`: steps have that size whatever gradients do.
    `recall`   settings -> the share of the mean of squared gradients, by whose root updates are divided, that each step
               keeps; 0: there is no such mean.
    `decoupled`  settings -> True if weight decay shrinks the weights by themselves, instead of joining the gradient.
    `flow`     settings -> what `neuromech.eom.Rule` needs to know, or why no flow is known.
    """

    name: str
    source: str
    settings: tuple[str, ...]
    update: Callable[[Elements, State], Tensor]
    advance: Callable[[Elements], dict[str, Tensor]] = _nothing
    rate: Scalar = plain_rate
    decay: Scalar = no_decay
    local: bool = True
    late: bool = False
    exact: bool = False
    clock: Literal["state", "group", ""] = ""
    attributes: tuple[str, ...] = ()
    replayed: bool = True
    package: str = ""
    scalars: tuple[str, ...] = ()
    cancels: Scalar = no_decay
    power: int = 0
    memory: Callable[[ParamGroup], float] = lambda group: math.nan
    accumulation: Callable[[ParamGroup, Sequence[int]], float] | None = None
    unit: Callable[[ParamGroup, Sequence[int]], float] = lambda group, shape: math.nan
    fixed: bool = False
    recall: Callable[[ParamGroup], float] = lambda group: 0.0
    decoupled: Callable[[ParamGroup], bool] = lambda group: False
    flow: Callable[[ParamGroup], dict[str, Any] | str] = no_flow

    @property
    def key(self) -> str:
        """The name under which records know it."""
        return f"{self.package}.{self.name}" if self.package else self.name

    def told(self, optimizer: Optimizer, group: ParamGroup) -> ParamGroup:
        """The settings of a param group, with what the optimizer keeps on itself."""
        if not self.attributes:
            return group
        return {**group, **{key: getattr(optimizer, key) for key in self.attributes}}

    def step(self, group: ParamGroup, state: Mapping[str, Any]) -> float:
        """Which step the next one is, 1, 2, ...; where nothing counts them: 1, or 2 for any later one."""
        if self.clock:
            return number((state if self.clock == "state" else group).get("step", 0.0)) + 1.0
        return 1.0 + any(isinstance(x, Tensor) for x in state.values())

    def direction(self, e: Elements, after: State | None = None) -> Tensor:
        """u, from the state after the step, or from the one that is foretold."""
        return self.update(e, Foretold(self, e) if after is None else after)


class Foretold(Mapping[str, Tensor]):
    """The state after a step that is not taken yet, worked out if it is asked for."""

    def __init__(self, rule: Rule, e: Elements) -> None:
        self._rule, self._e = rule, e
        self._made: dict[str, Tensor] | None = None

    def _all(self) -> dict[str, Tensor]:
        if self._made is None:
            self._made = self._rule.advance(self._e)
        return self._made

    def __getitem__(self, key: str) -> Tensor:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
