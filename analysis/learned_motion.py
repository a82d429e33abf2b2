"""Judges the runs of `experiments.learned_motion`: errors of energy and state, figures of both.

    python -m analysis.learned_motion runs/learned_motion

Prints one table a system, over its seeds, and writes energy.png (and states.png, of a field) into every run. Exits
with 1 unless in every run the discrete gradient keeps the energy that it has learned to rounding (or never lets it
grow, where the system dissipates), and its error of the true energy is below those of the neural ODE and of the
Hamiltonian network with the same budget of evaluations. On fields these must be in the papers' order too: neural ODE >>
Hamiltonian network, where >> is ten times. (Over very long times of an oscillator they are not: RK2 of a Hamiltonian
network gains energy without end, while a neural ODE that has learned from noise comes to rest.)

Errors are squared and averaged over the motion, then the median is taken over the test states. The mean over them
stands beside it: it is decided by the few motions that leave what the energy has been learned on, which a conserved
energy that has no lower bound, as KdV's, does not prevent.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analysis import motion_figures, reporting
from analysis.reporting import FEW, asked
from experiments.learned_motion import MECHANICAL, Config, models, system_of
from experiments.motions import reproducible, table_of
from experiments.runs import config_of
from neuromech.physics import EnergyModel, Trajectories
from neuromech.physics.energy import data
from neuromech.physics.energy.systems import System
from neuromech.record import read

OURS = "discrete gradient"
# How far its own energy may stray, relative to its size, by the precision of the run.
BOUNDS = {"float64": 1e-11, "float32": 1e-3}
MUCH = 10
ERRORS = ["energy error", "its mean", "state error", "own energy", "total"]


def truth(directory: Path, config: Config, system: System) -> Trajectories:
    """The test trajectories at the times of the prediction, which may go on longer than the data; kept once made."""
    path = directory / "truth.pt"
    if not path.exists():
        start = torch.load(directory / "data.pt", weights_only=True)["u"][config.train :, 0]
        t = torch.arange(config.rollout + 1, dtype=torch.float64) * system.dt
        torch.save({"t": t, "u": data.solve(system, start, t)}, path)
    return Trajectories(**torch.load(path, weights_only=True))


def predictions(directory: Path) -> dict[str, Tensor]:
    """States [steps, B, ...] of every model, in the order in which they were made."""
    paths = sorted(directory.glob("*-prediction.pt"), key=lambda p: p.stat().st_mtime)
    return {p.name.removesuffix("-prediction.pt"): torch.load(p, weights_only=True)["u"].double() for p in paths}


def table(directory: Path, exact: Trajectories) -> pd.DataFrame:
    """One row a model: errors squared and averaged over time, the median test state's; inf where a motion diverged."""
    run, config = read(directory), config_of(Config, directory)
    system = system_of(config)
    true_energy = energies(system.energy, exact.u.transpose(0, 1))
    rows = []
    for name, u in predictions(directory).items():
        complete = len(u) == len(exact.t)
        losses = run.frame(table_of(name)).get("loss")
        of_energy = of_state = torch.full((u.shape[1],), math.inf)
        if complete:
            of_energy = ((energies(system.energy, u) - true_energy) ** 2).mean(0)
            of_state = ((u - exact.u.transpose(0, 1)) ** 2).flatten(2).mean((0, 2))
        row = {
            "model": name,
            "energy error": float(of_energy.quantile(0.5)),
            "its mean": float(of_energy.mean()),
            "state error": float(of_state.quantile(0.5)),
            "own energy": stray(config, directory, name, u),
            "gave up at": math.nan if complete else float(exact.t[len(u)]),
            "loss": math.nan if losses is None else losses.tail(20).mean(),
        }
        if config.system not in MECHANICAL:  # of a field, the mass
            row["total"] = float((u.sum(-1) - u[0].sum(-1)).abs().max()) if complete else math.inf
        rows.append(row)
    return pd.DataFrame(rows)


def own_energy(config: Config, directory: Path, name: str, u: Tensor) -> Tensor | None:
    """The energy [steps, B] that a model has learned along its own motion; None for a model without one."""
    base = name.split(",")[0]
    scheme = reproducible(config.seed, models(config)[base], getattr(torch, config.dtype), "cpu")
    scheme.load_state_dict(torch.load(directory / f"{base}.pt", weights_only=True, map_location="cpu")["module"])
    model = getattr(scheme, "model", getattr(scheme, "field", None))
    return energies(model.energy, u.to(getattr(torch, config.dtype))) if isinstance(model, EnergyModel) else None


