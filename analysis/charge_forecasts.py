"""Judges runs of `experiments.charge_forecasts`: where charges of rescalings end, foreseen after a fifth of a run.

    python -m analysis.charge_forecasts runs/charge_forecasts

Errors are relative to the squared lengths of both sides, and stand beside those of the forecast that nothing changes.
Exits with 1 if the median error is not less than half of that forecast's, or the share of 80 % intervals that hold is
off by more than 5 points.
"""

from __future__ import annotations

import sys

from analysis.reporting import asked, show, verdict
from neuromech.record import read

HALF, LEVEL, POINTS = 0.5, 0.8, 0.05


def main() -> int:
    directory, _ = asked(__doc__)
    rows = read(directory).frame("forecasts", every_session=True)
    rows["held"] = (rows["came"] >= rows["low"]) & (rows["came"] <= rows["high"])
    for by in ("model", "momentum", "schedule", "weight_decay"):
        both = rows.groupby(by)[["error", "baseline"]].agg(["median", "max"])
        both.columns = [" ".join(name) for name in both.columns]
        show(both.assign(held=rows.groupby(by)["held"].mean()).reset_index(), "{:.3f}")
        print()
    error, baseline = (float(rows[c].median()) for c in ("error", "baseline"))
    share = float(rows["held"].mean())
    said = (
        f"after 20 %, over {len(rows)} charges, the end is off by {error:.1%} of the sides in the median and "
        f"{rows['error'].max():.0%} at worst, that nothing changes by {baseline:.1%} and {rows['baseline'].max():.0%}; "
        f"{share:.0%} of the 80 % intervals hold"
    )
    good = error <= HALF * baseline and abs(share - LEVEL) <= POINTS
    return verdict(good, "the forecasts hold", "short of half the error and 75 to 85 %", said)


if __name__ == "__main__":
    sys.exit(main())
