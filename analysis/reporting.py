"""What the analyses of fields and densities share: their command line, their tables, errors over training time."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from neuromech.record import read


def asked(description: str | None) -> tuple[Path, Path]:
    """The directory of the runs, and that of the figures, from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--figures", type=Path, default=None, help="where to put the figures; default: beside the runs")
    options = parser.parse_args()
    return options.runs, options.figures or options.runs.parent / "figures"


def show(table: pd.DataFrame, form: str = "{:.2g}", index: bool = False) -> None:
    """Print a table, its numbers in one form."""
    with pd.option_context("display.float_format", form.format, "display.width", 160, "display.max_columns", None):
        print(table.to_string(index=index))


# What the methods of the fields and densities are called in pictures.
WORDS = {
    "ncl": "by construction",
    "ncl-start": "by construction,\nstart built in",
    "pinn": "by penalty",
    "pinn-start": "by penalty,\nstart built in",
    "pinn-100": "by penalty, 100",
    "curl": "curl, walls by penalty",
}
FEW = 500  # steps of training, below which a run says nothing of what it would come to
MEASURED = "measured: "


def verdict(holds: bool, kept: str, missed: str, measured: str = "", enough: bool = True) -> int:
    """Print what was measured and whether that is what was claimed; the exit code of the analysis.

    `enough`: was it trained long enough to be judged?
    """
    if not enough:
        print("too few steps to judge")
        return 0
    if measured:
        print(MEASURED + measured)
    print(kept if holds else missed)
    return 0 if holds else 1


def errors_over_time(runs: pd.DataFrame, of: str, out: Path, every: float) -> Path:
    """Errors against CPU time, mean and range over the runs of a method; times are rounded to `every` seconds."""
    import seaborn as sns
    from matplotlib.figure import Figure

    rows = [
        read(run["path"]).frame("progress").assign(method=WORDS.get(run["method"], run["method"]).replace("\n", " "))
        for _, run in runs.iterrows()
    ]
    table = pd.concat(rows, ignore_index=True)
    table["seconds"] = (table["seconds"] / every).round() * every
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    ax = figure.subplots()
    sns.lineplot(table, x="seconds", y="error", hue="method", style="method", markers=True, errorbar=("pi", 100), ax=ax)
    ax.set(yscale="log", xlabel="CPU seconds", ylabel=f"relative error of {of}")
    sns.despine(ax=ax)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    return out
