"""Judges runs of `experiments.edge_of_stability`: do flows follow the optimizer past the edge, and as the goals ask?

    python -m analysis.edge_of_stability runs/edge_of_stability [--figures figures]

Loss and sharpness are compared in means over `WINDOW` steps, where the optimizer's sharpness is past the edge. Charges:
the distance of the vector of all charges from the optimizer's at the end, relative to its length.
Exits with 1 if a goal is missed by the first run, gradient descent on the perceptron for 1,000 steps, or by forecasts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.reporting import asked, show, verdict
from experiments.runs import finished
from neuromech.record import read

WINDOW = 50
SERIES = {
    "steps": "optimizer",
    "edge flow": "edge flow",
    "central flow": "central flow",
    "gradient flow": "gradient flow",
}
WITHIN = {"loss": 0.02, "sharpness": 0.02, "charges": 0.05}
FLOW_OFF = 0.5  # what the gradient flow's charges have to be off by, for the comparison to mean something
AUC = 0.9


def windows(path: pd.DataFrame) -> pd.DataFrame:
    """Means of loss and sharpness by series over those windows of `WINDOW` steps that are past the edge."""
    grouped = path.assign(window=(path["step"] - 1) // WINDOW).groupby(["window", "series"])
    means: pd.DataFrame = grouped[["loss", "sharpness"]].mean().unstack("series")  # type: ignore[assignment]
    past: pd.DataFrame = means[means["sharpness"]["steps"] > 1.0]
    return past


def row(directory: Path) -> dict[str, object]:
    """What one run says: mean and worst relative errors past the edge, and those of the charges at the end."""
    record = read(directory)
    path, charges = (record.frame(name, every_session=True) for name in ("path", "charges"))
    means = windows(path)
    out: dict[str, object] = {"run": directory.name, "steps": int(path["step"].max()), "windows": len(means)}
    for series in ("edge flow", "central flow", "gradient flow"):
        short = series.split()[0]
        for quantity in ("loss", "sharpness"):
            off = (means[quantity][series] / means[quantity]["steps"] - 1.0).abs()
            out[f"{short} {quantity}"], out[f"{short} {quantity}, worst"] = off.mean(), off.max()
        off = charges[series.replace(" ", "_")]
        out[f"{short} charges"], out[f"{short} charges, mean"] = off.iloc[-1], off.mean()
        if series != "gradient flow":
            out[f"{short} charges by covariance"] = charges[f"covariance_of_{short}_flow"].iloc[-1]
    return out


def area_under_curve(score: pd.Series, crossed: pd.Series) -> float:
    """The probability that a run that crosses is given a higher forecast than one that does not."""
    ranks = score.rank()
    positive = crossed.astype(bool)
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def figure(directory: Path, out: Path) -> Path:
    """Loss, sharpness and swing over steps, and how far the charges of each flow are off."""
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.figure import Figure

    record = read(directory)
    path, charges = (record.frame(name, every_session=True) for name in ("path", "charges"))
    colors = dict(zip(SERIES, ("black", *sns.color_palette("colorblind", 3)), strict=True))
    with sns.axes_style("ticks"), mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
        canvas = Figure(figsize=(11.5, 3.0), layout="constrained")
        axes = canvas.subplots(1, 4)
        for ax, quantity, title in zip(
            axes, ("loss", "sharpness", "swing"), ("loss", "sharpness / edge", "swing"), strict=False
        ):
            for series, name in SERIES.items():
                one = path[path["series"] == series]
                if quantity != "swing" or series != "gradient flow":
                    style = {"lw": 2.4, "alpha": 0.35} if series == "steps" else {"lw": 1.1}
                    ax.plot(one["step"], one[quantity], color=colors[series], label=name, **style)
            ax.set(title=title, xlabel="step", yscale="linear" if quantity == "sharpness" else "log")
        axes[2].set_ylim(bottom=max(1e-6, path.loc[path["swing"] > 0, "swing"].min()))
        axes[1].axhline(1.0, color="#aaaaaa", lw=0.8)
        for series in ("edge flow", "central flow", "gradient flow"):
            axes[3].plot(charges["step"], charges[series.replace(" ", "_")], color=colors[series], lw=1.1)
        axes[3].plot(charges["step"], charges["covariance_of_edge_flow"], ":", color=colors["edge flow"], lw=1.1)
        axes[3].set(title="charges off by (dotted: covariance)", xlabel="step", yscale="log")
        axes[0].legend(frameon=False, fontsize=8)
        for ax in axes:
            sns.despine(ax=ax)
        out.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(out, dpi=150)
    return out


def main() -> int:
    runs, figures = asked(__doc__)
    found = finished(runs)
    paths = [d for d in found if "path" in read(d).tables]
    table = pd.DataFrame([row(d) for d in paths])
    for d in paths:
        figure(d, figures / f"edge_of_stability_{d.name}.png")
    print(f"past the edge, relative to the optimizer, in means over {WINDOW} steps:")
    show(table.set_index("run").T, "{:.3g}", index=True)
    goals = dict[str, bool]()
    first = table[table["run"] == "mlp_0"]
    if len(first):
        one = first.iloc[0]
        for quantity, most in WITHIN.items():
            goals[f"edge flow, {quantity} within {most:.0%}: {one[f'edge {quantity}']:.2%}"] = (
                float(one[f"edge {quantity}"]) <= most
            )
        off = float(one["gradient charges"])
        goals[f"gradient flow, charges off by more than {FLOW_OFF:.0%}: {off:.0%}"] = off > FLOW_OFF
    for d in found:
        record = read(d)
        if "forecasts" in record.tables:
            told = record.frame("forecasts", every_session=True)
            told = told[~told["past_already"].astype(bool) & np.isfinite(told["forecast"])]
            area = area_under_curve(told["forecast"], told["crossed"])
            what = f"{len(told)} runs still stable when told, {int(told['crossed'].sum())} crossed"
            goals[f"forecast, AUC above {AUC}: {area:.3f} ({what})"] = area > AUC
    for goal, held in goals.items():
        print("held  " if held else "MISSED", goal)
    return verdict(
        all(goals.values()), "the flows follow the optimizer past the edge", "A GOAL IS MISSED", "; ".join(goals)
    )


if __name__ == "__main__":
    sys.exit(main())
