"""Judges the runs of `experiments.taylor_green`: error of the velocity and divergence, methods side by side.

    python -m analysis.taylor_green runs/taylor_green [--figures figures]

Every method counts with its best learning rate (least mean error over the seeds). Exits with 1 if the best method by
construction is worse than the best by penalty, or if a divergence by construction is not rounding (1e-6, float32).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch

from analysis.reporting import FEW, WORDS, asked, errors_over_time, show, verdict
from experiments.runs import config_of, finished
from experiments.taylor_green import Config, Penalised, Stream, exact
from neuromech.physics.fields.taylor import jacobian
from neuromech.record import read

ROUNDING = 1e-6


def results(directory: Path) -> pd.DataFrame:
    """One row a run: its settings and the last row of its progress."""
    rows = []
    for path in finished(directory):
        run = read(path)
        last = run.frame("progress").iloc[-1]
        rows.append({k: run.meta[k] for k in ("method", "lr", "seed", "seconds")} | last.to_dict() | {"path": path})
    return pd.DataFrame(rows)


def judged(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a method, at its best learning rate."""
    columns = {"seeds": ("seed", "nunique"), "steps": ("step", "mean"), "error": ("error", "mean")}
    spread = {"least": ("error", "min"), "largest": ("error", "max"), "divergence": ("divergence", "max")}
    table = runs.groupby(["method", "lr"]).agg(**columns, **spread).reset_index()
    enough = table[table["seeds"] == table.groupby("method")["seeds"].transform("max")]
    return enough.sort_values("error").groupby("method", sort=False).head(1).reset_index(drop=True)


def load(run: pd.Series) -> Stream | Penalised:
    """The trained flow of a run."""
    config = config_of(Config, run["path"])
    flow = (Stream if config.method.startswith("ncl") else Penalised)(config)
    flow.load_state_dict(torch.load(run["path"] / "checkpoint.pt", weights_only=True)["module"])
    return flow


def draw(runs: pd.DataFrame, table: pd.DataFrame, directory: Path) -> list[Path]:
    """Streamlines at t = 1, errors and divergence of the first seed; errors against CPU time."""
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    side = 48
    axis = (torch.arange(side) + 0.5) / side
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    points = torch.stack([torch.ones(side * side), x.flatten(), y.flatten()], -1)
    right = exact(points)
    chosen = [
        runs[(runs.method == m) & (runs.lr == lr)].sort_values("seed").iloc[0]
        for m, lr in table[["method", "lr"]].values
    ]
    figure = Figure(figsize=(2.6 * (1 + len(chosen)), 7.2), layout="constrained")
    axes = figure.subplots(3, 1 + len(chosen), sharex=True, sharey=True)
    fields = {"exact": (right, torch.zeros(len(points)))}
    for run in chosen:
        flow = load(run)
        j = jacobian(flow.velocity, points).detach()
        fields[run["method"]] = (flow.velocity(points).detach(), j[:, 0, 1] + j[:, 1, 2])
    top = max(float((u - right).norm(dim=-1).max()) for u, _ in fields.values())
    for k, (name, (u, div)) in enumerate(fields.items()):
        grid = u.reshape(side, side, 2).numpy()
        speed = (grid**2).sum(-1) ** 0.5
        streams = axes[0, k].streamplot(
            axis.numpy(),
            axis.numpy(),
            grid[..., 0],
            grid[..., 1],
            color=speed,
            norm=Normalize(0, 1.1 * float(right.norm(dim=-1).max())),
            cmap="viridis",
            density=1.1,
            linewidth=0.8,
            arrowsize=0.7,
        )
        axes[0, k].set_title(WORDS.get(name, name))
        error = (u - right).norm(dim=-1).reshape(side, side)
        images = [
            axes[1, k].imshow(error, origin="lower", extent=(0, 1, 0, 1), vmin=0, vmax=top, cmap="magma_r"),
            axes[2, k].imshow(
                div.abs().clamp_min(1e-9).log10().reshape(side, side),
                origin="lower",
                extent=(0, 1, 0, 1),
                vmin=-8,
                vmax=0,
                cmap="magma_r",
            ),
        ]
        for ax in axes[:, k]:
            ax.set(aspect="equal", xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    for ax in axes[1:, 0]:  # the exact flow has no error
        ax.set_visible(False)
    for row, label in enumerate(("streamlines at t = 1", "error of u", "log10 |div u|")):
        axes[row, min(row, 1)].set_ylabel(label)
        shown = images[row - 1] if row else streams.lines
        figure.colorbar(shown, ax=axes[row, :], shrink=0.8, label="" if row else "|u|")
    maps = directory / "taylor_green_fields.png"
    figure.savefig(maps, dpi=130)

    best = runs.merge(table[["method", "lr"]])
    return [maps, errors_over_time(best, "u", directory / "taylor_green_progress.png", 0.1)]


def main() -> int:
    directory, figures = asked(__doc__)
    runs = results(directory)
    table = judged(runs)
    show(table)
    for path in draw(runs, table, figures):
        print(path)
    built = table["method"].str.startswith("ncl")
    ratio = table[built]["error"].min() / table[~built]["error"].min()
    exact_enough = bool((table[built]["divergence"] <= ROUNDING).all())
    rounding = "rounding" if exact_enough else "NOT rounding"
    said = f"error by construction over error by penalty: {ratio:.2f}; divergence by construction: {rounding}"
    holds = bool(ratio <= 1) and exact_enough
    kept = "by construction is at least level, and exactly divergence-free"
    return verdict(holds, kept, "MISSED", said, enough=bool(table["steps"].min() >= FEW))


if __name__ == "__main__":
    sys.exit(main())
