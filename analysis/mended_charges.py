"""Judges the runs of `experiments.mended_charges`: how far charges are from the law of the gradient flow.

    python -m analysis.mended_charges runs/mended_charges [--figure mended_charges.png]

Exits with 1 if the drift of the rescale charges does not fall as lr^(p+1), within 0.25, for every order p.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.reporting import asked, verdict
from experiments.runs import RECORD, finished
from neuromech.record import read

TOLERANCE = 0.25
NAMES = {0: "SGD", 1: "EoMOptimizer, order 1", 2: "EoMOptimizer, order 2"}


def drift(directory: Path) -> pd.DataFrame:
    """Of one run: by step, the largest |charge - law of the flow| / scale over the members of the rescale family."""
    run = read(directory / RECORD)
    charges = run.frame("charges").merge(run.frame("steps")[["step", "lr", "time"]], on="step", how="left")
    kinds = [s["kind"] for s in run.meta["symmetries"]]
    group = run.meta["optimizers"][0]["groups"][0]
    decay = float(group["weight_decay"]) / (1.0 - float(group["momentum"]))
    rows = charges[(charges["member"] >= 0) & (charges["symmetry"].map(kinds.__getitem__) == "rescale")]
    rows = rows.sort_values("step").fillna({"time": 0.0})
    start = rows.groupby(["symmetry", "member"])["observed"].transform("first")
    law = start * np.exp(-2.0 * decay * rows["time"])
    rows = rows.assign(drift=(rows["observed"] - law).abs() / rows["scale"])
    out = rows.groupby("step", as_index=False)[["time", "drift"]].max()
    order, lr = directory.name.removeprefix("order").split("-lr")
    return out.assign(order=int(order), lr=float(lr))


def fitted(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per order: the drift at the end of each run, and the slope at the two smallest learning rates."""
    ends = runs.sort_values("step").groupby(["order", "lr"])["drift"].last().unstack("lr")
    rates = sorted(map(float, ends.columns))
    slope = np.log(ends[rates[1]] / ends[rates[0]]) / math.log(rates[1] / rates[0])
    return ends[rates[::-1]].assign(slope=slope)


def figure(runs: pd.DataFrame, path: Path) -> None:
    """Left: the drift over time at the largest lr. Right: the drift at the end against lr."""
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"font.size": 9, "axes.titlesize": 9}
    with sns.axes_style("ticks"), mpl.rc_context(style):
        canvas = Figure(figsize=(8.4, 3.0), layout="constrained")
        left, right = canvas.subplots(1, 2, sharey=True)
        colors = sns.color_palette("viridis", len(NAMES) + 1)
        largest = runs["lr"].max()
        for (order, name), color in zip(NAMES.items(), colors, strict=False):
            one = runs[runs["order"] == order]
            path_ = one[(one["lr"] == largest) & (one["step"] > 0)].sort_values("step")
            left.semilogy(path_["time"], path_["drift"], color=color, lw=1.5, label=name)
            ends = one.sort_values("step").groupby("lr")["drift"].last()
            lr, size = ends.index.to_numpy(float), ends.to_numpy()
            right.loglog(lr, size[0] * (lr / lr[0]) ** (order + 1), color="#bbbbbb", lw=1, zorder=1)
            right.loglog(lr, size, "o", color=color, ms=5, zorder=2)
            at = (lr[-1], size[0] * (lr[-1] / lr[0]) ** (order + 1))
            right.annotate(f"slope {order + 1}", at, (5, 0), textcoords="offset points", va="center", color="#666666",
                           fontsize=8)  # fmt: skip
        left.set_title(f"ReLU pairs at lr {largest:g}")
        left.set_xlabel("time (sum of lr)")
        left.set_ylabel("|charge − law of the flow| / scale")
        left.legend(frameon=False, fontsize=8, loc="lower right")
        right.set_title("after the whole time")
        right.set_xlabel("learning rate")
        right.set_xlim(lr[0] * 0.8, largest * 1.6)
        right.set_xticks(lr, [f"{v:g}" for v in lr])
        right.set_xticks([], minor=True)
        for ax in (left, right):
            sns.despine(ax=ax)
            ax.grid(axis="y", color="#eeeeee", lw=0.6)
        canvas.savefig(path, dpi=160)


def main() -> int:
    runs, figures = asked(__doc__)
    measured = pd.concat(map(drift, finished(runs)), ignore_index=True)
    table = fitted(measured)
    with pd.option_context("display.float_format", "{:.2e}".format, "display.width", 160):
        print(table.to_string(formatters={"slope": "{:.2f}".format}))
    figure(measured, figures / "mended_charges.png")
    holds = bool(((table["slope"] - table.index - 1).abs() <= TOLERANCE).all())
    said = "slopes " + ", ".join(f"{slope:.2f} (order {order})" for order, slope in table["slope"].items())
    return verdict(holds, "the law is mended to the predicted order", "THE LAW IS NOT MENDED AS PREDICTED", said)


if __name__ == "__main__":
    sys.exit(main())
