"""Judges a run of `experiments.discretization_error`: errors of discretisation against learning rate and curvature.

    python -m analysis.discretization_error runs/discretization_error [--figures figures]

Exits with 1 if the distance from the flow of order p does not fall as lr^(p+1), within `TOLERANCE`, at the two smallest
lr; if the prediction is off by more than `PREDICTED` there; or if a counter term anywhere makes the distance larger.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.reporting import asked, show, verdict
from neuromech.record import read

TOLERANCE = 0.1
PREDICTED = 0.1
NAMES = {0: "gradient flow", 1: "equation of motion, order 1", 2: "order 2"}


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a network and gain: slopes by order at the two smallest lr, the prediction there, and what terms gain."""
    rows = []
    for (network, gain), one in frame.groupby(["network", "gain"], sort=False):
        errors = one.pivot_table(index="lr", columns="order", values="error").sort_index()
        slopes = np.log(errors.iloc[1] / errors.iloc[0]) / np.log(errors.index[1] / errors.index[0])
        flow = one[one["order"] == 0].sort_values("lr")
        rows.append(
            {
                "network": network,
                "gain": gain,
                "sharpness": one["sharpness"].iloc[0],
                **{f"slope {int(order)}": slopes[order] for order in errors.columns},
                "predicted / measured": (flow["predicted"] / flow["error"]).iloc[0],
                "flow / moved": (flow["error"] / flow["moved"]).iloc[-1],
                "order 1 / flow": float((errors[1] / errors[0]).max()),
                "order 2 / order 1": float((errors[2] / errors[1]).max()),
            }
        )
    return pd.DataFrame(rows)


def figure(frame: pd.DataFrame, path: Path) -> None:
    """Left: distances against lr, one network. Right: relative distances of all against lr * sharpness."""
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.figure import Figure

    with sns.axes_style("ticks"), mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
        canvas = Figure(figsize=(8.6, 3.3), layout="constrained")
        left, right = canvas.subplots(1, 2)
        colors = ("#888888", *sns.color_palette("viridis", 2))
        name = frame["network"].iloc[0]
        one = frame[(frame["network"] == name) & (frame["gain"] == 1.0)]
        for order, label in NAMES.items():
            rows = one[one["order"] == order].sort_values("lr")
            left.loglog(rows["lr"], rows["error"], "o-", ms=4, color=colors[order], label=label)
        rows = one[one["order"] == 0].sort_values("lr")
        left.loglog(rows["lr"], rows["predicted"], "k:", lw=1.2, label="predicted")
        left.set(title=f"{name}: distance of gradient descent", xlabel="lr")
        left.legend(frameon=False, fontsize=8)
        for (network, gain), rows in frame.groupby(["network", "gain"], sort=False):
            mark = dict(zip(frame["network"].unique(), "osv^D", strict=False))[network]
            for order in NAMES:
                some = rows[rows["order"] == order].sort_values("lr")
                right.loglog(
                    some["lr"] * some["sharpness"],
                    some["error"] / some["moved"],
                    mark + "-",
                    ms=4,
                    lw=0.7,
                    mfc="none",
                    color=colors[order],
                    label=network if order == 0 and gain == 1.0 else None,
                )
        right.set(title="relative to the way, all networks", xlabel="lr · sharpness at the start")
        right.legend(frameon=False, fontsize=8)
        for ax in (left, right):
            sns.despine(ax=ax)
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(path, dpi=150)


def main() -> int:
    runs, figures = asked(__doc__)
    frame = read(runs).frame("errors", every_session=True)
    rows = table(frame)
    show(rows, "{:.3g}")
    figure(frame, figures / "discretization_error.png")
    slopes = all(bool(((rows[f"slope {p}"] - p - 1).abs() <= TOLERANCE).all()) for p in NAMES)
    predicted = bool(((rows["predicted / measured"] - 1.0).abs() <= PREDICTED).all())
    nearer = bool((rows[["order 1 / flow", "order 2 / order 1"]] < 1.0).all(axis=None))
    for what, held in (("orders", slopes), ("prediction", predicted), ("each counter term is nearer", nearer)):
        print("held  " if held else "MISSED", what)
    kept = "gradient descent is where the equation of motion says, order by order"
    fitted = ", ".join(f"{rows[f'slope {p}'].min():.2f} to {rows[f'slope {p}'].max():.2f}" for p in NAMES)
    missed = "GRADIENT DESCENT IS NOT WHERE THE SERIES SAYS"
    return verdict(slopes and predicted and nearer, kept, missed, f"slopes {fitted}")


if __name__ == "__main__":
    sys.exit(main())
