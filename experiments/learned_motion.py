"""Neural ODE, Hamiltonian network or discrete gradient: which keeps the energy, and which the state?

    python -m experiments.learned_motion [--system mass-spring kdv cahn-hilliard] [--full] [--device cuda]
    python -m analysis.learned_motion runs/learned_motion

Every model is trained on the same pairs of states, in the same order, and predicts from states that it has not seen.
The small configuration takes some minutes a system; --full is that of Matsubara et al. (NeurIPS 2020). A run that was
interrupted goes on where it was.

The explicit models are trained and predict with adaptive dopri5, which is free to take as many evaluations as its
tolerance asks for: never less than the two of a discrete gradient. Because a convolution over three cells cannot
represent u_xxx, a neural ODE that sees as many cells as G grad H stands beside the narrow one of the paper.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from experiments import motions
from neuromech.physics import (
    ConvEnergy,
    ConvField,
    DiscreteScheme,
    EnergyModel,
    ExplicitScheme,
    MLPEnergy,
    MLPField,
    Training,
    systems,
)
from neuromech.physics.integrators import Scheme, separable


@dataclass(frozen=True)
class Config:
    """Of `train` + `test` trajectories the first are learned from; noise is added to what is learned from."""

    system: str = "mass-spring"
    train: int = 25
    test: int = 5
    noise: float = 0.0
    hidden: int = 200
    batch: int | None = 200
    steps: int = 2000
    weight_decay: float = 0.0
    rollout: int = 500
    tolerance: float = 1e-5
    dtype: str = "float64"
    seed: int = 0


SMALL = {
    "mass-spring": Config("mass-spring", noise=0.1, hidden=100, steps=1000, weight_decay=1e-4, rollout=2000),
    "kdv": Config("kdv", train=18, test=2, hidden=32, batch=50, steps=1000),
    "cahn-hilliard": Config("cahn-hilliard", train=18, test=2, hidden=32, batch=50, steps=1000),
}
FULL = {
    "mass-spring": Config(
        "mass-spring", 25, 25, noise=0.1, batch=None, weight_decay=1e-4, rollout=10_000, dtype="float32"
    ),
    "kdv": Config("kdv", 90, 10, steps=10_000),
    "cahn-hilliard": Config("cahn-hilliard", 90, 10, steps=10_000),
}


def models(config: Config) -> dict[str, Callable[[], Scheme]]:
    """The rivals, by name."""
    system = systems.make(config.system)
    structure = system.structure

    def explicit(field: nn.Module) -> ExplicitScheme:
        return ExplicitScheme(field, "dopri5", config.tolerance)

    if config.system == "mass-spring":
        return {
            "NODE": lambda: explicit(MLPField(2, config.hidden)),
            "NODE RK2": lambda: ExplicitScheme(MLPField(2, config.hidden), "midpoint"),
            "HNN": lambda: explicit(EnergyModel(MLPEnergy(2, config.hidden), structure)),
            "HNN RK2": lambda: ExplicitScheme(EnergyModel(MLPEnergy(2, config.hidden), structure), "midpoint"),
            "symplectic HNN": lambda: ExplicitScheme(EnergyModel(separable(2, config.hidden), structure), "leapfrog"),
            "discrete gradient": lambda: DiscreteScheme(EnergyModel(MLPEnergy(2, config.hidden), structure)),
        }
    dx = structure.dx

    def energy() -> nn.Module:
        return ConvEnergy(1, float(dx), config.hidden, kernel=3)

    return {
        "NODE": lambda: explicit(ConvField(1, config.hidden, kernel=3)),
        "NODE wide": lambda: explicit(ConvField(1, config.hidden, kernel=7)),
        "HNN": lambda: explicit(EnergyModel(energy(), structure)),
        "discrete gradient": lambda: DiscreteScheme(EnergyModel(energy(), structure)),
    }


def run(config: Config, directory: Path, device: str = "cpu") -> Path:
    """Make the data, train, predict; returns the run directory."""
    motions.open_run(directory, config)
    system = systems.make(config.system)
    dtype = getattr(torch, config.dtype)
    everything = motions.data(directory, system, config.train + config.test, config.seed)
    noise = torch.Generator().manual_seed(config.seed + 1)
    examples = everything[: config.train].noisy(config.noise, noise).to(device=device, dtype=dtype)
    start = everything.u[config.train :, 0].to(device=device, dtype=dtype)
    training = Training(config.steps, config.batch, weight_decay=config.weight_decay, seed=config.seed)
    for name, make in models(config).items():
        scheme = motions.reproducible(config.seed, make, dtype, device)
        motions.train(directory, name, scheme, training, examples)
        motions.predict(directory, name, scheme, start, system.dt, config.rollout)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", nargs="+", choices=list(SMALL), default=list(SMALL))
    parser.add_argument("--full", action="store_true", help="the sizes of the paper: hours, or a GPU")
    parser.add_argument("--steps", type=int, help="training steps, instead of the configuration's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/learned_motion"))
    options = parser.parse_args()
    for name in options.system:
        config = (FULL if options.full else SMALL)[name]
        run(replace(config, steps=options.steps or config.steps), options.out / name, options.device)
    print(f"runs in {options.out}; now: python -m analysis.learned_motion {options.out}")


if __name__ == "__main__":
    main()
