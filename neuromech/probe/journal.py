"""What happened in a run, in words: lines for the report, and warnings the first time."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from neuromech.errors import NeuromechWarning
from neuromech.record import Record


class Journal:
    """Writes events to a record; what was said under one key is not said again."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._told: set[str] = set()

    def event(self, step: int, kind: str, message: str) -> None:
        self._record.append("events", {"step": [step], "kind": [kind], "message": [message]})

    def once(self, key: str, step: int, kind: str, message: str, warn: bool = True) -> None:
        if key not in self._told:
            self._told.add(key)
            self.event(step, kind, message)
            if warn:
                warnings.warn(message, NeuromechWarning, stacklevel=3)


def some(names: Iterable[str], most: int = 5) -> str:
    """A few names, and how many more there are."""
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
