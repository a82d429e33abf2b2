"""Readings of all members, step by step -> rows a family, and a few members on a growing stride.

Readings wait on their device until an interval is full, so that the training loop never waits for them; then they come
over at once and are summed up by family.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuromech.probe.journal import Journal
from neuromech.record import Record

INTERVAL_STEPS = 64
INTERVAL_SECONDS = 5.0  # what a killed process may lose
PER_OCTAVE = 32  # snapshots of single members for every doubling of the number of steps

PREDICTIONS = ("exact", "ideal", "continuous", "flow")
FIELDS = ("observed", *PREDICTIONS, "scale")
RESIDUALS = {"residual" if law == "exact" else f"{law}_residual": law for law in PREDICTIONS}


class Ledger:
    """Writes readings to a record. `families`: the rows of each; `members`: how many to keep singly (None: all)."""

    def __init__(self, record: Record, families: Sequence[slice], members: int | None, journal: Journal) -> None:
        self._record, self._families, self._journal = record, families, journal
        # np.add.reduceat wants ascending starts; the rows of families lie end to end, in an order of their own.
        self._order = sorted(range(len(families)), key=lambda i: families[i].start)
        self._starts = [families[i].start for i in self._order]
        self._singles = [
            np.unique(np.linspace(0, n - 1, n if members is None else min(members, n)).astype(int))
            for n in (s.stop - s.start for s in families)
        ]
        self._steps: list[tuple[int, int, float, float]] = []
        self._readings: list[tuple[int, Tensor]] = []
        self._last = time.monotonic()
        self._finite = True
        self._process = os.getpid()
        _live.add(self)

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self._end()

    def _end(self) -> None:
        """The probe was forgotten, or Python ends: what waits must still reach the record."""
        if self._steps and os.getpid() == self._process:
            self.flush()

    def add(self, step: int, optimizer: int, lr: float, when: float, fields: Tensor | None) -> None:
        """One step: its lr, the time t = sum of lr, and [fields, rows] of readings (None: not recorded)."""
        self._steps.append((step, optimizer, lr, when))
        if fields is not None:
            self._readings.append((step, fields))
        if len(self._steps) >= INTERVAL_STEPS or time.monotonic() - self._last > INTERVAL_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring everything that waits to the record, and the record to the disk."""
        if self._steps:
            columns = zip(*self._steps, strict=True)
            self._record.append("steps", dict(zip(("step", "optimizer", "lr", "time"), columns, strict=True)))
            self._steps = []
        if self._readings and self._families:
            steps = np.array([step for step, _ in self._readings])
            data = torch.stack([fields for _, fields in self._readings]).cpu().numpy()
            self._write(steps, dict(zip(FIELDS, data.swapaxes(0, 1), strict=True)))
        self._readings = []
        self._record.flush()
        self._last = time.monotonic()

    def _write(self, steps: np.ndarray, of: dict[str, np.ndarray]) -> None:
        """`of`: field -> [steps, rows]."""
        size = np.maximum(of["scale"], self._typical(of["scale"]))
        residuals = {name: _relative(of[law], of["observed"], size) for name, law in RESIDUALS.items()}
        whole = {name: np.add.reduceat(x, self._starts, axis=1) for name, x in of.items()}
        whole |= {name: np.maximum.reduceat(x, self._starts, axis=1) for name, x in residuals.items()}
        families = np.tile(self._order, len(steps))
        self._append(np.repeat(steps, len(self._order)), families, -np.ones_like(families), whole)
        self._report_non_finite(steps, whole["observed"])
        shown = [k for k, step in enumerate(steps) if step % _stride(int(step)) == 0]
        for i, (family, members) in enumerate(zip(self._families, self._singles, strict=True)):
            if len(members) and shown:
                rows = family.start + members
                single = {name: x[np.ix_(shown, rows)] for name, x in (of | residuals).items()}
                symmetry = np.full(len(shown) * len(members), i)
                self._append(np.repeat(steps[shown], len(members)), symmetry, np.tile(members, len(shown)), single)

    def _typical(self, scale: np.ndarray) -> np.ndarray:
        """The mean scale of each row's family: gradients are rounded alike for small and for large members."""
        members = np.diff([*self._starts, scale.shape[1]])
        return np.repeat(np.add.reduceat(scale, self._starts, axis=1) / members, members, axis=1)

    def _append(self, step: np.ndarray, symmetry: np.ndarray, member: np.ndarray, data: dict[str, np.ndarray]) -> None:
        columns: dict[str, Any] = {"step": step.tolist(), "symmetry": symmetry.tolist(), "member": member.tolist()}
        self._record.append("charges", columns | {name: x.reshape(-1).tolist() for name, x in data.items()})

    def _report_non_finite(self, steps: np.ndarray, observed: np.ndarray) -> None:
        bad = ~np.isfinite(observed).all(axis=1)
        if self._finite and bad.any():
            self._finite = False
            step = int(steps[bad.argmax()])
            message = f"parameters are not finite from step {step} on: the run has diverged"
            self._journal.event(step, "non-finite", message)


_live: weakref.WeakSet[Ledger] = weakref.WeakSet()


@atexit.register  # after the record has registered its own, so this runs before it
def _end_all() -> None:
    for ledger in list(_live):
        ledger._end()


def _relative(predicted: np.ndarray, observed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """|predicted - observed| / scale; nothing that is predicted as nothing is right."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(predicted - observed)
    return np.divide(difference, scale, out=np.where(difference == 0, 0.0, np.nan), where=scale > 0)


def _stride(step: int) -> int:
    """1 for the first steps, then a power of two that leaves `PER_OCTAVE` snapshots for every doubling."""
    return max(1, 2 ** (max(step, 1).bit_length() - 1) // PER_OCTAVE)
