"""Judges a run of `experiments.norm_decay`: measured decay rates beside gradient flow's and the equation of motion's.

    python -m analysis.norm_decay runs/norm_decay [--figure norm_decay.png]

Rates are fitted to the logarithm of the charge over time; of the norm, after the drive lr^2 |g|^2 of each step has been
taken off. Exits with 1 if what is left over by order p of the series does not fall as (lr decay)^(p+1), within 0.1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.reporting import asked, verdict
from neuromech.record import read

ORDERS = range(4)
TOLERANCE = 0.1
CHARGES = {"norm": "batch norm: |w|² without drive", "shift": "softmax: sum over classes"}


def series(x: np.ndarray | pd.Series | float, order: int) -> Any:
    """1 + x/2 + x^2/3 + .. + x^order/(order + 1), with x = lr * decay: the rate in units of the gradient flow's."""
    return sum(x**k / (k + 1) for k in range(order + 1))


def fitted(path: pd.DataFrame) -> dict[str, float]:
    """Decay rates of one run, in units of those of the gradient flow, 2 decay and decay."""
    lr, decay = float(path["lr"].iloc[0]), float(path["weight_decay"].iloc[0])
    time, norm, drive = (path[name].to_numpy() for name in ("time", "norm", "drive"))
    logs = np.concatenate([[0.0], np.cumsum(np.log((norm[1:] - lr**2 * drive[1:]) / norm[:-1]))])
    shift = np.log(path["shift"].to_numpy() / path["shift"].iloc[0])
    return {
        "lr": lr,
        "weight_decay": decay,
        "norm": float(-np.polyfit(time, logs, 1)[0] / (2 * decay)),
        "shift": float(-np.polyfit(time, shift, 1)[0] / decay),
    }


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a run: measured rates, and the series to each order; all in units of the rate of the gradient flow."""
    rows = pd.DataFrame([fitted(path) for _, path in frame.groupby(["lr", "weight_decay"])])
    rows.insert(2, "lr*decay", rows["lr"] * rows["weight_decay"])
    for order in ORDERS:
        rows["flow" if order == 0 else f"order {order}"] = series(rows["lr*decay"], order)
    return rows.sort_values("lr*decay", kind="stable").reset_index(drop=True)


def left_over(rates: pd.DataFrame) -> pd.DataFrame:
    """Slope of log |measured - series| against log (lr decay) by charge and order, which should be order + 1.

    Fitted to the smaller half of the runs, where the next term of the series is most of what is left over.
    """
    small = rates.head(max(2, len(rates) // 2))
    log = np.log(small["lr*decay"])
    slopes = {
        name: [np.polyfit(log, np.log(np.abs(small[name] - series(small["lr*decay"], p))), 1)[0] for p in ORDERS]
        for name in CHARGES
    }
    return pd.DataFrame(slopes, index=pd.Index(ORDERS, name="order"))


def motion(path: pd.DataFrame, order: int) -> np.ndarray:
    """|w|^2 by the gradient flow (order 0) or the equation of motion to order 1, which is driven by lr |g|^2."""
    lr, decay = float(path["lr"].iloc[0]), float(path["weight_decay"].iloc[0])
    rate = 2 * decay * series(lr * decay, order)
    out = [float(path["norm"].iloc[0])]
    for gradient in path["drive"].to_numpy()[1:]:
        settled = lr * gradient / rate if order else 0.0
        out.append(settled + (out[-1] - settled) * float(np.exp(-rate * lr)))
    return np.array(out)


def figure(frame: pd.DataFrame, rates: pd.DataFrame, path: Path) -> None:
    """Left: one norm over time. Middle: how much faster than the gradient flow. Right: what each order leaves over."""
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.figure import Figure

    with sns.axes_style("ticks"), mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
        canvas = Figure(figsize=(10.2, 3.1), layout="constrained")
        left, middle, right = canvas.subplots(1, 3)
        colors = sns.color_palette("viridis", len(ORDERS) + 1)
        lr, decay = frame["lr"].max(), sorted(frame["weight_decay"].unique())[-2]
        one = frame[(frame["lr"] == lr) & (frame["weight_decay"] == decay)]
        left.semilogy(one["time"], motion(one, 0), color="#888888", lw=1.2, ls="--", label="gradient flow")
        left.semilogy(one["time"], motion(one, 1), color=colors[1], lw=1.5, label="equation of motion, order 1")
        left.semilogy(one["time"], one["norm"], "o", color="black", ms=3, mfc="none", label="SGD")
        left.set_title(f"|w|² before batch norm, lr {lr:g}, decay {decay:g}")
        left.set_xlabel("time (sum of lr)")
        left.legend(frameon=False, fontsize=8)
        x = np.geomspace(rates["lr*decay"].min(), rates["lr*decay"].max(), 50)
        marks = {"norm": ("o", 5.5), "shift": ("x", 4.5)}
        for name, (mark, size) in marks.items():
            middle.plot(rates["lr*decay"], rates[name], mark, color="black", ms=size, mfc="none", label=CHARGES[name])
        for order in reversed(ORDERS[1:]):
            middle.plot(x, series(x, order), color=colors[order], lw=1.2, label=f"order {order}")
        middle.axhline(1.0, color="#888888", lw=1.2, ls="--", label="gradient flow")
        middle.set_title("decay rate / rate of the gradient flow")
        middle.set_xlabel("lr · decay")
        middle.legend(frameon=False, fontsize=7.5)
        for order in ORDERS:
            right.loglog(x, x ** (order + 1) / (order + 2), color="#bbbbbb", lw=1, zorder=1)
            for name, (mark, size) in marks.items():
                off = np.abs(rates[name] - series(rates["lr*decay"], order))
                right.loglog(rates["lr*decay"], off, mark, color=colors[order], ms=size - 1, mfc="none", zorder=2)
            end = (x[-1], x[-1] ** (order + 1) / (order + 2))
            label = "gradient flow" if order == 0 else f"order {order}"
            right.annotate(f"{label}, slope {order + 1}", end, (5, 0), textcoords="offset points", va="center",
                           fontsize=8, color=colors[order])  # fmt: skip
        right.set_title("|measured − predicted| / rate of the gradient flow")
        right.set_xlabel("lr · decay")
        right.set_xlim(x[0] * 0.8, x[-1] * 14)
        right.set_xticks([0.01, 0.1], ["0.01", "0.1"])
        right.set_xticks([], minor=True)
        for ax in (left, middle, right):
            sns.despine(ax=ax)
        canvas.savefig(path, dpi=160)


def main() -> int:
    runs, figures = asked(__doc__)
    frame = read(runs).frame("decay", every_session=True)
    rates, slopes = table(frame), left_over(table(frame))
    print("decay rates in units of the gradient flow's, 2 decay (norm) and decay (shift):")
    print(rates.to_string(index=False, float_format="{:.6f}".format, formatters=dict.fromkeys(
        ("lr", "weight_decay", "lr*decay"), "{:g}".format)))  # fmt: skip
    print("slope of what is left over against lr * decay (wanted: order + 1):")
    print(slopes.to_string(float_format="{:.2f}".format))
    figure(frame, rates, figures / "norm_decay.png")
    holds = bool((slopes.sub(slopes.index + 1, axis=0).abs() <= TOLERANCE).all(axis=None))
    off = float(slopes.sub(slopes.index + 1, axis=0).abs().to_numpy().max())
    said = f"slopes of what {len(ORDERS)} orders leave over, off order + 1 by at most {off:.2f}"
    kept, missed = "rates are the equation of motion's, order by order", "RATES ARE NOT THOSE OF THE SERIES"
    return verdict(holds, kept, missed, said)


if __name__ == "__main__":
    sys.exit(main())
