"""What is said of a run, and in which order: statements, and the headline that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from neuromech.report.words import many

Tone = Literal["bad", "mixed", "none", "ok"]
_SEVERITY: tuple[Tone, ...] = ("ok", "none", "mixed", "bad")
_ORDER: tuple[Tone, ...] = ("bad", "mixed", "ok", "none")  # of telling
SAYS: dict[Tone, str] = {"ok": "✓ good", "mixed": "≈ look", "bad": "✗ bad", "none": "– no verdict"}
URGENT = ("not finite", "exploded", "fault", "nothing moved", "broken", "ended")  # what came of it, why, what else


@dataclass(frozen=True)
class Statement:
    """One thing that is true of the run. `key`: what kind of thing; `step`: from when on; `do`: what to do about it;
    `short`: how a headline says it; `beside`: how it is said where the step stands before it."""

    key: str
    tone: Tone
    text: str
    step: int | None = None
    do: str = ""
    short: str = ""
    beside: str = ""


@dataclass(frozen=True)
class Judgement:
    """`statements`, the gravest first; `headline`: the two or three that matter."""

    statements: tuple[Statement, ...]

    @property
    def tone(self) -> Tone:
        """Of the whole: green only if a law that could have failed did hold, and nothing speaks against the run."""
        tones = {s.tone for s in self.statements}
        return max(tones, key=_SEVERITY.index) if tones & {"bad", "mixed"} else "ok" if "ok" in tones else "none"

    @property
    def headline(self) -> str:
        """How far it came; of what is grave, the first of two kinds, so that a cause stands beside what came of it; the
        laws; and how much more there is."""
        grave = [s for s in self.statements if s.tone == "bad"] or [s for s in self.statements if s.tone == "mixed"]
        of_a_kind = list({s.key: s for s in reversed(grave)}.values())[::-1][:2]
        said = [s for s in self.statements if s.key == "trained"]
        said += of_a_kind + [s for s in self.statements if s.key in ("laws", "nothing") and s not in grave]
        more = len(grave) - len(of_a_kind)
        rest = [f"And {many(more, 'more finding')}."] if more > 0 else []
        return " ".join([s.short or s.text for s in said] + rest)

    @property
    def wrong(self) -> list[Statement]:
        return [s for s in self.statements if s.tone in ("bad", "mixed")]

    @property
    def limits(self) -> list[Statement]:
        return [s for s in self.statements if s.key == "limit"]

    def has(self, key: str) -> bool:
        return any(s.key == key for s in self.statements)


def rank(s: Statement) -> tuple[bool, int, int]:
    """How far it came, then by tone; of one tone what came of it, its cause, and what else was seen."""
    return s.key != "trained", _ORDER.index(s.tone), URGENT.index(s.key) if s.key in URGENT else len(URGENT)
