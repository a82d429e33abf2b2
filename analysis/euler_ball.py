"""Judges the runs of `experiments.euler_ball`: error of the velocity, divergence, wall, momentum, methods side by side.

    python -m analysis.euler_ball runs/euler_ball [--figures figures]

All columns are relative root mean squares over space and time (`experiments.euler_ball.measures`); of divergence and
wall the largest over the seeds, of error and momentum the mean. `cost`: CPU time of a step over that of the PINN's.
Exits with 1 if the construction's mean error is larger than that of the better baseline, or if its divergence or what
crosses its wall is not rounding (1e-6, float32).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from analysis.reporting import FEW, WORDS, asked, errors_over_time, show, verdict
from experiments.euler_ball import BALL, METHODS, SPIN, Config, Flow, divergence, exact, momentum
from experiments.runs import config_of, finished
from neuromech.physics.fields.taylor import jacobian
from neuromech.record import read

ROUNDING = 1e-6
Velocity = Callable[[Tensor], Tensor]


def results(directory: Path) -> pd.DataFrame:
    """One row a run: its settings and the last row of its progress."""
    rows = []
    for path in finished(directory):
        run = read(path)
        last = run.frame("progress").iloc[-1]
        rows.append({k: run.meta[k] for k in ("method", "seed", "parameters")} | last.to_dict() | {"path": path})
    return pd.DataFrame(rows)


def judged(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a method."""
    groups = runs.assign(each=runs["seconds"] / runs["step"]).groupby("method")
    table = groups.agg(
        seeds=("seed", "nunique"),
        steps=("step", "mean"),
        cost=("each", "mean"),
        error=("error", "mean"),
        least=("error", "min"),
        largest=("error", "max"),
        divergence=("divergence", "max"),
        wall=("wall", "max"),
        momentum=("momentum", "mean"),
    )
    table["cost"] /= table["cost"].get("pinn", float("nan"))
    return table.reindex([m for m in METHODS if m in table.index]).reset_index()


def load(path: Path) -> Flow:
    """The trained flow of a run."""
    config = config_of(Config, path)
    flow = Flow(config)
    state = torch.load(path / "checkpoint.pt", weights_only=True, map_location="cpu")
    flow.load_state_dict(state["module"])
    return flow


