"""A fault of a run: when, the likely causes, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from neuromech.errors import FaultError
from neuromech.monitor.causes import CAUSES
from neuromech.monitor.diagnose import STRENGTH, Suspect
from neuromech.monitor.evidence import Evidence, Names


@dataclass
class Fault:
    """What broke ahead of or in `step`, with the causes that fit, the likeliest first.

    `times` counts how often it was seen since, `last` is the step at which it was seen last.
    """

    step: int
    suspects: tuple[Suspect, ...]
    evidence: Evidence
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
        return text + (f" Or: {'; '.join(s.title for s in others[:2])}." if others else "")

    def rows(self) -> dict[str, list[Any]]:
        """As columns of a table, one row a suspect: fit for a record."""
        n = len(self.suspects)
        return {
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

    def __init__(self, ignored: Sequence[str] = ()) -> None:
        self._ignored = frozenset(ignored)
        self._known: dict[tuple[Any, ...], Fault] = {}

    @property
    def all(self) -> list[Fault]:
        return list(self._known.values())

    def add(self, step: int, suspects: Sequence[Suspect], evidence: Evidence) -> tuple[Fault, bool] | None:
        """The fault, and whether it is new; None if nothing is left of it but what is ignored."""
        if not suspects or suspects[0].key in self._ignored:
            return None
        fault = Fault(step, tuple(suspects), evidence)
        if fault.key not in self._known:
            self._known[fault.key] = fault
            return fault, True
        known = self._known[fault.key]
        known.times, known.last = known.times + 1, step
        return known, False


def stop(fault: Fault) -> None:
    """Raise `FaultError`."""
    raise FaultError(str(fault), fault)
