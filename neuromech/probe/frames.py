"""What was recorded of charges, as data frames with names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from neuromech.record import Record

if TYPE_CHECKING:
    import pandas as pd


def history(record: Record, names: Sequence[str]) -> pd.DataFrame:
    """The recorded charges of the families called `names`, with the lr and time of each step."""
    charges, steps = record.frame("charges"), record.frame("steps")
    if charges.empty:
        return charges
    out = _named(charges.merge(steps[["step", "lr", "time"]], on="step", how="left"), names)
    first = ["step", "symmetry", "name", "member", "lr", "time"]
    out = out[[*first, *out.columns.difference(first, sort=False)]]
    return out.sort_values(["step", "symmetry", "member"], ignore_index=True)


def averages(record: Record, names: Sequence[str]) -> pd.DataFrame:
    """The recorded charges of averaged weights."""
    out = record.frame("averages")
    return out if out.empty else _named(out, names)


def _named(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    return rows.assign(name=[names[i] for i in rows["symmetry"]])
