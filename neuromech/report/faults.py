"""What the monitor found, as a person wants to read it: when, what broke, the likely cause, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FaultRecord:
    """One fault: its likeliest cause, as it was last seen. `others`: further causes that fit, the likeliest first."""

    fault: int
    step: int
    last: int
    times: int
    cause: str
    strength: str
    title: str
    parameters: str
    evidence: str
    advice: str
    others: tuple[str, ...]


def faults(rows: pd.DataFrame) -> list[FaultRecord]:
    """The faults of the table that the monitor writes, in the order in which they were found."""
    if rows.empty:
        return []
    keys = [k for k in ("session", "fault") if k in rows]
    out = []
    for _, group in rows.groupby(keys, sort=False):
        latest = group[group["times"] == group["times"].max()].sort_values("rank")
        first = {str(k): v for k, v in latest.iloc[0].items()}
        values: dict[str, Any] = {k: int(first.get(k, 0)) for k in ("fault", "step", "last", "times")}
        values |= {k: str(first.get(k, "")) for k in ("cause", "strength", "title", "parameters", "evidence", "advice")}
        others = tuple(f"{row.title} ({row.strength})" for row in latest.iloc[1:].itertuples())
        out.append(FaultRecord(**values, others=others))
    return out
