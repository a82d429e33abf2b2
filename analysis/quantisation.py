"""Judges the runs of `experiments.quantisation`: the error of rounded weights before and after balancing.

    python -m analysis.quantisation runs/quantisation

Exits with 1 if balancing changed the function of any network in float64 (relative distance of outputs beyond 1e-12), or
did not undo bad scaling: for every network and criterion the error at 8 bits must fall at least by half (median over
seeds). What it does to networks as they were trained is a measurement, not a claim.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from analysis.reporting import asked, verdict

UNCHANGED, FALLS_BY = 1e-12, 0.5


def errors(directory: Path) -> pd.DataFrame:
    """All rows of all runs."""
    return pd.concat([pd.read_csv(p) for p in sorted(directory.glob("*/errors.csv"))], ignore_index=True)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Median relative error of the outputs over seeds, and mean accuracy, one column a criterion."""
    index = ["network", "scaling", "bits"]
    error = rows.pivot_table(values="error", index=index, columns="balanced", aggfunc="median")
    accuracy = rows.pivot_table(values="accuracy", index=index, columns="balanced", aggfunc="mean")
    return pd.concat({"error": error, "accuracy": accuracy}, axis=1).sort_index(ascending=[True, True, False])


def undone(rows: pd.DataFrame) -> pd.DataFrame:
    """Error at 8 bits of the badly scaled copies in units of that without balancing."""
    bad = rows.query("scaling == 'badly scaled' and bits == 8")
    error = bad.pivot_table(values="error", index="network", columns="balanced", aggfunc="median")
    return error[["norm", "range"]].div(error["no"], axis=0)


def main() -> int:
    rows = errors(asked(__doc__)[0])
    with pd.option_context("display.width", 160):
        print(table(rows).to_string(float_format=lambda v: f"{v:.4f}"))
        print(f"\naccuracy before rounding: {rows.groupby('network')['accuracy before'].mean().round(4).to_dict()}")
        print("\nerror at 8 bits of badly scaled copies, in units of that without balancing")
        print(undone(rows).to_string(float_format=lambda v: f"{v:.3f}"))
    changed, ratio = float(rows["changed"].max()), float(undone(rows).max().max())
    same, better = changed <= UNCHANGED, ratio <= FALLS_BY
    print(
        f"\nlargest change of an output by balancing: {changed:.1e} ({'rounding' if same else 'THE FUNCTION CHANGED'})"
    )
    print(f"balancing {'undoes' if better else 'DOES NOT UNDO'} bad scaling: the error falls to {ratio:.2f} at most")
    said = f"error at 8 bits after balancing {ratio:.2f} of that before; outputs changed by {changed:.1e}"
    return verdict(same and better, "balancing undoes bad scaling", "BALANCING DOES NOT UNDO BAD SCALING", said)


if __name__ == "__main__":
    sys.exit(main())
