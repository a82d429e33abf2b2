"""A fault of a run: when, the likely causes, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from neuromech.errors import FaultError
from neuromech.monitor.causes import CAUSES
from neuromech.monitor.evidence import Evidence, Names
from neuromech.monitor.practices import hint
from neuromech.monitor.suspect import CERTAIN, STRENGTH, Suspect
from neuromech.record import Record


@dataclass
class Fault:
    """What broke ahead of or in `step`, with the causes that fit, the likeliest first.

    `number` counts the faults of a run, `times` how often this one was seen, `last` is the step of the last time.
    """

    step: int
    suspects: tuple[Suspect, ...]
    evidence: Evidence
    number: int = 0
    times: int = 1
    last: int = 0

    def __post_init__(self) -> None:
        self.last = self.last or self.step

    @property
    def cause(self) -> str:
        """The key of the likeliest cause, as in `causes`."""
        return self.suspects[0].key

    @property
    def causes(self) -> tuple[str, ...]:
        """The keys of the causes that fit, the likeliest first."""
        return tuple(s.key for s in self.suspects)

    @property
    def where(self) -> Names:
        return self.suspects[0].where

    @property
    def key(self) -> tuple[Any, ...]:
        """Faults of one key are one fault that goes on."""
        return (self.cause,) if CAUSES[self.cause].lasting else (self.cause, self.where)

    def __str__(self) -> str:
        first, *others = self.suspects
        text = f"step {self.step}: {first.title} ({STRENGTH[first.strength]}): {first.evidence}. To do: {first.advice}."
        meant = f" If it is meant: {how}." if (how := hint(first.key)) else ""
        return f"{text} Or: {'; '.join([*(s.title for s in others[:2]), CAUSES[first.key].rival])}.{meant}"

    def _repr_html_(self) -> str:
        first, *others = self.suspects
        also = f"<br>or: {escape('; '.join([*(s.title for s in others[:2]), CAUSES[first.key].rival]))}"
        return (
            f"<strong>step {self.step}: {escape(first.title)}</strong> ({STRENGTH[first.strength]})"
            f"<br>{escape(first.evidence)}<br><em>To do:</em> {escape(first.advice)}{also}"
        )

    def rows(self) -> dict[str, list[Any]]:
        """As columns of a table, one row a suspect: fit for a record."""
        n = len(self.suspects)
        return {
            "fault": [self.number] * n,
            "step": [self.step] * n,
            "last": [self.last] * n,
            "times": [self.times] * n,
            "rank": list(range(1, n + 1)),
            "cause": [s.key for s in self.suspects],
            "strength": [STRENGTH[s.strength] for s in self.suspects],
            "title": [s.title for s in self.suspects],
            "parameters": [" ".join(s.where) for s in self.suspects],
            "evidence": [s.evidence for s in self.suspects],
            "advice": [s.advice for s in self.suspects],
        }


Reaction = Literal["warn", "raise"] | Callable[[Fault], None]


class Faults:
    """The faults of a run, each once; `add` returns what is new to it."""

    def __init__(self, ignored: Collection[str] = ()) -> None:
        self._ignored = frozenset(ignored)
        self._known: dict[tuple[Any, ...], Fault] = {}

    @property
    def all(self) -> list[Fault]:
        return list(self._known.values())

    def bring(self, record: Record) -> None:
        """How often those were seen that went on since they were recorded, which is done at every doubling."""
        for fault in [f for f in self.all if f.times & (f.times - 1)]:
            record.append("faults", fault.rows())

    def add(self, step: int, suspects: Sequence[Suspect], evidence: Evidence) -> tuple[Fault, bool] | None:
        """The fault, and whether it is new; None if nothing is left of it but what is ignored."""
        left = [s for s in suspects if s.key not in self._ignored]
        if not left or (suspects[0].key in self._ignored and left[0].strength < CERTAIN):
            return None
        known = self._known.get(Fault(step, tuple(left), evidence).key)
        if known is not None:
            known.times, known.last = known.times + 1, step
            # A fault that goes on must not hide another one that is as certain.
            while left and self._is_known(left, step, evidence):
                left = left[1:]
            if not left or left[0].strength < CERTAIN:
                return known, False
        told = {f.cause for f in self._known.values() if CAUSES[f.cause].lasting}
        others = [s for s in left[1:] if s.key not in told]
        fault = Fault(step, (left[0], *others), evidence, len(self._known))
        self._known[fault.key] = fault
        return fault, True

    def _is_known(self, suspects: Sequence[Suspect], step: int, evidence: Evidence) -> bool:
        return Fault(step, tuple(suspects), evidence).key in self._known


def stop(fault: Fault) -> None:
    """Raise `FaultError`."""
    raise FaultError(str(fault), fault)
