"""Judges the runs of `experiments.eom_orders`: fitted slopes of log error against log lr, and a figure of the errors.

    python -m analysis.eom_orders runs/eom_orders [--figure eom_orders.png]

Exits with 1 if a smooth case of order p misses p + 1 by more than 0.1 at its two smallest learning rates, four for the
Adam family. What ReLU networks reach is reported, not judged.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.reporting import asked, verdict
from neuromech.record import read

TOLERANCE = 0.1
# Fields of the Adam family have kinks where an entry of the gradient is 0, and errors scatter with the place in a step
# where they are crossed, so a slope is fitted to more of them.
ADAPTIVE, SCATTERED = ("adam", "adamw", "rmsprop"), 4


def slopes(directory: Path) -> pd.DataFrame:
    """One row per direction, rule and order of one network, with the slope at the two smallest learning rates."""
    run = read(directory)
    rows = []
    for (direction, rule, order), group in run.frame("errors").groupby(["direction", "rule", "order"]):
        fine = group.sort_values("lr").head(SCATTERED if rule in ADAPTIVE else 2)
        slope = float(np.polyfit(np.log(fine["lr"]), np.log(fine["error"]), 1)[0])
        rows.append((run.meta["network"], direction, rule, order, slope, fine["error"].iloc[0], run.meta["sign_flips"]))
    columns = ["network", "direction", "rule", "order", "slope", "error", "flips"]
    table = pd.DataFrame(rows, columns=columns)
    off = (table["slope"] - table["order"] - 1).abs()
    table["verdict"] = np.where(off <= TOLERANCE, "holds", "MISSES ITS ORDER")
    table.loc[table["network"] == "relu", "verdict"] = "not judged"
    return table


def figure(root: Path, path: Path) -> None:
    """Errors against lr, of gradient descent in both directions, with the slopes that they should have."""
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.figure import Figure

    frame = read(root / "mlp").frame("errors")
    panels = {
        "descent on the equation of motion": ("analysis", "gd"),
        "heavy ball on its flow": ("analysis", "heavy ball"),
        "EoMOptimizer on the gradient flow": ("steps, hvp", "gd"),
    }
    with sns.axes_style("ticks"), mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
        canvas = Figure(figsize=(8.4, 2.9), layout="constrained")
        axes = canvas.subplots(1, len(panels), sharey=True)
        for ax, (title, (direction, rule)) in zip(axes, panels.items(), strict=True):
            some = frame[(frame["direction"] == direction) & (frame["rule"] == rule)]
            colors = sns.color_palette("viridis", 4)
            for order in sorted(set(map(int, some["order"]))):
                group = some[some["order"] == order]
                group = group.sort_values("lr")
                lr, error = group["lr"].to_numpy(), group["error"].to_numpy()
                guide = error[0] * (lr / lr[0]) ** (order + 1)
                ax.loglog(lr, guide, color="#bbbbbb", lw=1, zorder=1)
                ax.loglog(lr, error, "o", color=colors[order], ms=4, label=f"order {order}", zorder=2)
                ax.annotate(f"slope {order + 1}", (lr[-1], guide[-1]), (4, 0), textcoords="offset points",
                            va="center", fontsize=8, color="#666666")  # fmt: skip
            ax.set_title(title)
            ax.set_xlabel("learning rate")
            ax.set_xlim(0.0021, lr[-1] * 2.4)
            ax.set_xticks([0.0025, 0.005, 0.01, 0.02], ["0.0025", "", "0.01", ""])
            ax.set_xticks([], minor=True)
            sns.despine(ax=ax)
        axes[0].set_ylabel("distance after time 0.2")
        axes[0].legend(frameon=False, handletextpad=0.1, loc="lower right", fontsize=8)
        canvas.savefig(path, dpi=160)


def main() -> int:
    runs, figures = asked(__doc__)
    table = pd.concat([slopes(p) for p in sorted(runs.iterdir()) if p.is_dir()], ignore_index=True)
    with pd.option_context("display.float_format", "{:.3g}".format, "display.width", 160, "display.max_rows", 500):
        print(table.to_string(index=False))
    figure(runs, figures / "eom_orders.png")
    missed = int((table["verdict"] == "MISSES ITS ORDER").sum())
    said = f"{len(table) - missed} of {len(table)} fitted orders hold"
    return verdict(not missed, "every order holds", f"{missed} orders are missed", said)


if __name__ == "__main__":
    sys.exit(main())
