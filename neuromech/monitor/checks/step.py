"""Did a step do what its settings say? Reads a sample of elements ahead of it and behind it, and takes it once more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.compat import is_sharded, most_repeated
from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.evidence import Evidence
from neuromech.monitor.facts import Group, OptimizerState, Step, clocks_off
from neuromech.monitor.replay import Ahead, Difference, ahead, replay
from neuromech.monitor.sample import Sample
from neuromech.monitor.whole import WholeReplay
from neuromech.optimizers import Elements, Rounded, Rule, grad_scale, inherited_rule, number, rule_of


class _Replay(NamedTuple):
    """What parameters that move alike are to be replayed from: the optimizer's own tensors will be written to."""

    names: tuple[str, ...]
    ahead: Ahead


WINDOW = 2  # steps
SAME = 1e-3  # two rates that are one: those of a schedule differ from step to step
NEARLY_ALL, TAIL = 0.9, 0.1


class StepCheck:
    """Replays the steps of any optimizer whose rule is known."""

    def __init__(self, params: Mapping[str, Tensor], sample: Sample) -> None:
        self._params, self._sample = params, sample
        self._counts = dict(zip(params, sample.counts(list(params)), strict=True))
        self._replays: list[_Replay] = []
        self._whole: WholeReplay | None = None
        self._shares: deque[float] = deque(maxlen=WINDOW)
        self._rate = 0.0  # the largest so far
        self._inherited = False  # the rule is that of a class whose step another one has replaced
        self._rates: WeakKeyDictionary[Optimizer, float] = WeakKeyDictionary()  # of its last step, over the one set

    def before(self, step: Step) -> Evidence:
        twice = len(set(step.held)) < len(step.held)
        rule = None if step.skipped or twice else rule_of(step.optimizer)
        self._inherited = rule is None and not (step.skipped or twice)
        if self._inherited:
            rule = inherited_rule(step.optimizer)
        self._replays, self._whole = [], None
        if rule is not None and rule.local and rule.replayed:
            self._replays = list(self._prepared(rule, step))
        elif rule is not None and rule.replayed:
            self._whole = self._in_turn(rule, step)
        return NOTHING

    def after(self, step: Step) -> Evidence:
        assert step.ahead is not None
        off: list[Difference] = []
        moves = stays = 0.0
        for names, before in self._replays:
            theta = torch.cat([step.theta[n] for n in names])
            counts = [self._counts[n] for n in names]
            entry = partial(self._entry, names=names, found=step.state)
            found, meant, lost = replay(before, names, counts, theta, entry)
            off, moves, stays = off + found, moves + meant, stays + lost
        if self._whole is not None:
            off += self._whole.differences(step.theta, step.state)
        self._replays, self._whole = [], None
        if self._inherited:
            off, moves = self._at_one_rate(off, step.optimizer), 0.0
        counted = {n: t + 1 for n, t in step.ahead.state.clocks.items() if n in step.ahead.gradient}
        clock = () if step.ahead.skipped else clocks_off(counted, step.state.clocks)
        return Evidence(steps=tuple(off), clock=clock, lr=step.lr, lost_updates=self._lost(moves, stays, step))

    def _at_one_rate(self, off: Sequence[Difference], optimizer: Optimizer) -> list[Difference]:
        """What a step of its own may do is not known: but one rate for all, the same as before, is another rate."""
        rates, last = [1.0 + d.factor for d in off], self._rates.pop(optimizer, None)
        if not off or not all(d.what == "weight" and d.by == "step" for d in off) or not _same(rates):
            return []
        self._rates[optimizer] = rates[0]
        return list(off) if last is not None and _same([last, rates[0]]) else []

    def _lost(self, moves: float, stays: float, step: Step) -> float:
        """The share of the updates of the last steps that rounding swallowed, where it is nearly all of them.

        Not at the end of a schedule that goes to zero, where little is meant to move.
        """
        self._rate = max(self._rate, abs(step.lr))
        if not moves or abs(step.lr) < TAIL * self._rate:
            return 0.0
        self._shares.append(stays / moves)
        share = sum(self._shares) / len(self._shares)
        return share if len(self._shares) == self._shares.maxlen and share > NEARLY_ALL else 0.0

    def _in_turn(self, rule: Rule, step: Step) -> WholeReplay | None:
        """An update that mixes elements is taken once more for one tensor a step, each in its turn."""
        moving = [(group, n) for group in step.optimizer.param_groups for n in self._of(group, step)]
        if not moving:
            return None
        group, name = moving[step.number % len(moving)]
        if is_sharded(self._params[name]):
            return None  # it mixes elements of several processes
        return WholeReplay(rule, step.optimizer, group, name, self._params[name], self._sample)

    def _of(self, group: Mapping[str, Any], step: Step) -> list[str]:
        held = {id(p) for p in group["params"]}
        return [n for n in step.gradient if id(self._params[n]) in held]

    def _prepared(self, rule: Rule, step: Step) -> Iterator[_Replay]:
        found = step.state
        begun = {name for name, _ in found.tensors}
        for group in step.groups:
            alike: dict[tuple[Any, ...], list[str]] = {}
            for n in group.moving:
                t = 1.0 + (n in begun)
                if rule.clock:
                    t = 1.0 + (found.clocks.get(n, 0.0) if rule.clock == "state" else group.settings.get("step", 0.0))
                scalars = (number(found.tensors[n, key]) for key in rule.scalars if (n, key) in found.tensors)
                alike.setdefault((t, self._params[n].dtype, _additions(step.grads[n]), *scalars), []).append(n)
            for (t, *_), names in alike.items():
                yield _Replay(tuple(names), self._ahead(rule, group, names, t, step))

    def _ahead(self, rule: Rule, group: Group, names: Sequence[str], t: float, step: Step) -> Ahead:
        found, first = step.state, self._params[names[0]]
        dtype = self._coarsest(names, found)
        gradient = torch.cat([step.gradient[n] for n in names])
        theta = torch.cat([step.theta[n] for n in names])
        settings = rule.told(step.optimizer, group.settings)
        followed = Rounded.exactly(-gradient if settings.get("maximize") else gradient, dtype)
        if grad_scale(step.optimizer) is not None:
            followed = followed.mul(1.0)  # a fused step divides, which rounds

        @cache
        def kept(key: str) -> Rounded | None:
            there = any((n, key) in found.tensors for n in names)
            return Rounded.exactly(self._entry(key, names, found), dtype) if there else None

        e = Elements(
            settings,
            t,
            dtype,
            {key: found.tensors[names[0], key].clone() for key in rule.scalars if (names[0], key) in found.tensors},
            cast(Any, lambda: Rounded.exactly(theta, dtype)),
            cast(Any, lambda: followed),
            cast(Any, kept),
            cast(Any, lambda x: Rounded.exactly(torch.full_like(theta, x), dtype)),
            first,
        )
        return ahead(rule, e, gradient, _additions(step.grads[names[0]]))

    def _coarsest(self, names: Sequence[str], found: OptimizerState) -> torch.dtype:
        """Of weights and their state: averages may be kept in another format than the weights."""
        kept = [t.dtype for (n, _), t in found.tensors.items() if n == names[0] and t.is_floating_point() and t.ndim]
        return max([self._params[names[0]].dtype, *kept], key=lambda kind: torch.finfo(kind).eps)

    def _entry(self, key: str, names: Sequence[str], found: OptimizerState) -> Tensor:
        return self._sample.read(names, {n: found.tensors[n, key] for n in names if (n, key) in found.tensors})


def _same(rates: Sequence[float]) -> bool:
    return max(rates) - min(rates) <= SAME * max(map(abs, rates))


def _additions(g: Tensor) -> int:
    """How many numbers an element of a gradient is made of while it is added to a weight: of a sparse one, many."""
    if not g.is_sparse or g.is_coalesced():
        return 1
    # Repeated rows are added one by one, in an order that is not known.
    return max(most_repeated(g), 1)
