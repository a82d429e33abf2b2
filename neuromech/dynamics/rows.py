"""Readings of all members -> the rows that are kept: each family summed up, and some single members.

`Totals`: what each term has moved the charges by since the start, and what is left unexplained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from neuromech.dynamics.attribution import TERMS
from neuromech.dynamics.laws import Reading
from neuromech.rounding import CONFIDENCE, EPS64, LAW_OPERATIONS

PREDICTIONS = ("exact", "ideal", "continuous", "flow")
FIELDS = ("observed", *PREDICTIONS, "scale")
RESIDUALS = {"residual" if law == "exact" else f"{law}_residual": law for law in PREDICTIONS}
SUMS = (*TERMS, "outside", "turn")  # of every step so far
REST = ("rounding", "unexplained")


class Rows:
    """Which rows of a reading are kept: those of each family summed up, and some single `members` (None: all)."""

    def __init__(
        self,
        families: Sequence[slice],
        members: int | None,
        device: torch.device | None = None,
        measured: Sequence[range] | None = None,
    ) -> None:
        """`measured`: which members of each family the rows are; None: the first ones, which is all."""
        self.families = len(families)
        sizes = [s.stop - s.start for s in families]
        singles = [np.linspace(0, n - 1, n if members is None else min(members, n)).astype(int) for n in sizes]
        singles = [np.unique(x) for x in singles]
        self.family = np.repeat(np.arange(self.families), [len(x) for x in singles])  # of each single member
        place = np.concatenate([np.arange(0), *singles])
        first = np.array([m.start for m in measured] if measured else [0] * self.families, dtype=int)
        self.member = first[self.family] + place
        starts = np.array([s.start for s in families], dtype=int)
        self._single = torch.from_numpy(starts[self.family] + place).to(device)
        self._of = torch.empty(sum(sizes), dtype=torch.long)
        for i, rows in enumerate(families):
            self._of[rows] = i
        self._of = self._of.to(device)
        self.sizes = torch.tensor(sizes, dtype=torch.float64, device=device)

    def sums(self, x: Tensor) -> Tensor:
        """From [..., rows] to [..., families]."""
        return x.new_zeros(*x.shape[:-1], self.families).index_add_(-1, self._of, x)

    def maxima(self, x: Tensor) -> Tensor:
        """From [..., rows] to [..., families]."""
        out = x.new_zeros(*x.shape[:-1], self.families)
        return out.scatter_reduce_(-1, self._of.expand_as(x), x, "amax", include_self=False)

    def residuals(self, predicted: Tensor, observed: Tensor, scale: Tensor, summed: Tensor | None = None) -> Tensor:
        """Relative to the scale of a member, or to the mean of its family where that is larger: [..., rows].

        `summed`: `sums(scale)`, where it is known."""
        mean = self.spread((self.sums(scale) if summed is None else summed) / self.sizes.to(scale.device))
        return relative(predicted, observed, torch.maximum(scale, mean))

    def singles(self, x: Tensor) -> Tensor:
        """From [..., rows] to [..., single members]."""
        return x.index_select(-1, self._single)

    def spread(self, x: Tensor) -> Tensor:
        """From [..., families] to [..., rows]."""
        return x.index_select(-1, self._of)


class Totals:
    """What each term has moved the charges by since the start, at the rows that are kept: families, then singles."""

    def __init__(self, rows: Rows, eps: Sequence[float]) -> None:
        """`eps`: of the weights of each family, or coarser if gradients are."""
        self._rows = rows
        each = torch.tensor([*eps, *(eps[int(i)] for i in rows.family)], dtype=torch.float64)
        self._bound = CONFIDENCE * (each + LAW_OPERATIONS * EPS64)  # of one step, relative
        self._largest: Tensor | None = None  # the largest scale so far
        self._start: Tensor | None = None  # the charges at the start
        self._sums: Tensor | None = None  # [SUMS, kept rows]

    def _kept(self, x: Tensor) -> Tensor:
        return torch.cat((self._rows.sums(x), self._rows.singles(x)), dim=-1)

    def start(self, observed: Tensor) -> None:
        self._start = self._kept(observed)
        self._sums = self._start.new_zeros(len(SUMS), len(self._start))

    def extended(self, rows: Rows, eps: Sequence[float], charges: Tensor) -> Totals:
        """The same with more families behind those that there are, which begin at `charges`: [their rows]."""
        out = Totals(rows, eps)
        if self._start is not None and self._sums is not None:
            n, new = self._rows.families, rows.families - self._rows.families
            zeros = charges.new_zeros(int(rows.sizes[:n].sum()))
            start = out._kept(torch.cat((zeros, charges)))
            # Families come ahead of single members, on both sides.
            old = [*range(n), *range(n + new, n + new + len(self._rows.member))]
            out._start, out._sums = start, start.new_zeros(len(SUMS), len(start))
            out._start[old], out._sums[:, old] = self._start, self._sums
            if self._largest is not None:
                out._largest = torch.full_like(start, torch.nan)
                out._largest[old] = self._largest
        return out

    def add(self, reading: Reading) -> None:
        """One step: its gains, and by how much it turned the weights (the mean over the members of a family)."""
        if self._sums is None:
            self.start(reading.observed - reading.gains.sum(0))
        assert self._sums is not None
        gained = self._kept(torch.cat((reading.gains, reading.turn[None])))
        gained[-1, : self._rows.families] /= self._rows.sizes.to(gained.device)
        self._sums[: len(TERMS)] += gained[:-1]
        self._sums[-1] += gained[-1]

    def outside(self, change: Tensor) -> None:
        """The charges were changed by something other than a step."""
        if self._sums is not None:
            self._sums[-2] += self._kept(change)

    def read(self, observed: Tensor, scale: Tensor, step: int) -> Tensor:
        """[SUMS and REST, kept rows]: what the observed change has beyond the terms, as far as rounding explains it in
        so many steps, and what is then left."""
        assert self._sums is not None
        assert self._start is not None
        observed, scale = self._kept(torch.stack((observed, scale))).unbind()
        self._largest = scale if self._largest is None else torch.fmax(self._largest, scale)
        allowed = self._bound.to(scale.device) * self._largest * (step + 1.0) ** 0.5
        rest = observed - self._start - self._sums[:-1].sum(0)
        rounding = rest.clamp(-allowed, allowed)
        return torch.cat((self._sums, torch.stack((rounding, rest - rounding))))

    def state_dict(self) -> dict[str, Tensor]:
        if self._sums is None or self._start is None:
            return {}
        largest = {} if self._largest is None else {"largest": self._largest}
        return {"start": self._start, "sums": self._sums.clone()} | largest

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        if state and state["sums"].shape[1] == self._rows.families + len(self._rows.member):
            self._start, self._sums = (state[key].to(device, copy=True) for key in ("start", "sums"))
            self._largest = state["largest"].to(device) if "largest" in state else None


def relative(predicted: Tensor, observed: Tensor, scale: Tensor) -> Tensor:
    """|predicted - observed| / scale; nothing that is predicted as nothing is right."""
    off = (predicted - observed).abs()
    return torch.where(off == 0, 0.0, torch.where(scale > 0, off / scale, torch.nan))
