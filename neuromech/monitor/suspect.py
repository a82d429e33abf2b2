"""A cause that fits the evidence, how strongly, and in whose words."""

from __future__ import annotations

from dataclasses import dataclass

from neuromech.monitor.causes import CAUSES
from neuromech.monitor.evidence import Names

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
