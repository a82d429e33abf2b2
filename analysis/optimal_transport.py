"""Judges the runs of `experiments.optimal_transport`: cost against the exact W2^2, mass, and how the target is met.

    python -m analysis.optimal_transport runs/optimal_transport [--figures figures]

`cost error`: (reported cost - W2^2) / W2^2, mean over the seeds; `worst`: the largest of its sizes. `ending`: distance
of the transported points' moments from the target's, over W2. `mass off by`: at half time; by sampling in more than two
dimensions. For `ring2` W2 has no closed form: it is the optimal assignment of 3,000 drawn points (a few per cent too
large); it and `mixed1` are judged by their mass alone. Exits with 1 if for a Gaussian problem the construction's cost
is further from the truth than the best penalty's (within what sampling the cost can tell), or if it loses mass.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from analysis.reporting import FEW, WORDS, asked, show, verdict
from experiments.optimal_transport import Config, Penalised, ends, mixture_of, moments
from experiments.runs import config_of, finished
from neuromech.physics import Mixture, MovingMixture, NeuralConservationLaw, gaussian_cost
from neuromech.record import read

ROUNDING = 1e-5  # of a mass that is summed over 130,000 points in float32
SAMPLING = 5e-3  # relative error of a cost that is measured with 40,000 points


def truth(problem: str) -> float:
    """W2^2: exact for Gaussians and in one dimension, else the optimal assignment of drawn points."""
    start, end = ends(problem)
    if problem.startswith("gauss"):
        return float(gaussian_cost(*moments(start), *moments(end)))
    if start.means.shape[1] == 1:
        q = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        return float((quantiles(start, q) - quantiles(end, q)).square().mean())
    from scipy.optimize import linear_sum_assignment

    torch.manual_seed(0)
    costs = torch.cdist(start.sample(3000), end.sample(3000)).square()
    return float(costs[linear_sum_assignment(costs.numpy())].mean())


def quantiles(m: Mixture, q: Tensor) -> Tensor:
    """Where a mixture on the line has its shares q [N], by bisection."""
    low, high = torch.full_like(q, -20.0), torch.full_like(q, 20.0)
    for _ in range(60):
        middle = (low + high) / 2
        z = (middle.unsqueeze(1) - m.means[:, 0]) / m.factors[:, 0, 0]
        below = (torch.special.ndtr(z) * m.weights).sum(1) < q
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def results(directory: Path) -> pd.DataFrame:
    """One row a run."""
    rows = []
    for path in finished(directory):
        run = read(path)
        last = run.frame("progress").iloc[-1].to_dict()
        rows.append({k: run.meta[k] for k in ("problem", "method", "seed")} | last | {"path": path})
    runs = pd.DataFrame(rows)
    runs["truth"] = runs["problem"].map({p: truth(p) for p in runs["problem"].unique()})
    runs["cost error"] = runs["cost"] / runs["truth"] - 1
    runs["ending"] /= runs["truth"] ** 0.5
    return runs


def judged(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a problem and method."""
    runs = runs.assign(size=runs["cost error"].abs(), off=(runs["mass"] - 1).abs())
    groups = runs.groupby(["problem", "method"])
    table = groups[["truth", "cost", "cost error"]].mean()
    table["worst"] = groups["size"].max()
    table["mass off by"] = groups["off"].max()
    table["ending"] = groups["ending"].mean()
    table["steps"], table["seeds"] = groups["step"].mean(), groups["seed"].nunique()
    return table.reset_index()


def load(run: pd.Series) -> MovingMixture | Penalised:
    """The trained flow of a run in two dimensions."""
    config = config_of(Config, run["path"])
    start, end = ends(config.problem)
    flow: MovingMixture | Penalised = Penalised(start, end, config) if config.method != "ncl" else mixture_of(config)
    flow.load_state_dict(torch.load(run["path"] / "checkpoint.pt", weights_only=True)["module"])
    return flow


