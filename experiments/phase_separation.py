"""Phase separation in two dimensions, with the energy and the 3 x 3 stencil of G both learned from data.

    python -m experiments.phase_separation [--full] [--device cuda]
    python -m analysis.phase_separation runs/phase_separation

The stencil's form is built in: unchanged by quarter turns and reflections, entries that sum to zero, no positive
eigenvalue. A factor can pass between G and the energy, so only the ratio of corners to edges means something. Beside
it the stencil alone is learned with the true energy, where its scale is determined too: smooth fields see no more of it
than edge + 2 corner, and the decay of the noise, which would tell corners from edges, is over within one step of the
paper's. So the stencil alone is learned a third time, from steps that resolve this decay. Resumable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from experiments import motions
from experiments.runs import command, device, next_command, run_of
from neuromech.physics import ConvEnergy, DiscreteScheme, EnergyModel, LearnedStencil, Solver, Training, systems
from neuromech.physics.energy.systems import System


@dataclass(frozen=True)
class Config:
    """A square of `n` x `n` cells; `train` + `test` trajectories of `length` steps of `dt`.

    `fine_dt`: of the steps from noise that resolve the decay of every mode, the fastest at 64 gamma n^4.
    """

    n: int = 16
    gamma: float = 4e-3
    dt: float = 1e-3
    fine_dt: float = 1e-5
    length: int = 200
    train: int = 6
    test: int = 2
    hidden: int = 32
    batch: int = 20
    steps: int = 2000
    lr: float = 5e-3
    seed: int = 0


FULL = Config(
    n=50, gamma=5e-4, dt=1e-4, fine_dt=1e-6, length=500, train=18, hidden=200, batch=50, steps=10_000, lr=1e-3
)


FINE = "energy known, fine steps"


def system_of(config: Config) -> System:
    return replace(systems.cahn_hilliard(config.n, gamma=config.gamma, ndim=2), dt=config.dt)


def schemes(config: Config) -> dict[str, DiscreteScheme]:
    """Both learned, and the stencil alone, from the steps of the paper and from fine ones; from the same seed."""
    system, dx = system_of(config), 1 / config.n
    # A Jacobian of n^2 columns is dear to make and cheap to keep; beyond some hundreds of cells GMRES wins.
    solver = Solver("dense" if config.n <= 20 else "krylov", tolerance=1e-12)
    energies = {"both learned": ConvEnergy(2, dx, config.hidden), "energy known": system.energy, FINE: system.energy}
    return {
        name: DiscreteScheme(EnergyModel(energy, LearnedStencil(2, 1, dx)).double(), solver)
        for name, energy in energies.items()
    }


def run(config: Config, directory: Path, on: str = "cpu") -> Path:
    """Make the data, train, predict; returns the run directory."""
    with run_of(directory, config) as record:
        system = system_of(config)
        everything = motions.data(directory, system, config.train + config.test, config.seed, config.length)
        fine = replace(system, dt=config.fine_dt)
        from_noise = motions.data(directory, fine, config.train, config.seed, config.length // 2, "fine")
        start = everything.u[config.train :, 0].to(on)
        torch.manual_seed(config.seed)
        for name, scheme in schemes(config).items():
            # Two numbers alone are learned in fewer and longer steps.
            steps, lr = (config.steps, config.lr) if name == "both learned" else (config.steps // 4, 20 * config.lr)
            training = Training(steps, config.batch, lr, cosine=True, seed=config.seed)
            examples = from_noise if name == FINE else everything[: config.train]
            motions.train(record, name, scheme.to(on), training, examples.to(device=on))
            motions.predict(directory, name, scheme, start, config.dt, config.length)
    return directory


def main() -> None:
    parser = command("phase_separation", __doc__)
    parser.add_argument("--full", action="store_true", help="the sizes of the paper: hours, or a GPU")
    parser.add_argument("--steps", type=int, help="training steps, instead of the configuration's")
    parser.add_argument("--device", default="cpu", type=device)
    options = parser.parse_args()
    config = FULL if options.full else Config()
    run(replace(config, steps=options.steps or config.steps), options.out, options.device)
    next_command("phase_separation", options.out)


if __name__ == "__main__":
    main()
