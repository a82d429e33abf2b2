"""The facts of one training step, read once: what every check of the monitor judges.

A `Step` is read twice: ahead of the optimizer's step, its gradients ready, and behind it. Checksums tell whether a
tensor is what it was, bit for bit; a fixed sample of its elements tells what happened to it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.dynamics import Reading
from neuromech.hooks import Mark, marks
from neuromech.monitor.checksum import checksums
from neuromech.monitor.sample import Sample, differing
from neuromech.monitor.torque import Charges, TorqueJudge, TorqueMeter, Torques, Total
from neuromech.optimizers import grad_scale, plain, skips
from neuromech.symmetry import Symmetry

CLOCK = "step"
Entry = tuple[str, str]  # parameter, entry of its state
ForwardKind = tuple[bool, bool]  # do the inputs ask for a gradient, is the model in training


class Group(NamedTuple):
    """A param group: its settings, with numbers for tensors; its parameters, and those of them that have a gradient."""

    settings: dict[str, Any]
    names: tuple[str, ...]
    moving: tuple[str, ...]
    scheduled: bool  # a scheduler of torch writes to it


class OptimizerState(NamedTuple):
    """The state that one optimizer keeps, by parameter; `clocks`: how many steps each state counts."""

    tensors: dict[Entry, Tensor]
    clocks: dict[str, float]


class Backward(NamedTuple):
    """The gradients as a backward left them."""

    names: tuple[str, ...]
    marks: dict[str, Mark]
    sums: Tensor
    elements: Tensor
    torques: Torques
    judged: bool  # the symmetries were known
    stepped: bool  # a step was taken between the forward and this backward
    weights: dict[str, Mark]  # where they lay, and how often they had been written to
    theta: Tensor  # sampled weights
    kind: (
        ForwardKind | None
    )  # of its forward; None once an optimizer of other parameters has stepped: it has served that one
    doubled: Tensor | None = None  # true if it added, bit for bit, what was there: one loss sent back twice
    followed: Tensor | None = None  # true if gradients of a backward of its kind waited for a step, at the same weights


@dataclass(frozen=True, eq=False)
class Step:
    """What is known of step `number` (1, 2, ...) of `optimizer`; a parameter is known by its name.

    `weight_sums`, `state_sums`: checksums. `theta`, `gradient`: sampled elements, of all weights and of the gradients
    that move them, float64. `eps`: of the coarsest number format in the run.
    """

    number: int
    optimizer: Optimizer
    groups: tuple[Group, ...]
    state: OptimizerState
    weight_sums: dict[str, int]
    weight_marks: dict[str, Mark]
    state_sums: dict[Entry, int]
    theta: dict[str, Tensor]
    sampled: Tensor  # the same, end to end
    lr: float
    eps: float
    # ahead of the step only
    grads: Mapping[str, Tensor]
    grad_sums: Mapping[str, int]
    gradient: Mapping[str, Tensor]
    changed: Mapping[str, tuple[int, int]]  # checksums, before and now, of gradients that are not the backward's
    torques: Torques | None = None
    backward: Backward | None = None
    fresh: bool = True  # no step has used these gradients yet
    elsewhere: tuple[str, ...] = ()  # parameters that had other values when the gradients were taken
    exchanged: tuple[str, ...] = ()  # those of them in whose place a forward had other tensors
    # behind the step only
    ahead: Step | None = None
    reading: Reading | None = None

    @property
    def held(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group.names)

    @property
    def moving(self) -> tuple[str, ...]:
        """The parameters that the optimizer holds and that have a gradient, in order of their names."""
        return tuple(sorted(name for group in self.groups for name in group.moving))

    @property
    def skipped(self) -> bool:
        """True if a fused optimizer under `GradScaler` will not take this step."""
        return skips(self.optimizer)


class Left(NamedTuple):
    """What is to be found unchanged at the next step of `optimizer`."""

    optimizer: Optimizer
    weight_sums: dict[str, int]
    weight_marks: dict[str, Mark]
    theta: dict[str, Tensor]
    sampled: Tensor
    state_sums: dict[Entry, int]
    state: OptimizerState


class StepReader:
    """Reads the facts of the steps over `params`, and of the backwards between them."""

    def __init__(self, params: Mapping[str, Tensor], sample: Sample) -> None:
        self.params, self.sample = dict(params), sample
        self.names: dict[Tensor, str] = {p: n for n, p in self.params.items()}
        self.backward: Backward | None = None
        self.meter = TorqueMeter((), self.params)
        self.judge = TorqueJudge(self.meter)
        self._rows = torch.zeros(0, dtype=torch.long)  # of the members, in a reading
        self._charges: tuple[dict[str, Mark], Charges] | None = None  # of the weights that have these marks
        self._eps = 0.0
        self._known = False
        self._lent = True  # readings have the charges of all members
        self._fresh = True
        self._forwards = 0
        self._used: dict[str, tuple[Mark, int]] = {}  # gradients that a step has used: where they lay, their checksums
        self._counts = dict(zip(self.params, sample.counts(list(self.params)), strict=True))
        self._left: dict[str, Mark] | None = None  # the weights as they were read behind the last step

    def arm(self, symmetries: Sequence[Symmetry], slices: Sequence[slice], total: Total | None, every: bool) -> None:
        """The symmetries are known, with their rows in a reading, of `every` member; `total`: see `TorqueMeter`."""
        self._lent = every
        self.meter, self._known = TorqueMeter(symmetries, self.params, total), True
        self.judge = TorqueJudge(self.meter)
        if symmetries:
            self._rows = torch.cat([torch.arange(s.start, s.stop) for s in slices])

    @property
    def device(self) -> torch.device:
        return next(iter(self.params.values())).device

    def gradients(self) -> dict[str, Tensor]:
        return {name: g for name, p in self.params.items() if (g := p.grad) is not None}

    def finished(self, stepped: bool, forwards: int, kind: ForwardKind) -> None:
        """A backward has ended; `forwards`: how many of them there were so far, the last one of this `kind`."""
        grads, old = self.gradients(), self.backward if self._fresh else None
        names = tuple(grads)
        self._fresh = True
        elements, theta, here = self.sample.read(names, grads), self._sampled(), marks(self.params)
        once, self._forwards = forwards == self._forwards, forwards
        comparable = old is not None and old.names == names
        doubled = (elements == 2 * old.elements).all() & elements.any() if comparable and once and old else None
        again = old if old is not None and not once and old.kind == kind else None
        followed = (again.theta == theta).all() & again.torques.gradients.isfinite().all() if again else None
        sums, torques = checksums(list(grads.values())), self._measure(grads, here)
        of = self._known, stepped, here, theta, kind
        self.backward = Backward(names, marks(grads), sums, elements, torques, *of, doubled, followed)

    def served(self) -> None:
        """An optimizer of other parameters has stepped: ours may be cleared now, and nothing is lost."""
        if self.backward is not None:
            self.backward = self.backward._replace(kind=None)

    def forget(self) -> None:
        """No step will take the gradients that were seen last."""
        self.backward = None

    @property
    def waiting(self) -> Backward | None:
        """What the last backward left, if no step has used it yet."""
        return self.backward if self._fresh else None

    def ahead(self, optimizer: Optimizer, number: int, eps: float, exchanged: tuple[str, ...] = ()) -> Step:
        """The gradients of a step are ready. `exchanged`: parameters in whose place a forward had other tensors."""
        grads, groups, state = self.gradients(), self._groups(optimizer), state_of(optimizer, self.names)
        self._eps, here = eps, marks(self.params)
        weights, entries, gradients = self._checksums(self.params, state.tensors, grads)
        theta = self._sampled()
        moving = [name for group in groups for name in group.moving]
        scale = grad_scale(optimizer)
        raw = self.backward
        order = list(raw.names) if raw is not None and set(raw.names) == set(moving) else moving
        elements = self.sample.read(order, grads)
        sampled = elements / (1.0 if scale is None else float(scale))
        seen = {n: (m, gradients[n]) for n, m in marks(grads).items()}
        # Once a step has been taken with gradients, they are no longer those at the weights.
        fresh = self._fresh or (self.backward is None and not seen.items() & self._used.items())
        self._fresh, self._used = False, seen
        changed, elsewhere = _changed(raw, set(moving), gradients), self._elsewhere(raw, theta)
        if raw is not None:
            there = elements if order is not moving else self.sample.read(raw.names, grads)
            turned = differing(raw.names, [self._counts[n] for n in raw.names], raw.elements, there)
            changed |= {n: (gradients[n],) * 2 for n in turned if n in moving and n not in changed}
        same = raw is not None and not changed and not elsewhere and set(moving) <= set(raw.names)
        # Measuring together is done always or never: what one process has seen the others may have not.
        again = self.meter.shared or not same or raw is None or raw.judged != self._known
        measured = self._measure(grads, here) if again or raw is None else raw.torques
        if raw is not None and same:
            self.backward = raw._replace(torques=measured, judged=self._known)
        return Step(
            number,
            optimizer,
            groups,
            state,
            weights,
            here,
            entries,
            self._split(theta),
            theta,
            _rate(optimizer),
            eps,
            grads,
            gradients,
            dict(zip(order, sampled.split([self._counts[n] for n in order]), strict=True)),
            changed,
            measured,
            raw,
            fresh,
            tuple(dict.fromkeys((*elsewhere, *exchanged))),
            exchanged,
        )

    def behind(self, ahead: Step, reading: Reading | None) -> Step:
        """The step is done."""
        optimizer = ahead.optimizer
        state = state_of(optimizer, self.names)
        weights, entries, _ = self._checksums(self.params, state.tensors, {})
        theta, here = self._sampled(), marks(self.params)
        self._left = here
        if reading is not None and self._known and self._lent:
            rows = self._rows.to(reading.observed.device)
            self._charges = here, Charges(reading.observed[rows], reading.scale[rows])
        return Step(
            ahead.number,
            optimizer,
            self._groups(optimizer),
            state,
            weights,
            here,
            entries,
            self._split(theta),
            theta,
            _rate(optimizer),
            ahead.eps,
            {},
            {},
            {},
            {},
            ahead=ahead,
            reading=reading,
        )

    @property
    def moved(self) -> bool:
        """Has code written to weights since they were read behind the last step?"""
        return self._left is not None and marks(self.params) != self._left

    def look(self, optimizer: Optimizer) -> Left:
        """The weights as they are, and what `optimizer` keeps: as the end of its step is what was read there before."""
        state = state_of(optimizer, self.names)
        weights, entries, _ = self._checksums(self.params, state.tensors, {})
        theta, self._left = self._sampled(), marks(self.params)
        return Left(optimizer, weights, self._left, self._split(theta), theta, entries, state)

    def _measure(self, grads: Mapping[str, Tensor], here: dict[str, Mark]) -> Torques:
        """The torques of gradients; with the charges that the instrument has measured, if these are of our weights."""
        if self._charges is not None and self._charges[0] == here and not self.meter.shared:
            found = self.meter.quick(self.params, grads, self._charges[1])
            if not self.judge.suspects(found, self._eps):
                return found
        return self.meter(self.params, grads)

    def _elsewhere(self, raw: Backward | None, theta: Tensor) -> tuple[str, ...]:
        """The parameters that had other values at the backward, by their samples: writes may have been undone."""
        if raw is None:
            return ()
        return tuple(differing(list(self._counts), list(self._counts.values()), raw.theta, theta))

    def _groups(self, optimizer: Optimizer) -> tuple[Group, ...]:
        out = []
        for group in optimizer.param_groups:
            names = tuple(self.names[p] for p in group["params"] if p in self.names)
            moving = tuple(n for n in names if self.params[n].grad is not None)
            out.append(Group(plain(group), names, moving, "initial_lr" in group))
        return tuple(out)

    def _checksums(self, *kinds: Mapping[Any, Tensor]) -> list[dict[Any, int]]:
        """Of all at once: the device is waited for one time."""
        sums = iter(checksums([t for kind in kinds for t in kind.values()]).tolist())
        return [{key: next(sums) for key in kind} for kind in kinds]

    def _sampled(self) -> Tensor:
        return self.sample.read_kept(self.params)

    def _split(self, theta: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._counts, theta.split(list(self._counts.values())), strict=True))


def state_of(optimizer: Optimizer, names: Mapping[Tensor, str]) -> OptimizerState:
    """The state that `optimizer` keeps for the parameters `names`."""
    tensors: dict[Entry, Tensor] = {}
    clocks: dict[str, Any] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            for key, x in optimizer.state[p].items() if p in names and p in optimizer.state else ():
                if key == CLOCK:
                    clocks[names[p]] = x
                elif isinstance(x, Tensor):
                    tensors[names[p], key] = x
    return OptimizerState(tensors, dict(zip(clocks, _numbers(list(clocks.values())), strict=True)))


def clocks_off(expected: Mapping[str, float], found: Mapping[str, float]) -> tuple[tuple[str, float, float], ...]:
    """(parameter, steps that its state should count, steps it counts), where these differ."""
    return tuple((name, t, found[name]) for name, t in expected.items() if name in found and found[name] != t)


def _changed(backward: Backward | None, moving: Collection[str], now: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    if backward is None:
        return {}
    before = zip(backward.names, backward.sums.tolist(), strict=True)
    return {n: (x, now[n]) for n, x in before if n in moving and n in now and now[n] != x}


def _rate(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0].get("lr", 0.0))


def _numbers(values: Sequence[Any]) -> list[float]:
    if values and all(isinstance(x, Tensor) for x in values):
        return [float(x) for x in torch.stack([x.detach().reshape(()) for x in values]).tolist()]
    return [float(x) for x in values]