def draw(runs: pd.DataFrame, directory: Path) -> list[Path]:
    """In two dimensions: the density at five times, with paths, above the penalised one; and a film of both."""
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    problem = str(runs["problem"].iloc[0])
    law, other = (
        NeuralConservationLaw(load(runs[runs.method == "ncl"].iloc[0])),
        load(runs[runs.method != "ncl"].iloc[0]),
    )
    start, _ = ends(problem)
    times = [0.0, 0.25, 0.5, 0.75, 1.0]
    box = (-3.6, 3.6, -3.6, 3.6)
    axis = torch.linspace(-3.6, 3.6, 90)
    points = torch.cartesian_prod(axis, axis).flip(1)

    def densities(t: float) -> list[Tensor]:
        stamped = torch.cat([torch.full((len(points), 1), t), points], -1)
        assert isinstance(other, Penalised)
        return [v.detach().reshape(90, 90).sqrt() for v in (law.density(t, points), other.fields(stamped)[:, 0].exp())]

    torch.manual_seed(1)
    with torch.no_grad():
        paths = law.paths(start.sample(40), torch.linspace(0, 1, 41), 2).positions
    figure = Figure(figsize=(11, 4.7), layout="constrained")
    axes = figure.subplots(2, len(times), sharex=True, sharey=True)
    for k, t in enumerate(times):
        for ax, image in zip(axes[:, k], densities(t), strict=True):
            ax.imshow(image, origin="lower", extent=box, cmap="Blues", vmin=0)
            ax.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2], xlim=box[:2], ylim=box[2:])
        travelled = paths[: 1 + round(40 * t)]
        axes[0, k].plot(travelled[..., 0], travelled[..., 1], color="#D55E00", linewidth=0.7)
        axes[0, k].plot(*travelled[-1].T, "o", color="#D55E00", markersize=2)
        axes[0, k].set_title(f"t = {t:g}")
    figure.suptitle("square root of the density, each on its own scale")
    axes[0, 0].set_ylabel(f"{WORDS['ncl']}, with paths")
    axes[1, 0].set_ylabel(WORDS["pinn"])
    still = directory / f"transport_{problem}.png"
    figure.savefig(still, dpi=130)

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    label = figure.suptitle("square root of the density, t = 0.00")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    images = [
        ax.imshow(d, origin="lower", extent=box, cmap="Blues")
        for ax, d in zip((left, right), densities(0.0), strict=True)
    ]
    (dots,) = left.plot(*paths[0].T, "o", color="#D55E00", markersize=2.5)
    left.set(title=WORDS["ncl"], xlim=box[:2], ylim=box[2:])
    right.set_title(WORDS["pinn"])

    def frame(k: int) -> list[object]:
        for image, density in zip(images, densities(k / 40), strict=True):
            image.set_data(density)
            image.set_clim(0, float(density.max()))
        dots.set_data(*paths[k].T)
        label.set_text(f"square root of the density, t = {k / 40:.2f}")
        return [*images, dots]

    film = directory / f"transport_{problem}.gif"
    FuncAnimation(figure, frame, frames=range(0, 41, 2)).save(film, PillowWriter(fps=10))  # type: ignore[arg-type]
    return [still, film]


def main() -> int:
    directory, figures = asked(__doc__)
    runs = results(directory)
    table = judged(runs)
    show(table, "{:.4g}")
    drawn = runs[runs["method"].isin(["ncl", "pinn-100"]) & runs["problem"].isin(["ring2", "gauss2"])]
    if (drawn.groupby("problem")["method"].nunique() == 2).any():
        both = drawn.groupby("problem")["method"].nunique().eq(2)
        problem = both[both].index[-1]
        for path in draw(drawn[drawn["problem"] == problem], figures):
            print(path)
    missed, said = 0, list[str]()
    for problem in map(str, table["problem"].unique()):
        rows = table[table["problem"] == problem]
        ours, theirs = rows[rows["method"] == "ncl"], rows[rows["method"].str.startswith("pinn")]
        if ours.empty or theirs.empty:
            print(f"{problem}: not judged, for lack of runs")
            continue
        if (fewest := min(ours["steps"].min(), theirs["steps"].min())) < FEW:
            print(f"{problem}: too few steps to judge, {fewest:.0f}; {FEW} are the least")
            continue
        on_grid = problem.endswith(("1", "2"))
        exact = not on_grid or bool((ours["mass off by"] <= ROUNDING).all())
        level = not problem.startswith("gauss") or ours["worst"].min() <= max(theirs["worst"].min(), SAMPLING)
        missed += (not exact) + (not level)
        word = "holds" if exact and level else "MISSED"
        errors = f"{ours['worst'].min():.2%} against {theirs['worst'].min():.2%}"
        said.append(f"{problem} {errors}")
        print(f"{problem}: worst cost error {errors}: {word}")
    measured = "worst cost errors: " + ", ".join(said)
    kept = "by construction is at least level, and keeps its mass"
    return verdict(not missed, kept, f"{missed} MISSED", measured, enough=bool(said))


if __name__ == "__main__":
    sys.exit(main())
