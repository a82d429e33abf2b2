"""Judges the runs of `experiments.fault_detection`: fault x caught x rank of the true cause, and the false alarms.

    python -m analysis.fault_detection runs/fault_detection

Exits with 1 unless at least 20 kinds of fault were tried, 95 % of all were caught within 100 steps with the true cause
among the first two, and nothing was told of clean runs, nor before a fault set in.
"""

from __future__ import annotations

import sys

import pandas as pd

from analysis.reporting import asked, verdict
from neuromech.record import read

WANTED, KINDS, WITHIN = 0.95, 20, 100


def by_fault(trials: pd.DataFrame) -> pd.DataFrame:
    """One row a kind of fault: runs, how many were caught, with the true cause first and among the first two, when."""
    trials = trials.assign(
        caught=trials["delay"].between(-1, WITHIN - 1, inclusive="right"),
        first=trials["rank"] == 1,
        second=trials["rank"].between(1, 2),
    )
    grouped = trials.groupby(["fault", "cause"], sort=False)
    table = grouped.agg(
        runs=("seed", "size"), caught=("caught", "sum"), first=("first", "sum"), second=("second", "sum"),
        delay=("delay", "median"), alarms=("alarms", "sum"),
    )  # fmt: skip
    return table.reset_index().rename(columns={"second": "top two", "delay": "median delay", "alarms": "false alarms"})


def share(trials: pd.DataFrame) -> float:
    """Of all faults, those that were caught in time with the true cause among the first two."""
    return float((trials["delay"].between(-1, WITHIN - 1, inclusive="right") & trials["rank"].between(1, 2)).mean())


def main() -> int:
    run = read(asked(__doc__)[0])
    trials, clean = run.frame("trials"), run.frame("clean")
    table = by_fault(trials)
    print(table.to_string(index=False))
    missed = trials[~trials["rank"].between(1, 2)]
    for row in missed.itertuples():
        print(f"missed: {row.fault}, seed {row.seed}: told {str(row.told) or 'nothing'}")
    told = clean[clean["alarms"] > 0] if len(clean) else clean
    for row in told.itertuples():
        print(f"false alarm: clean run {row.seed} ({row.run}): {row.told}")
    alarms = int(trials["alarms"].sum()) + len(told)
    steps = int(clean["steps"].sum()) if len(clean) else 0
    said = (
        f"{len(table)} kinds of fault, {len(trials)} runs: {share(trials):.1%} caught within {WITHIN} steps with the "
        f"true cause among the first two; {alarms} false alarms, {len(clean)} clean runs of {steps} steps in all"
    )
    good = len(table) >= KINDS and share(trials) >= WANTED and alarms == 0
    return verdict(good, "the monitor keeps its word", "THE MONITOR MISSES ITS FIGURES", said)


if __name__ == "__main__":
    sys.exit(main())
