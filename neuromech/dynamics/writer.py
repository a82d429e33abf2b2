"""Readings of all members, step by step -> rows a family, and a few members on a growing stride.

A reading is summed up by family at once; what is kept waits on its device until there is enough of it, so that the
training loop never waits, and then comes over together.
"""

from __future__ import annotations

import atexit
import os
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuromech.dynamics.rows import FIELDS, PREDICTIONS, RESIDUALS, REST, SUMS, Rows
from neuromech.record import Journal, Record

INTERVAL_STEPS = 64
INTERVAL_SECONDS = 1.0  # that steps wait, at most
SHARE = 0.01  # of the time may be spent on writing early: a process that is killed loses what waits
INTERVAL_VALUES = 2**15  # what waits in memory, at most about
PATIENCE = 60.0  # seconds for the last rows of a probe that was forgotten
_NUMBERS = struct.Struct("<4d")  # of a step, but for its own
STEP = "step", "optimizer", "lr", "time", "iteration"  # columns
PER_OCTAVE = 16  # snapshots of single members for every doubling of the number of steps


class ReadingWriter:
    """Writes readings to a record."""

    def __init__(self, record: Record, rows: Rows, journal: Journal) -> None:
        self._record, self.rows, self._journal = record, rows, journal
        self._steps: list[tuple[int, int, float, float, int]] = []
        self._readings: list[tuple[int, Tensor, Tensor | None, Tensor | None]] = []
        self._last, self._waiting, self._cheapest = time.monotonic(), 0, 0.0
        self._laid: Rows | None = None  # of which `unwritten` knows the layouts
        self._layouts: list[int] = []
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
        self,
        step: int,
        optimizer: int,
        lr: float,
        when: float,
        fields: Tensor | None,
        terms: Tensor | None = None,
        *,
        iteration: int,
    ) -> None:
        """One step: its lr, the time t = sum of lr, [FIELDS, rows] of readings (None: not recorded), [SUMS and REST,
        kept rows] of terms, and the iteration that it is part of."""
        self._steps.append((step, optimizer, lr, when, iteration))
        families = singles = None
        if fields is not None and self.rows.families:
            whole = self.rows.sums(fields)
            residuals = self.rows.residuals(fields[1 : 1 + len(PREDICTIONS)], fields[0], fields[-1], whole[-1])
            families = torch.cat((whole, self.rows.maxima(residuals)))
            shown = step % _stride(step) == 0 and len(self.rows.member)
            singles = self.rows.singles(torch.cat((fields, residuals))) if shown else None
            self._readings.append((step, families, singles, terms))
            self._waiting += sum(x.numel() for x in (families, singles, terms) if x is not None)
        self._keep(step, families, singles, terms)

    def _keep(self, step: int, families: Tensor | None, singles: Tensor | None, terms: Tensor | None) -> None:
        """For a process that is killed: what this step has measured, where no device has to be waited for."""
        kept, n = self._record.unwritten, self.rows.families
        if kept is None or (families is not None and not families.is_cpu):
            return
        if self._laid is not self.rows:
            self._laid, every = self.rows, (np.arange(n), np.full(n, -1))
            layouts = [kept.layout("steps", STEP[1:])]
            for table, names in ("charges", (*FIELDS, *RESIDUALS)), ("terms", (*SUMS, *REST)):
                layouts += [kept.layout(table, names, *who) for who in (every, (self.rows.family, self.rows.member))]
            self._layouts = layouts
        of_step, charges, members, terms_, of_members = self._layouts
        kept.reading(of_step, step, _NUMBERS.pack(*self._steps[-1][1:]))
        if families is not None:
            kept.reading(charges, step, families.numpy().tobytes())
        if singles is not None:
            kept.reading(members, step, singles.numpy().tobytes())
        if terms is not None:
            values = terms.numpy()
            kept.reading(terms_, step, values[:, :n].tobytes())
            if singles is not None:
                kept.reading(of_members, step, values[:, n:].tobytes())

    def flush_if_due(self) -> None:
        """The step is over, and all that was measured at it waits."""
        late = time.monotonic() - self._last > min(INTERVAL_SECONDS, self._cheapest / SHARE)
        if late or len(self._steps) >= INTERVAL_STEPS or self._waiting >= INTERVAL_VALUES:
            self.flush()
        elif self._record.unwritten is not None:
            self._record.unwritten.keep()

    def flush(self) -> None:
        """Bring everything that waits to the record, and the record to the disk.

        What that takes sets how long later steps wait: slow ones are written one by one, and a loop that hangs and is
        killed has lost none of them.
        """
        begun = time.monotonic()
        for flush in self.beside:
            flush()
        if self._steps:
            columns = zip(*self._steps, strict=True)
            self._record.append("steps", dict(zip(STEP, columns, strict=True)), kept=True)
            self._steps = []
        if self._readings:
            self._write(self._readings)
        self._readings, self._waiting = [], 0
        self._record.flush()
        self._last = time.monotonic()
        took = self._last - begun
        self._cheapest = min(self._cheapest, took) if self._cheapest else took

    def _write(self, readings: Sequence[tuple[int, Tensor, Tensor | None, Tensor | None]]) -> None:
        names, n = (*FIELDS, *RESIDUALS), self.rows.families
        every = np.arange(n), np.full(n, -1)
        singly = self.rows.family, self.rows.member
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
        columns |= {k: x.reshape(-1).tolist() for k, x in zip(names, data, strict=True)}
        self._record.append(table, columns, kept=True)

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


def _stride(step: int) -> int:
    """1 for the first steps, then a power of two that leaves `PER_OCTAVE` snapshots for every doubling."""
    stride: int = max(1, 2 ** (max(step, 1).bit_length() - 1) // PER_OCTAVE)
    return stride
