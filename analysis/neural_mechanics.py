"""Draws and judges the runs of `experiments.neural_mechanics`: predicted on observed, as in Kunin et al. 2021.

    python -m analysis.neural_mechanics runs/neural_mechanics [--figures DIRECTORY]

Writes one figure a network. Exits with 1 if an exact law is off by more than rounding can add up to, or if the
continuous law is not off by more than that wherever momentum or weight decay sets the two apart (SGD, double
precision), or there not 1e6 times further off in the median. A network that hardly moves, as VGG-16 without batch norm
at a low rate, obeys the continuous law to many digits too: for single runs there is no such factor to ask for.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.reporting import asked, verdict
from experiments.runs import RECORD, finished
from neuromech.record import read
from neuromech.report.figures import OBSERVED
from neuromech.rounding import eps_of, rounding_bound

TIMES = 1e6
KINDS = {"translation": "sum of weights", "scale": "squared length", "rescale": "difference of squared lengths"}
DECAYS = ("#0072B2", "#009E73", "#D55E00", "#AA4499")
NAMES = {"vgg16-bn": "VGG-16 with batch norm", "vgg16": "VGG-16 without batch norm", "vit": "ViT", "gpt": "GPT"}
SETTINGS = ("model", "optimizer", "momentum", "weight_decay", "dtype")


def load(directory: Path) -> pd.DataFrame:
    """One row a recorded step and family of one run: its charge, the laws, and the settings of the run."""
    run, config = read(directory / RECORD), read(directory).meta
    charges = run.frame("charges").query("member == -1")
    families = [(s["kind"], s["name"]) for s in run.meta["symmetries"]]
    kinds, names = ([families[i][k] for i in charges["symmetry"]] for k in (0, 1))
    known = {k: config[k] for k in SETTINGS}
    return charges.assign(run=directory.name, kind=kinds, family=names, **known, way=way(known))


def way(known: dict[str, Any]) -> str:
    """How a run was trained, in words."""
    if known["optimizer"] != "sgd":
        return {"adamw": "AdamW", "muon": "Muon and AdamW"}[known["optimizer"]]
    return f"SGD with momentum {known['momentum']:g}" if known["momentum"] else "SGD"


def liveliest(data: pd.DataFrame) -> set[str]:
    """Of every kind the family that moves most over all runs, relative to its size."""
    best: dict[str, tuple[float, str]] = {}
    for (kind, name), rows in data.groupby(["kind", "family"]):
        of_run = rows.groupby("run")
        moved = float(((of_run["observed"].max() - of_run["observed"].min()) / of_run["scale"].max()).sum())
        best[str(kind)] = max(best.get(str(kind), (-1.0, "")), (moved, str(name)))
    return {name for _, name in best.values()}


def judge(data: pd.DataFrame) -> pd.DataFrame:
    """One row a run and kind: how far the laws are off at worst, relative to the largest size so far."""
    rows = []
    for (run, kind), own in data.groupby(["run", "kind"]):
        size = own.groupby("symmetry")["scale"].cummax()
        off = {law: float(((own[law] - own["observed"]).abs() / size).max()) for law in ("exact", "continuous")}
        first = own.iloc[0]
        # Without weight decay nothing moves a translation, and without momentum both laws are one. The continuous law
        # speaks of SGD alone; in single precision rounding may be all that both are off by.
        same = not first["weight_decay"] and (kind == "translation" or not first["momentum"])
        same = same or first["optimizer"] != "sgd" or first["dtype"] != "float64"
        bound = rounding_bound(float(own["step"].max()), eps_of(str(first["dtype"])))
        holds = off["exact"] <= bound and (same or off["continuous"] > bound)
        rows.append(
            {"run": run, "kind": kind}
            | off
            | {"times": off["continuous"] / off["exact"], "apart": not same, "holds": holds}
        )
    return pd.DataFrame(rows)


def draw(data: pd.DataFrame, path: Path) -> Path:
    """Rows: kinds of symmetry; columns: optimizers; colours: weight decays."""
    from matplotlib.figure import Figure

    kinds = [k for k in KINDS if k in set(data["kind"])]
    ways, shown = sorted(set(data["way"])), data["family"].isin(liveliest(data))
    figure = Figure(figsize=(max(9.6, 2.6 * len(ways) + 4.4), 2.5 * len(kinds) + 0.9), layout="constrained")
    axes: Any = figure.subplots(len(kinds), len(ways), squeeze=False, sharex=True)
    for i, kind in enumerate(kinds):
        for j, name in enumerate(ways):
            ax, here = axes[i, j], data[(data["kind"] == kind) & (data["way"] == name) & shown]
            for colour, (decay, rows) in zip(DECAYS, here.groupby("weight_decay"), strict=False):
                some = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, 26).astype(int))]
                ax.plot(some["step"], some["observed"], "o", color=colour, markersize=5, markerfacecolor="white")
                ax.plot(rows["step"], rows["exact"], color=colour, linewidth=1.5, label=f"weight decay {decay:g}")
                ax.plot(rows["step"], rows["continuous"], color="#222222", linewidth=0.9, linestyle=(0, (2, 2)))
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color="#eeeeee")
            if i == 0:
                ax.set_title(name, fontsize=11)
            if j == 0:
                ax.set_ylabel(f"{kind}\n{KINDS[kind]}")
            if i == len(kinds) - 1:
                ax.set_xlabel("step")
    axes[0, 0].plot([], [], "o", color=OBSERVED, markerfacecolor="white", label="observed")
    axes[0, 0].plot([], [], color=OBSERVED, linewidth=1.5, label="exact law")
    axes[0, 0].plot([], [], color="#222222", linewidth=0.9, linestyle=(0, (2, 2)), label="continuous law")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(f"{NAMES[str(data['model'].iloc[0])]}: charges predicted and observed", fontsize=12)
    figure.savefig(path, dpi=130)
    return path


def main() -> int:
    directory, figures = asked(__doc__)
    data = pd.concat([load(p) for p in finished(directory)], ignore_index=True)
    figures.mkdir(parents=True, exist_ok=True)
    for model, own in data.groupby("model"):
        print(draw(own, figures / f"neural_mechanics_{model}.png"))
    table = judge(data)
    with pd.option_context("display.float_format", "{:.1e}".format, "display.width", 160):
        print(table.to_string(index=False))
    missed = int((~table["holds"]).sum())
    times = table.loc[table["apart"], "times"]
    said = f"exact laws off by at most {table['exact'].max():.1e}, in {len(table)} runs and kinds of symmetry"
    if len(times):
        said += (
            f"; the continuous law is {times.median():.1e} times further off in the median of {len(times)}, "
            f"{times.min():.1e} at least"
        )
    near = len(times) and times.median() < TIMES
    failure = "the continuous law is nearly as good" if near else f"{missed} laws miss their bounds"
    return verdict(not (missed or near), "every law holds", failure, said)


if __name__ == "__main__":
    sys.exit(main())
