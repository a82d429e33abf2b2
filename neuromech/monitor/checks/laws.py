"""Does every charge go where its exact law sends it? Judged online, step by step, against the growth of rounding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from neuromech.dynamics import Reading
from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.evidence import Broken, Evidence
from neuromech.monitor.facts import Group, Step
from neuromech.monitor.torque import broken_families
from neuromech.rounding import rounding_bound
from neuromech.symmetry import Symmetry


class LawCheck:
    """The distance of observed charges from their exact law, since the last time that it was told.

    Allowed is `rounding_bound` of the steps since then, of the coarsest number format in the family, relative to the
    largest scale so far; and what the measured torque, which the law of an exact symmetry takes for zero, can have
    moved: a torque of a gradient enters a charge with 2 lr / (1 - momentum) in all.
    """

    def __init__(
        self,
        symmetries: Sequence[Symmetry],
        slices: Sequence[slice],
        eps: Sequence[float],
        members: Sequence[range] | None = None,
    ) -> None:
        """`slices`: of the families in a reading, which has their `members`; None: all."""
        self._symmetries = tuple(symmetries)
        self._members = [range(s.size) for s in self._symmetries] if members is None else list(members)
        starts = accumulate((s.size for s in self._symmetries), initial=0)
        own = [torch.arange(m.start, m.stop) + start for m, start in zip(self._members, starts, strict=False)]
        self._own = torch.cat(own) if own else torch.zeros(0, dtype=torch.long)  # among the torques of all members
        rows = [torch.arange(s.start, s.stop) for s in slices]
        self._rows = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.long)
        sizes = [len(m) for m in self._members]
        self._slices = [slice(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes))]
        family = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))
        self._family, self._sizes = family, torch.tensor(sizes, dtype=torch.float64)
        self._eps = list(eps)
        self._base: Tensor | None = None
        self._largest = self._budget = torch.zeros(len(family), dtype=torch.float64)
        self._since = 0

    def before(self, step: Step) -> Evidence:
        return NOTHING

    def after(self, step: Step) -> Evidence:
        if step.reading is None or step.ahead is None or not self._symmetries:
            return NOTHING
        torques = step.ahead.torques
        broken = self._broken(step.reading, torques.torque if torques else None, _gain(step.groups))
        return Evidence(laws=broken)

    def _broken(self, reading: Reading, torque: Tensor | None, gain: float) -> tuple[Broken, ...]:
        """The families that left their law. `torque`: [rows], family after family; `gain`: 2 lr / (1 - momentum)."""
        rows = self._rows.to(reading.observed.device)
        off = (reading.observed - reading.exact)[rows].cpu()
        scale = reading.scale[rows].cpu()
        typical = torch.zeros_like(self._sizes).index_add_(0, self._family, scale) / self._sizes
        scale = torch.maximum(scale, typical[self._family])
        if self._base is None:
            self._start(off, scale)
        assert self._base is not None
        # Predictions that have just started over, or that have no law, have nothing to answer for.
        fresh = ~torch.isfinite(self._base) | ~torch.isfinite(off)
        self._base = torch.where(fresh, off, self._base)
        self._largest = torch.maximum(self._largest, scale)
        if torque is not None:
            self._budget = self._budget + gain * torque.cpu()[self._own].abs().nan_to_num()
        self._since += 1
        bound = torch.tensor([rounding_bound(float(self._since), e) for e in self._eps], dtype=torch.float64)
        allowed = bound[self._family] * self._largest + self._budget
        restarted = off.abs() <= allowed
        excess = torch.where(restarted, 0.0, (off - self._base).abs() / allowed).nan_to_num(nan=0.0)
        broken = broken_families(excess, self._slices)
        if broken:
            self._start(off, scale)
        return tuple(
            Broken(i, s.name, s.parameters, s.kind, many, n, worst, 0 if many == s.size else s.size)
            for i, (n, worst) in broken.items()
            for s, many in ((self._symmetries[i], len(self._members[i])),)
        )

    def _start(self, off: Tensor, scale: Tensor) -> None:
        self._base, self._largest, self._budget = off, scale, torch.zeros_like(off)
        self._since = 0


def _gain(groups: Sequence[Group]) -> float:
    """By how much a torque of one gradient can move a quadratic charge in all: 2 lr / (1 - momentum)."""
    settings = [group.settings for group in groups]
    memory = max(float(s.get("momentum") or (s["betas"][0] if "betas" in s else 0.0)) for s in settings)
    return 2.0 * max(abs(float(s.get("lr", 0.0))) for s in settings) / max(1.0 - memory, torch.finfo(torch.float64).eps)