def plane(t: float, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points (t, x) in the plane of the spheromak's axis and that of the frame, on a grid; the plane's unit vectors."""
    angle = torch.tensor(-SPIN * t)
    across, up = torch.stack([angle.cos(), angle.sin(), 0 * angle]), torch.tensor([0.0, 0.0, 1.0])
    axis = torch.linspace(-1, 1, side)
    a, b = torch.meshgrid(axis, axis, indexing="xy")
    x = a.reshape(-1, 1) * across + b.reshape(-1, 1) * up
    return F.pad(x, (1, 0), value=t), across, up


def slices(flows: dict[str, Flow], directory: Path) -> Path:
    """In a plane through the middle at t = 1: streamlines in the plane on the velocity across it, and residuals."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    side = 96
    y, across, up = plane(1.0, side)
    inside = BALL.inside(y[:, 1:])
    y = torch.where(inside[:, None], y, torch.cat([y[:, :1], BALL.to_wall(y[:, 1:])], 1))
    right, out = exact(y), torch.linalg.cross(across, up)
    columns: list[tuple[str, Tensor, list[Tensor]]] = [("exact", right, [])]
    for name, flow in flows.items():
        v, dv, slope = (a.detach() for a in flow.fields(y))
        div = divergence(jacobian(flow.velocity, y).detach()).abs()
        maps = [(v - right).norm(dim=-1), momentum(v, dv, slope).norm(dim=-1), div]
        columns.append((name, v, maps))
    figure = Figure(figsize=(2.3 * len(columns) + 0.8, 8.4), layout="constrained")
    axes = figure.subplots(4, len(columns), sharex=True, sharey=True)
    grid = torch.linspace(-1, 1, side).numpy()
    drawn = []
    for k, (name, v, maps) in enumerate(columns):
        u, w = ((v @ e).where(inside, torch.nan).reshape(side, side).numpy() for e in (across, up))
        through = (v @ out).reshape(side, side)
        extent = (-1.0, 1.0, -1.0, 1.0)
        drawn = [axes[0, k].imshow(through, origin="lower", extent=extent, cmap="RdBu_r", vmin=-1.5, vmax=1.5)]
        axes[0, k].streamplot(grid, grid, u, w, color="#333333", density=0.9, linewidth=0.6, arrowsize=0.6)
        axes[0, k].set_title(WORDS.get(name, name))
        for row, values in enumerate(maps, 1):
            image = values.clamp_min(1e-9).log10().reshape(side, side)
            low, high = (-8, 0) if row == 3 else (-4, 0)
            drawn.append(axes[row, k].imshow(image, origin="lower", extent=extent, vmin=low, vmax=high, cmap="magma_r"))
        for ax in axes[:, k]:
            for shown in ax.images:
                shown.set_clip_path(Circle((0, 0), 1, transform=ax.transData))
            ax.set(aspect="equal", xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for ax in axes[1:, k] if k == 0 else ():
            ax.set_visible(False)
    labels = (
        "flow at t = 1\n(colour: across the plane)",
        "log10 error of v",
        "log10 |equation's residual|",
        "log10 |div v|",
    )
    for row, label in enumerate(labels):
        axes[row, 0 if row == 0 else 1].set_ylabel(label)
        figure.colorbar(drawn[row], ax=axes[row, :], shrink=0.8)
    directory.mkdir(parents=True, exist_ok=True)
    out_path = directory / "euler_ball_slices.png"
    figure.savefig(out_path, dpi=130)
    return out_path


@torch.no_grad()
def followed(velocity: Velocity, x: Tensor, times: int, substeps: int = 4) -> Tensor:
    """Particles from x [B, 3] at t = 0 to 1, by classical Runge-Kutta steps: [times, B, 3]."""
    places, dt = [x], 1 / ((times - 1) * substeps)
    for i in range((times - 1) * substeps):

        def f(s: float, z: Tensor, i: int = i) -> Tensor:
            return velocity(F.pad(z, (1, 0), value=(i + s) * dt))

        k1 = f(0.0, x)
        k2 = f(0.5, x + dt / 2 * k1)
        k3 = f(0.5, x + dt / 2 * k2)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + f(1.0, x + dt * k3))
        if (i + 1) % substeps == 0:
            places.append(x)
    return torch.stack(places)


def film(flow: Flow, name: str, directory: Path) -> Path:
    """Particles that start in a slab of the ball and are carried for a unit of time: exact, and by the model."""
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.figure import Figure

    torch.manual_seed(0)
    x = BALL.sample(4000)
    x = x[(x[:, 2].abs() < 0.12)][:260]
    frames = 31
    paths = {"exact": followed(exact, x, frames), name: followed(flow.velocity, x, frames)}
    colour = x.norm(dim=1).numpy()
    figure = Figure(figsize=(6.4, 3.5), layout="constrained")
    angles = torch.linspace(0, 2 * torch.pi, 80)
    ring, zero = torch.stack([angles.cos(), angles.sin()]), torch.zeros(80)
    dots = []
    for k, (title, path) in enumerate(paths.items()):
        ax = figure.add_subplot(1, 2, k + 1, projection="3d")
        for circle in ((ring[0], ring[1], zero), (ring[0], zero, ring[1]), (zero, ring[0], ring[1])):
            ax.plot(*(c.numpy() for c in circle), color="#bbbbbb", linewidth=0.7)
        dots.append(ax.scatter(*path[0].T.numpy(), c=colour, cmap="viridis", vmax=1.15, s=7, depthshade=False))
        ax.set(title=WORDS.get(title, title), xlim=(-0.75, 0.75), ylim=(-0.75, 0.75), zlim=(-0.75, 0.75))
        ax.set_axis_off()
        ax.set_box_aspect((1, 1, 1))
        ax.view_init(elev=18, azim=-60)
    label = figure.suptitle("t = 0.00")

    def frame(k: int) -> list[object]:
        for dot, path in zip(dots, paths.values(), strict=True):
            dot._offsets3d = tuple(c.numpy() for c in path[k].T)
        label.set_text(f"t = {k / (frames - 1):.2f}")
        return [*dots]

    directory.mkdir(parents=True, exist_ok=True)
    out = directory / "euler_ball_particles.gif"
    FuncAnimation(figure, frame, frames=frames).save(out, PillowWriter(fps=10))  # type: ignore[arg-type]
    return out


def main() -> int:
    directory, figures = asked(__doc__)
    runs = results(directory)
    table = judged(runs)
    show(table)
    firsts = runs.sort_values("seed").groupby("method").first()["path"]
    flows = {m: load(firsts[m]) for m in METHODS if m in firsts}
    print(slices(flows, figures))
    print(errors_over_time(runs, "v", figures / "euler_ball_progress.png", 0.5))
    by_name = table.set_index("method")
    if "ncl" not in flows or len(flows) < 2:
        print("not judged, for lack of runs")
        return 1
    print(film(flows["ncl"], "ncl", figures))
    ratio = by_name.loc["ncl", "error"] / by_name.drop("ncl")["error"].min()
    rounding = bool((by_name.loc["ncl", ["divergence", "wall"]] <= ROUNDING).all())
    said = (
        f"error by construction over that of the better baseline: {ratio:.2f}; divergence and wall rounding: {rounding}"
    )
    holds = bool(ratio <= 1) and rounding
    kept = "by construction is at least level, divergence-free and tangent to the wall"
    return verdict(holds, kept, "MISSED", said, enough=bool(by_name["steps"].min() >= FEW))


if __name__ == "__main__":
    sys.exit(main())
