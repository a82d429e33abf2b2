"""Judges the runs of `experiments.predicted_charges`: the largest relative residual of every law, by kind of symmetry.

    python -m analysis.predicted_charges runs/predicted_charges

Exits with 1 if the exact law of any family misses its bound: 1e-12 in float64, 1e-5 in float32.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from analysis.reporting import asked, verdict
from experiments.runs import RECORD, finished
from neuromech.record import read

BOUNDS = {"float64": 1e-12, "float32": 1e-5}
RESIDUALS = {
    "residual": "exact",
    "ideal_residual": "ideal",
    "continuous_residual": "continuous",
    "flow_residual": "flow",
}


def largest_residuals(directory: Path) -> pd.DataFrame:
    """One row per kind of symmetry of one run."""
    run = read(directory / RECORD)
    charges = run.frame("charges").query("member == -1")
    kinds = [s["kind"] for s in run.meta["symmetries"]]
    worst = charges.groupby("symmetry")[list(RESIDUALS)].max()
    table = worst.groupby([kinds[i] for i in worst.index]).max().rename(columns=RESIDUALS)
    table.insert(0, "dtype", run.meta["dtype"])
    table.insert(0, "run", directory.name)
    table.insert(2, "steps", charges["step"].max())
    return table.rename_axis("kind").reset_index()


def main() -> int:
    table = pd.concat(map(largest_residuals, finished(asked(__doc__)[0])), ignore_index=True)
    table["verdict"] = (table["exact"] <= table["dtype"].map(BOUNDS)).map({True: "holds", False: "MISSES ITS BOUND"})
    with pd.option_context("display.float_format", "{:.1e}".format, "display.width", 160):
        print(table.to_string(index=False))
    missed = int((table["verdict"] != "holds").sum())
    worst = ", ".join(f"{x:.1e} in {kind}" for kind, x in table.groupby("dtype")["exact"].max().items())
    said = f"largest relative residual {worst}"
    return verdict(not missed, "every exact law holds", f"{missed} exact laws miss their bounds", said)


if __name__ == "__main__":
    sys.exit(main())
