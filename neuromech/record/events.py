"""What happened in a run, in words: lines for the report, and warnings the first time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from neuromech.errors import warn
from neuromech.record import Record

MOST = 20  # lines of one kind: a model that drops layers at random has something to tell at every step


class Journal:
    """Writes events to a record; what was said under one key is not said again."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._told: set[str] = set()
        self._lines: Counter[str] = Counter()

    def event(self, step: int, kind: str, message: str) -> None:
        """One line; of those of one kind the first `MOST`, and a word that more are left out."""
        self._lines[kind] += 1
        if self._lines[kind] > MOST:
            return
        if self._lines[kind] == MOST:
            message += f" (the last of {MOST} such lines: what follows of this kind is not listed)"
        self._record.append("events", {"step": [step], "kind": [kind], "message": [message]})

    def once(self, key: str, step: int, kind: str, message: str, warn: bool = True) -> None:
        if key not in self._told:
            self.event(step, kind, message)
            if warn:
                self.warn_once(key, message, kind)
            self._told.add(key)

    def warn_once(self, key: str, message: str, kind: str = "") -> None:
        if key not in self._told:
            self._told.add(key)
            warn(message, kind or key)


def some(names: Iterable[str], most: int = 4) -> str:
    """A few names, each once and in their order, and how many more there are."""
    listed = list(dict.fromkeys(names))
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
