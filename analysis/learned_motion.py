"""Judges the runs of `experiments.learned_motion`: errors of energy and state, figures of both.

    python -m analysis.learned_motion runs/learned_motion

Prints one table a system and writes energy.png and states.png into its run. Exits with 1 unless the discrete gradient
keeps the energy that it has learned to rounding (or never lets it grow, where the system dissipates), and its errors of
the true energy are below those of every neural ODE and of every Hamiltonian network stepped explicitly.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from experiments.learned_motion import Config, models, system_of
from experiments.motions import reproducible
from neuromech.physics import EnergyModel, Trajectories, data
from neuromech.physics.systems import System

OURS = "discrete gradient"
# How far its own energy may stray, relative to its size, by the precision of the run.
BOUNDS = {"float64": 1e-11, "float32": 1e-3}


def load(directory: Path) -> Config:
    stored: dict[str, Any] = json.loads((directory / "config.json").read_text())
    stored["wavenumbers"] = tuple(stored["wavenumbers"])
    return Config(**stored)


def truth(directory: Path, config: Config, system: System) -> Trajectories:
    """The test trajectories at the times of the prediction, which may go on longer than the data."""
    stored = torch.load(directory / "data.pt", weights_only=True)
    u, t = stored["u"][config.train :], stored["t"]
    if config.rollout < len(t):
        return Trajectories(t[: config.rollout + 1], u[:, : config.rollout + 1])
    longer = torch.arange(config.rollout + 1, dtype=torch.float64) * system.dt
    return Trajectories(longer, data.solve(system, u[:, 0], longer))


def predictions(directory: Path) -> dict[str, Tensor]:
    """States [steps, B, ...] of every model, in the order in which they were made."""
    paths = sorted(directory.glob("*-prediction.pt"), key=lambda p: p.stat().st_mtime)
    return {p.name.removesuffix("-prediction.pt"): torch.load(p, weights_only=True)["u"].double() for p in paths}


def table(directory: Path) -> pd.DataFrame:
    """One row a model: mean squared errors over all times and test states, inf where the motion diverged."""
    config = load(directory)
    system = system_of(config)
    exact = truth(directory, config, system)
    true_energy = energies(system.energy, exact.u.transpose(0, 1))
    rows = []
    for name, u in predictions(directory).items():
        complete = len(u) == len(exact.t)
        log = directory / f"{name}.csv"
        training = pd.read_csv(log) if log.exists() else None
        rows.append(
            {
                "model": name,
                "energy error": _mean((energies(system.energy, u) - true_energy) ** 2) if complete else math.inf,
                "state error": _mean((u - exact.u.transpose(0, 1)) ** 2) if complete else math.inf,
                "own energy": own_energy(config, directory, name, u),
                "total": _mean((u.flatten(2).sum(-1) - u[0].flatten(1).sum(-1)).abs().amax(0))
                if complete
                else math.inf,
                "gave up at": math.nan if complete else float(exact.t[len(u)]),
                "loss": math.nan if training is None else training["loss"].tail(20).mean(),
            }
        )
    return pd.DataFrame(rows)


def own_energy(config: Config, directory: Path, name: str, u: Tensor) -> float:
    """How far the learned energy strays from its law along the model's own motion, relative to its size.

    Where energy is conserved, its largest change; where it dissipates, its largest growth in a step.
    """
    base = name.split(",")[0]
    scheme = reproducible(config.seed, models(config)[base], getattr(torch, config.dtype), "cpu")
    scheme.load_state_dict(torch.load(directory / f"{base}.pt", weights_only=True, map_location="cpu")["scheme"])
    model = getattr(scheme, "model", getattr(scheme, "field", None))
    if not isinstance(model, EnergyModel):
        return math.nan
    h = energies(model.energy, u.to(getattr(torch, config.dtype)))
    stray = (h - h[0]).abs().max() if model.structure.law == "conserves" else h.diff(dim=0).clamp(min=0).max()
    return float(stray / h.abs().max())


def energies(energy: torch.nn.Module, u: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([energy(x) for x in u])


def _mean(x: Tensor) -> float:
    return float(x.mean())


def verdict(rows: pd.DataFrame, dtype: str) -> list[str]:
    """What is not as claimed; empty if all is."""
    ours = rows.set_index("model").loc[OURS]
    missed = []
    if not ours["own energy"] < BOUNDS[dtype]:
        missed.append(f"its own energy strays by {ours['own energy']:.1e}")
    for _, row in rows[rows["model"].str.match(r"(NODE|HNN)[^,]*$")].iterrows():
        if not ours["energy error"] < row["energy error"]:
            missed.append(f"its energy error {ours['energy error']:.2e} is not below that of {row['model']}")
    return missed


def plot(directory: Path) -> None:
    """energy.png: the error of the true energy along every motion of the first test state; states.png: the motion."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(style="ticks", palette="colorblind", rc={"axes.spines.top": False, "axes.spines.right": False})
    config = load(directory)
    system = system_of(config)
    exact = truth(directory, config, system)
    motions = {"exact": exact.u.transpose(0, 1)} | predictions(directory)

    figure, axes = plt.subplots(figsize=(8.5, 4), layout="constrained")
    h = {name: energies(system.energy, u[:, :1])[:, 0] for name, u in motions.items()}
    for k, (name, values) in enumerate(list(h.items())[1:]):
        error = (values - h["exact"][: len(values)]).abs()[1:]
        axes.semilogy(exact.t[1 : len(values)], error, label=name, lw=1.4, ls=["-", "--", ":"][k % 3])
    axes.set(xlabel="time", ylabel="|H(model) - H(exact)|", title=f"{system.name}: error of the true energy")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(directory / "energy.png", dpi=150)
    plt.close(figure)

    if config.system == "mass-spring":
        figure, grid = plt.subplots(
            1, len(motions), figsize=(2.2 * len(motions), 2.6), layout="constrained", sharey=True
        )
        for axes, (name, u) in zip(grid, motions.items(), strict=True):
            axes.plot(*u[:, 0].T, lw=0.5)
            axes.set(xlabel="q", aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
            axes.set_title(name.replace(", ", ",\n"), fontsize=8)
        grid[0].set_ylabel("p")
    else:
        figure, grid = plt.subplots(
            len(motions), 1, figsize=(7, 1.1 * len(motions) + 0.6), layout="constrained", sharex=True
        )
        limit = float(exact.u[0].abs().max())
        signed = float(exact.u[0].min()) < -0.1 * limit
        low, colours = (-limit, "RdBu_r") if signed else (0.0, "viridis")
        for axes, (name, u) in zip(grid, motions.items(), strict=True):
            shown = axes.imshow(
                u[:, 0].T, aspect="auto", origin="lower", vmin=low, vmax=limit, cmap=colours, interpolation="none",
                extent=(0, float(exact.t[len(u) - 1]), 0, u.shape[-1]),
            )  # fmt: skip
            axes.set(xlim=(0, float(exact.t[-1])), ylabel="cell")
            axes.set_title(name + ("" if len(u) == len(exact.t) else ": gave up"), fontsize=8, loc="left")
        grid[-1].set_xlabel("time")
        figure.colorbar(shown, ax=grid, label="u")
    figure.savefig(directory / "states.png", dpi=150)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    failed = 0
    for directory in sorted(p.parent for p in parser.parse_args().runs.glob("**/config.json")):
        rows = table(directory)
        plot(directory)
        print(f"\n{directory.name}: mean squared errors, over all times and test states")
        with pd.option_context("display.float_format", "{:.3g}".format, "display.width", 200):
            print(rows.to_string(index=False))
        missed = verdict(rows, load(directory).dtype)
        failed += bool(missed)
        print("verdict: " + ("the discrete gradient is as claimed" if not missed else "; ".join(missed)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
