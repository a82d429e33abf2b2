"""Readings of all members, step by step -> rows a family, and a few members on a growing stride.

A reading is summed up by family at once; what is kept waits on its device until there is enough of it, so that the
training loop never waits, and then comes over together.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuromech.dynamics import TERMS, Reading
from neuromech.record import Journal, Record
from neuromech.rounding import CONFIDENCE, EPS64, LAW_OPERATIONS

INTERVAL_STEPS = 64
INTERVAL_SECONDS = 5.0  # what a killed process may lose
INTERVAL_VALUES = 2**15  # what waits in memory, at most about
PATIENCE = 60.0  # seconds for the last rows of a probe that was forgotten
PER_OCTAVE = 16  # snapshots of single members for every doubling of the number of steps

PREDICTIONS = ("exact", "ideal", "continuous", "flow")
FIELDS = ("observed", *PREDICTIONS, "scale")
RESIDUALS = {"residual" if law == "exact" else f"{law}_residual": law for law in PREDICTIONS}
SUMS = (*TERMS, "outside", "turn")  # of every step so far
REST = ("rounding", "unexplained")


class Rows:
    """Which rows of a reading are kept: those of each family summed up, and some single `members` (None: all)."""

    def __init__(self, families: Sequence[slice], members: int | None, device: torch.device | None = None) -> None:
        self.families = len(families)
        sizes = [s.stop - s.start for s in families]
        singles = [np.linspace(0, n - 1, n if members is None else min(members, n)).astype(int) for n in sizes]
        singles = [np.unique(x) for x in singles]
        self.family = np.repeat(np.arange(self.families), [len(x) for x in singles])  # of each single member
        self.member = np.concatenate([np.arange(0), *singles])
        starts = np.array([s.start for s in families], dtype=int)
        self._single = torch.from_numpy(starts[self.family] + self.member).to(device)
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

    def residuals(self, predicted: Tensor, observed: Tensor, scale: Tensor) -> Tensor:
        """Relative to the scale of a member, or to the mean of its family where that is larger: [..., rows]."""
        mean = self.spread(self.sums(scale) / self.sizes.to(scale.device))
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

    def add(self, reading: Reading) -> None:
        """One step: its gains, and by how much it turned the weights (the mean over the members of a family)."""
        if self._sums is None:
            self.start(reading.observed - reading.gains.sum(0))
        assert self._sums is not None
        self._sums[: len(TERMS)] += self._kept(reading.gains)
        turned = self._rows.sums(reading.turn) / self._rows.sizes.to(reading.turn.device)
        self._sums[-1] += torch.cat((turned, self._rows.singles(reading.turn)))

    def outside(self, change: Tensor) -> None:
        """The charges were changed by something other than a step."""
        if self._sums is not None:
            self._sums[-2] += self._kept(change)

    def read(self, observed: Tensor, scale: Tensor, step: int) -> Tensor:
        """[SUMS and REST, kept rows]: what the observed change has beyond the terms, as far as rounding explains it in
        so many steps, and what is then left."""
        assert self._sums is not None
        assert self._start is not None
        scale = self._kept(scale)
        self._largest = scale if self._largest is None else torch.fmax(self._largest, scale)
        allowed = self._bound.to(scale.device) * self._largest * (step + 1.0) ** 0.5
        rest = self._kept(observed) - self._start - self._sums[:-1].sum(0)
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


class ReadingWriter:
    """Writes readings to a record."""

    def __init__(self, record: Record, rows: Rows, journal: Journal) -> None:
        self._record, self._rows, self._journal = record, rows, journal
        self._steps: list[tuple[int, int, float, float]] = []
        self._readings: list[tuple[int, Tensor, Tensor | None, Tensor | None]] = []
        self._last, self._waiting = time.monotonic(), 0
        self.beside: list[Callable[[], None]] = []  # what else is brought to the record whenever readings are
        self._finite = True
        self._process = os.getpid()
        _live.add(self)

    def __del__(self) -> None:
        if hasattr(self, "_process") and (self._steps or self.beside):
            _elsewhere(self._end)

    def _end(self) -> None:
        """The probe was forgotten, or Python ends: what waits must still reach the record."""
        if os.getpid() == self._process and (self._steps or self.beside):
            self.flush()

    def add(
        self, step: int, optimizer: int, lr: float, when: float, fields: Tensor | None, terms: Tensor | None = None
    ) -> None:
        """One step: its lr, the time t = sum of lr, [FIELDS, rows] of readings (None: not recorded), [SUMS and
        REST, kept rows] of terms."""
        self._steps.append((step, optimizer, lr, when))
        if fields is not None and self._rows.families:
            whole = self._rows.sums(fields)
            residuals = self._rows.residuals(fields[1 : 1 + len(PREDICTIONS)], fields[0], fields[-1])
            families = torch.cat((whole, self._rows.maxima(residuals)))
            shown = step % _stride(step) == 0 and len(self._rows.member)
            singles = self._rows.singles(torch.cat((fields, residuals))) if shown else None
            self._readings.append((step, families, singles, terms))
            self._waiting += sum(x.numel() for x in (families, singles, terms) if x is not None)
        late = time.monotonic() - self._last > INTERVAL_SECONDS
        if late or len(self._steps) >= INTERVAL_STEPS or self._waiting >= INTERVAL_VALUES:
            self.flush()

    def flush(self) -> None:
        """Bring everything that waits to the record, and the record to the disk."""
        for flush in self.beside:
            flush()
        if self._steps:
            columns = zip(*self._steps, strict=True)
            self._record.append("steps", dict(zip(("step", "optimizer", "lr", "time"), columns, strict=True)))
            self._steps = []
        if self._readings:
            self._write(self._readings)
        self._readings, self._waiting = [], 0
        self._record.flush()
        self._last = time.monotonic()

    def _write(self, readings: Sequence[tuple[int, Tensor, Tensor | None, Tensor | None]]) -> None:
        names, n = (*FIELDS, *RESIDUALS), self._rows.families
        every = np.arange(n), np.full(n, -1)
        singly = self._rows.family, self._rows.member
        whole = [(step, families) for step, families, _, _ in readings]
        shown = [(step, singles) for step, _, singles, _ in readings if singles is not None]
        self._append("charges", names, every, whole)
        self._append("charges", names, singly, shown)
        terms = [(step, terms, singles is not None) for step, _, singles, terms in readings if terms is not None]
        self._append("terms", (*SUMS, *REST), every, [(step, x[:, :n]) for step, x, _ in terms])
        self._append("terms", (*SUMS, *REST), singly, [(step, x[:, n:]) for step, x, some in terms if some])
        self._report_non_finite(whole)

    def _append(
        self,
        table: str,
        names: Sequence[str],
        who: tuple[np.ndarray, np.ndarray],
        readings: Sequence[tuple[int, Tensor]],
    ) -> None:
        """One row for every reading and member of `who` (families, members); `readings`: steps, [names, members]."""
        symmetry, member = who
        if not readings or not len(symmetry):
            return
        data = torch.stack([x for _, x in readings], dim=1).cpu().numpy()
        steps = np.repeat([step for step, _ in readings], len(symmetry))
        columns: dict[str, Any] = {
            "step": steps.tolist(),
            "symmetry": np.tile(symmetry, len(readings)).tolist(),
            "member": np.tile(member, len(readings)).tolist(),
        }
        self._record.append(table, columns | {k: x.reshape(-1).tolist() for k, x in zip(names, data, strict=True)})

    def _report_non_finite(self, whole: Sequence[tuple[int, Tensor]]) -> None:
        bad = [step for step, x in whole if not bool(x[0].isfinite().all())] if self._finite else []
        if bad:
            self._finite = False
            message = f"parameters are not finite from step {bad[0]} on: the run has diverged"
            self._journal.event(bad[0], "non-finite", message)


_live: weakref.WeakSet[ReadingWriter] = weakref.WeakSet()


@atexit.register  # after the record has registered its own, so this runs before it
def _end_all() -> None:
    for writer in list(_live):
        writer._end()


def _elsewhere(work: Callable[[], None]) -> None:
    """The garbage collector may come in the middle of somebody's trace, under which no operator computes anything: the
    modes and dispatch keys of a trace are those of its thread."""
    if sys.is_finalizing():  # no threads any more, and no traces
        return work()
    thread = threading.Thread(target=work)
    try:
        thread.start()
    except RuntimeError:  # Python from 3.12 on says so by itself
        return work()
    thread.join(PATIENCE)


def relative(predicted: Tensor, observed: Tensor, scale: Tensor) -> Tensor:
    """|predicted - observed| / scale; nothing that is predicted as nothing is right."""
    off = (predicted - observed).abs()
    return torch.where(off == 0, 0.0, torch.where(scale > 0, off / scale, torch.nan))


def _stride(step: int) -> int:
    """1 for the first steps, then a power of two that leaves `PER_OCTAVE` snapshots for every doubling."""
    stride: int = max(1, 2 ** (max(step, 1).bit_length() - 1) // PER_OCTAVE)
    return stride
