"""Neural ODE, Hamiltonian network or discrete gradient: which keeps the energy, and which the state?

    python -m experiments.learned_motion [--system mass-spring pendulum 2-body kdv cahn-hilliard] [--seed 0 1]
                                         [--smoke | --full] [--device cuda]
    python -m analysis.learned_motion runs/learned_motion

Every model is trained on the same pairs of states, in the same order, and predicts from states that it has not seen.
The small configuration takes some minutes a system; --smoke takes seconds and judges nothing; --full is that of
Matsubara et al. (NeurIPS 2020). A run that was
interrupted goes on where it was.

All take the same pairs, in the same order, and by default the same budget: two evaluations of the field or of the
gradient a step of training (RK2; a discrete gradient is run at two states). `adaptive` adds dopri5, free to take as
many as its tolerance asks for. Two controls: because a convolution over three cells cannot represent u_xxx, a neural
ODE that sees as many cells as G grad H stands beside the narrow one of the paper; and the Hamiltonian network trained
with RK2 also predicts by its discrete gradient, which tells what comes from training and what from the integrator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from experiments import motions
from experiments.runs import command, device, next_command, run_of
from neuromech.physics import (
    CentralDifference,
    ConvEnergy,
    ConvField,
    DiscreteScheme,
    EnergyModel,
    ExplicitScheme,
    Laplacian,
    MLPEnergy,
    MLPField,
    Training,
    systems,
)
from neuromech.physics.energy.integrators import MotionScheme, separable
from neuromech.physics.energy.systems import System


@dataclass(frozen=True)
class Config:
    """Of `train` + `test` trajectories the first are learned from; noise is added to what is learned from.

    `dt`, `length`: of a step, and steps of a trajectory, instead of the system's; `wavenumbers`: of KdV's solitons.
    """

    system: str = "mass-spring"
    train: int = 25
    test: int = 5
    noise: float = 0.0
    hidden: int = 200
    batch: int | None = 200
    steps: int = 2000
    lr: float = 1e-3
    cosine: bool = False
    weight_decay: float = 0.0
    rollout: int = 500
    adaptive: bool = False
    wavenumbers: tuple[float, float] = (0.5, 2.0)
    dt: float | None = None
    length: int | None = None
    dtype: str = "float64"
    seed: int = 0


MECHANICAL = ("mass-spring", "pendulum", "2-body")
_FIELD = {"hidden": 32, "batch": 50, "lr": 5e-3, "cosine": True}
SMALL = {
    "mass-spring": Config(noise=0.1, hidden=100, steps=1000, weight_decay=1e-4, rollout=10_000, adaptive=True),
    "pendulum": Config("pendulum", noise=0.1, hidden=100, steps=1000, weight_decay=1e-4, rollout=2000, adaptive=True),
    "2-body": Config("2-body", 40, 10, hidden=100, steps=1500, rollout=500),
    # Steps five times those of the paper, at which an explicit integrator is no longer as good as exact, and a motion
    # six times as long as the data. As many trajectories as in the paper, for tests to lie within what is learned from.
    "kdv": Config(
        "kdv",
        90,
        10,
        wavenumbers=(0.5, 1.0),
        dt=5e-3,
        length=100,
        steps=2500,
        rollout=600,
        **_FIELD,  # type: ignore[arg-type]
    ),
    "cahn-hilliard": Config("cahn-hilliard", 18, 2, steps=1500, **_FIELD),  # type: ignore[arg-type]
}
FULL = {
    "mass-spring": Config(
        test=25, noise=0.1, batch=None, weight_decay=1e-4, rollout=10_000, adaptive=True, dtype="float32"
    ),
    "pendulum": Config(
        "pendulum", test=25, noise=0.1, batch=None, weight_decay=1e-4, rollout=10_000, adaptive=True, dtype="float32"
    ),
    "2-body": Config("2-body", 800, 200, steps=10_000, rollout=2000, adaptive=True, dtype="float32"),
    "kdv": Config("kdv", 90, 10, steps=10_000, adaptive=True),
    "cahn-hilliard": Config("cahn-hilliard", 90, 10, steps=10_000, adaptive=True),
}


def smoke(config: Config) -> Config:
    """Seconds, to see that all works."""
    return replace(config, train=3, test=2, hidden=16, steps=20, rollout=30, length=20, adaptive=False)


def system_of(config: Config) -> System:
    system = systems.kdv(wavenumbers=config.wavenumbers) if config.system == "kdv" else systems.make(config.system)
    return replace(system, dt=config.dt or system.dt, steps=config.length or system.steps)


def models(config: Config) -> dict[str, Callable[[], MotionScheme]]:
    """The rivals, by name."""
    structure, h, size = system_of(config).structure, config.hidden, system_of(config).shape[0]

    def energy() -> nn.Module:
        if config.system in MECHANICAL:
            return MLPEnergy(size, h)
        assert isinstance(structure, CentralDifference | Laplacian)
        return ConvEnergy(1, structure.dx, h)

    if config.system in MECHANICAL:
        fields: dict[str, Callable[[], nn.Module]] = {"NODE": lambda: MLPField(size, h)}
    else:
        fields = {"NODE": lambda: ConvField(1, h, kernel=3), "NODE wide": lambda: ConvField(1, h, kernel=7)}
    fields["HNN"] = lambda: EnergyModel(energy(), structure)
    methods = {"RK2": "midpoint"} | ({"dopri5": "dopri5"} if config.adaptive else {})
    rivals: dict[str, Callable[[], MotionScheme]] = {
        f"{name} {label}": partial(_explicit, make, method)
        for name, make in fields.items()
        for label, method in methods.items()
    }
    if config.system in MECHANICAL:
        rivals["symplectic HNN"] = lambda: ExplicitScheme(EnergyModel(separable(size, h), structure), "leapfrog")
    return rivals | {"discrete gradient": lambda: DiscreteScheme(EnergyModel(energy(), structure))}


def _explicit(make: Callable[[], nn.Module], method: str) -> ExplicitScheme:
    return ExplicitScheme(make(), method, tolerance=1e-5)


def run(config: Config, directory: Path, on: str = "cpu") -> Path:
    """Make the data, train, predict; returns the run directory."""
    with run_of(directory, config) as record:
        system = system_of(config)
        dtype = getattr(torch, config.dtype)
        everything = motions.data(directory, system, config.train + config.test, config.seed)
        noise = torch.Generator().manual_seed(config.seed + 1)
        examples = everything[: config.train].noisy(config.noise, noise).to(device=on, dtype=dtype)
        start = everything.u[config.train :, 0].to(device=on, dtype=dtype)
        training = Training(
            config.steps, config.batch, config.lr, config.cosine, weight_decay=config.weight_decay, seed=config.seed
        )
        for name, make in models(config).items():
            scheme = motions.reproducible(config.seed, make, dtype, on)
            motions.train(record, name, scheme, training, examples)
            motions.predict(directory, name, scheme, start, system.dt, config.rollout)
            if isinstance(scheme, ExplicitScheme) and isinstance(scheme.field, EnergyModel):
                implicit = DiscreteScheme(scheme.field)
                motions.predict(directory, f"{name}, predicted by DG", implicit, start, system.dt, config.rollout)
    return directory


def main() -> None:
    parser = command("learned_motion", __doc__)
    parser.add_argument("--system", nargs="+", choices=list(SMALL), default=list(SMALL))
    parser.add_argument("--seed", nargs="+", type=int, default=[0], help="of data and parameters; one run each")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--smoke", action="store_true", help="seconds, to see that all works")
    size.add_argument("--full", action="store_true", help="the sizes of the paper: hours, or a GPU")
    parser.add_argument("--steps", type=int, help="training steps, instead of the configuration's")
    parser.add_argument("--device", default="cpu", type=device)
    options = parser.parse_args()
    for name in options.system:
        config = (FULL if options.full else SMALL)[name]
        config = smoke(config) if options.smoke else config
        for seed in options.seed:
            chosen = replace(config, steps=options.steps or config.steps, seed=seed)
            run(chosen, options.out / name / f"seed-{seed}", options.device)
    next_command("learned_motion", options.out)


if __name__ == "__main__":
    main()
