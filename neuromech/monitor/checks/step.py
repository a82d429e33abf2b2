"""Did a step do what its settings say? Reads a sample of elements ahead of it and behind it, and takes it once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.evidence import Evidence
from neuromech.monitor.facts import Group, OptimizerState, Step, clocks_off
from neuromech.monitor.replay import After, Before, Difference, replay
from neuromech.monitor.rules import Rule, rule_of
from neuromech.monitor.sample import Sample


@dataclass(frozen=True)
class _Replay:
    """What a group is to be replayed from: the optimizer's own tensors will be written to."""

    settings: dict[str, Any]
    names: tuple[str, ...]
    before: Before


class StepCheck:
    """Replays the steps of any optimizer whose rule is known."""

    def __init__(self, params: Mapping[str, Tensor], sample: Sample) -> None:
        self._params, self._sample = params, sample
        self._counts = dict(zip(params, sample.counts(list(params)), strict=True))
        self._rule: Rule | None = None
        self._replays: list[_Replay] = []

    def before(self, step: Step) -> Evidence:
        self._rule = rule = None if step.skipped else rule_of(step.optimizer)
        self._replays = [self._prepared(rule, group, step) for group in step.groups if group.moving] if rule else []
        return NOTHING

    def after(self, step: Step) -> Evidence:
        assert step.ahead is not None
        off: list[Difference] = []
        for group in self._replays if self._rule else ():
            assert self._rule is not None
            state = {key: self._entry(key, group.names, step.state) for key in self._rule.state(group.settings)}
            after = After(torch.cat([step.theta[n] for n in group.names]), state)
            counts = [self._counts[n] for n in group.names]
            off += replay(self._rule, group.settings, group.names, counts, group.before, after)
        self._replays = []
        counted = {n: t + 1 for n, t in step.ahead.state.clocks.items() if n in step.ahead.gradient}
        clock = () if step.ahead.skipped else clocks_off(counted, step.state.clocks)
        return Evidence(steps=tuple(off), clock=clock, lr=step.lr)

    def _prepared(self, rule: Rule, group: Group, step: Step) -> _Replay:
        names, found = group.moving, step.state
        gradient = torch.cat([step.gradient[n] for n in names])
        count = torch.tensor([self._counts[n] for n in names], device=gradient.device)

        def spread(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=count.device).repeat_interleave(count)

        state = {key: self._entry(key, names, found) for key in rule.state(group.settings)}
        if rule.clock:
            t = spread([found.clocks.get(n, 0.0) + 1 for n in names])
        else:
            t = spread([2.0 if any((n, key) in found.tensors for key in state) else 1.0 for n in names])
        kinds = [torch.finfo(self._params[n].dtype) for n in names]
        tiny = spread([k.tiny for k in kinds])
        eps = spread([k.eps * _additions(step.grads[n]) for k, n in zip(kinds, names, strict=True)])
        here = torch.cat([step.theta[n] for n in names])
        return _Replay(group.settings, names, Before(here, gradient, state, t, eps, tiny))

    def _entry(self, key: str, names: Sequence[str], found: OptimizerState) -> Tensor:
        return self._sample.read(names, {n: found.tensors[n, key] for n in names if (n, key) in found.tensors})


def _additions(g: Tensor) -> int:
    """How many numbers an element of a gradient is made of while it is added to a weight: of a sparse one, many."""
    if not g.is_sparse or g.is_coalesced():
        return 1
    # Repeated rows are added one by one, in an order that is not known.
    return int(g._indices().unique(dim=1, return_counts=True)[1].max()) if g._nnz() else 1
