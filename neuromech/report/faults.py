"""What the monitor told, as a person wants to read it: when, what broke, the likely cause, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuromech.report.words import listing, many

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Told:
    """One fault. `others`: further causes that fit, the likeliest first."""

    when: str
    title: str
    strength: str
    evidence: str
    advice: str
    others: tuple[str, ...]


def faults(rows: pd.DataFrame) -> list[Told]:
    """The faults of the table that the monitor writes, in the order in which they were found."""
    if rows.empty:
        return []
    keys = [k for k in ("session", "fault") if k in rows]
    out = []
    for _, group in rows.groupby(keys, sort=False):
        latest = group[group["times"] == group["times"].max()].sort_values("rank")
        first = latest.iloc[0]
        others = tuple(f"{row.title} ({row.strength})" for row in latest.iloc[1:].itertuples())
        out.append(
            Told(
                _when(int(first["step"]), int(first["last"]), int(first["times"])),
                str(first["title"]),
                str(first["strength"]),
                str(first["evidence"]),
                str(first["advice"]),
                others,
            )
        )
    return out


def verdict(told: list[Told], n_steps: int) -> str:
    """One sentence for the head of the section."""
    watched = f"The monitor checked {many(n_steps, 'step')}"
    if not told:
        return f"{watched}: every law that is exact held, and nothing touched the run between its steps."
    titles = listing(list(dict.fromkeys(t.title for t in told)))
    return f"{watched} and found {many(len(told), 'fault')}: {titles}."


def _when(step: int, last: int, times: int) -> str:
    return f"step {step:,}" if times == 1 else f"from step {step:,} on, {times:,} times or more up to step {last:,}"
