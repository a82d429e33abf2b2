"""A cause that fits the evidence, how strongly, and in whose words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from neuromech.monitor.causes import CAUSES
from neuromech.monitor.evidence import Evidence, Names
from neuromech.record import some

CERTAIN, LIKELY, POSSIBLE = 3, 2, 1
LOW_BITS = 3  # that rounding reaches
STRENGTH = {CERTAIN: "certain", LIKELY: "likely", POSSIBLE: "possible"}


@dataclass(frozen=True)
class Suspect:
    """A cause that fits: `key` in `CAUSES`, its strength, the parameters that show it, and what speaks for it."""

    key: str
    strength: int
    where: Names
    evidence: str

    @property
    def title(self) -> str:
        return CAUSES[self.key].title

    @property
    def advice(self) -> str:
        return CAUSES[self.key].advice


def told(*signatures: tuple[str, str, int, str]) -> Callable[[Evidence], Iterator[Suspect]]:
    """The rule for what speaks for itself: (names in the evidence, cause, strength, text with a place for them)."""

    def rule(e: Evidence) -> Iterator[Suspect]:
        for found, key, strength, text in signatures:
            if names := getattr(e, found):
                yield Suspect(key, strength, names, text.format(some(names)))

    return rule
