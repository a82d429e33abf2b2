"""Judges the runs of `experiments.compute_faults`: which wrong elements the laws see, by size, place and product.

    python -m analysis.compute_faults runs/compute_faults

Two yardsticks. The monitor's is sqrt(eps), fixed beforehand: no run is ever accused for its rounding. The sharp one is
`FACTOR` times the largest torque that a member had in the first clean steps. `FACTOR` alone was fixed before any fault
was looked at. What it multiplies was not: it was the largest torque of the family at first, and became that of each
member after the results of trials had been seen. What the sharp yardstick catches is therefore no blind measurement.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from analysis.reporting import asked, show, verdict
from neuromech.record import read

FACTOR = 4.0
LARGE = 100.0  # roundings of the sum
EDGES = [0, 1, 10, 100, 1e3, 1e4, 1e6, np.inf]


def seen(faults: pd.DataFrame) -> pd.DataFrame:
    """With whether the monitor, and whether the sharp yardstick, saw each fault."""
    lost = ~faults["finite"].astype(bool)
    return faults.assign(monitor=(faults["monitor"] > 1) | lost, sharp=(faults["sharp"] > FACTOR) | lost)


def shares(faults: pd.DataFrame, by: str | list[str]) -> pd.DataFrame:
    table = faults.groupby(by, observed=True).agg(
        faults=("bit", "size"), without_trace=("reached", lambda r: 1 - r.mean()),
        monitor=("monitor", "mean"), sharp=("sharp", "mean"),
    )  # fmt: skip
    return table.reset_index()


def main() -> int:
    run = read(asked(__doc__)[0])
    faults, clean, tolerances = seen(run.frame("faults")), run.frame("clean"), run.frame("tolerances")
    faults["size"] = pd.cut(faults["roundings"].fillna(np.inf), EDGES, right=False).astype(str)
    show(shares(faults, ["model", "size"]))
    large = faults[(faults["roundings"] > LARGE) | ~faults["finite"].astype(bool)]
    print(f"\nabove {LARGE:g} roundings of the sum, by product and by layer:")
    show(shares(large, ["model", "product"]))
    show(shares(large, ["model", "layer", "covered"]))
    print("\nabove 100 roundings, by bit:")
    show(shares(large, "bit"))
    tolerances["monitor"] = tolerances["allowed"] / tolerances["actual"]
    tolerances["sharp"] = FACTOR * tolerances["largest"] / tolerances["actual"]
    usual = tolerances[tolerances["actual"] > 0].groupby(["model", "dtype"])
    print("\nwhat is allowed over the actual torque of clean steps (rms), median and largest over families:")
    show(usual[["monitor", "sharp"]].agg(["median", "max"]).reset_index(), "{:.3g}")
    checks = int(clean["members"].sum())
    alarms = {"monitor": int((clean["monitor"] > 1).sum()), "sharp": int((clean["sharp"] > FACTOR).sum())}
    live = large[large["covered"].astype(bool) & large["reached"].astype(bool)]
    rate = {k: float(live[k].mean()) for k in ("monitor", "sharp")}
    said = (
        f"{len(live)} faults above {LARGE:g} roundings that change a gradient, in layers that a family covers: "
        f"{rate['monitor']:.1%} seen by the monitor, {rate['sharp']:.1%} by the sharp yardstick; {checks} clean "
        f"checks: {alarms['monitor']} and {alarms['sharp']} steps with an alarm"
    )
    low = float(usual["sharp"].median()[:, "bfloat16"].max())
    good = rate["sharp"] >= 0.95 and not any(alarms.values()) and low <= 50
    return verdict(good, "the checksum of compute holds", "THE CHECKSUM OF COMPUTE FALLS SHORT", said)


if __name__ == "__main__":
    sys.exit(main())