def stray(config: Config, directory: Path, name: str, u: Tensor) -> float:
    """How far the learned energy strays from its law along the model's own motion, relative to its size.

    Where energy is conserved, its largest change; where it dissipates, its largest growth in a step.
    """
    h = own_energy(config, directory, name, u)
    if h is None:
        return math.nan
    conserves = system_of(config).structure.law == "conserves"
    change = (h - h[0]).abs().max() if conserves else h.diff(dim=0).clamp(min=0).max()
    return float(change / h.abs().max())


def energies(energy: torch.nn.Module, u: Tensor) -> Tensor:
    """Of states [steps, B, ...]: [steps, B]."""
    with torch.no_grad():
        return torch.cat([energy(part) for part in u.flatten(0, 1).split(4096)]).reshape(u.shape[:2])


def verdict(rows: pd.DataFrame, dtype: str, has_field: bool) -> list[str]:
    """What is not as claimed; empty if all is."""
    found = rows.set_index("model")
    error, ours = found["energy error"], found.loc[OURS]
    missed = []
    if not ours["own energy"] < BOUNDS[dtype]:
        missed.append(f"its own energy strays by {ours['own energy']:.1e}")
    for rival in ("NODE RK2", "HNN RK2"):
        if not ours["energy error"] < error[rival]:
            missed.append(f"its energy error {ours['energy error']:.2e} is not below {error[rival]:.2e} of {rival}")
    if has_field and not error["NODE RK2"] > MUCH * error["HNN RK2"]:
        missed.append(f"the energy error of NODE RK2, {error['NODE RK2']:.2e}, is not {MUCH} times that of HNN RK2")
    return missed


def agrees(rows: pd.DataFrame) -> bool:
    """Whether the mean over the test states puts the models into the same order."""
    rivals = rows[rows["model"].isin(["NODE RK2", "HNN RK2", OURS])]
    return list(rivals.sort_values("energy error")["model"]) == list(rivals.sort_values("its mean")["model"])


def spread(runs: list[pd.DataFrame]) -> pd.DataFrame:
    """Of every error the median over the runs, and in brackets the least and the largest."""
    together = pd.concat(runs)
    names = list(dict.fromkeys(together["model"]))

    def summary(values: pd.Series) -> str:
        middle = f"{values.median():.2g}"
        return middle if len(runs) == 1 else f"{middle} [{values.min():.1g}, {values.max():.1g}]"

    rows = [together[together["model"] == name] for name in names]
    columns: dict[str, list[Any]] = {what: [summary(r[what]) for r in rows] for what in ERRORS if what in together}
    columns["gave up"] = [f"{int(r['gave up at'].notna().sum())} of {len(runs)}" for r in rows]
    return pd.DataFrame({"model": names} | columns)


def main() -> int:
    root = asked(__doc__)[0]
    groups: dict[Config, list[Path]] = {}
    for directory in sorted(p.parent for p in root.glob("**/run.json")):
        groups.setdefault(replace(config_of(Config, directory), seed=0), []).append(directory)
    if not groups:
        raise SystemExit(
            f"there are no runs in {root}: make them with python -m experiments.learned_motion --out {root}"
        )
    failed = runs = 0
    for config, directories in groups.items():
        tables = []
        for directory in directories:
            exact = truth(directory, config_of(Config, directory), system_of(config))
            tables.append(table(directory, exact))
            own = {
                name: own_energy(config_of(Config, directory), directory, name, u)
                for name, u in predictions(directory).items()
            }
            motion_figures.plot(directory, system_of(config), exact, predictions(directory), own)
        tests = f"the median of {config.test} test states"
        print(f"\n{config.system}: squared errors, their mean over time, {tests}; seeds: {len(directories)}")
        print(spread(tables).to_string(index=False))
        for directory, rows in zip(directories, tables, strict=True):
            if config.steps < FEW:
                print(f"verdict, {directory.name}: too few steps to judge, {config.steps}; {FEW} are the least")
                continue
            missed = verdict(rows, config.dtype, has_field=config.system not in MECHANICAL)
            runs, failed = runs + 1, failed + bool(missed)
            note = "" if agrees(rows) else " (the mean over the test states has another order)"
            print(f"verdict, {directory.name}: " + ("as claimed" if not missed else "; ".join(missed)) + note)
    said = f"{runs - failed} of {runs} runs as claimed"
    return reporting.verdict(not failed, "as claimed", "NOT ALL AS CLAIMED", said, enough=runs > 0)


if __name__ == "__main__":
    sys.exit(main())
