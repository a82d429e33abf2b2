"""Compressible flow against an exact solution: the gas with gamma = 3 on a circle, whose waves steepen.

    python -m experiments.gas [--seconds 8] [--seeds 3] [--out runs/gas]
    python -m analysis.gas runs/gas

rho_t + (rho u)_x = 0 and (rho u)_t + (rho u^2 + rho^3 / 3)_x = 0, from a smooth start. With gamma = 3 the Riemann
invariants w = u +- rho decouple, w_t + w w_x = 0, so that the solution is w(t, x + t w0(x)) = w0(x). `ncl`: density
and flux of one space-time field on the torus, mass, continuity and initial density exact, initial flux in the loss;
`pinn`: density and flux of a network, both equations in the loss, the start built in. Each was better this way round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.runs import command, next_command
from experiments.training import train
from neuromech.physics import NeuralConservationLaw, Sin, Torus, mlp
from neuromech.physics.fields.layers import stack_of
from neuromech.physics.fields.taylor import hessians, jacobian, tangents

METHODS = ("ncl", "pinn")
DURATION = 0.5
SCALE = 0.1  # of the network in the potential: untrained, it hardly moves the density, which must not vanish
TWO_PI = 2 * math.pi


@dataclass(frozen=True)
class Config:
    method: str = "ncl"
    seconds: float = 8.0
    seed: int = 0
    batch: int = 256
    width: int = 48
    depth: int = 3
    lr: float = 2e-2
    initial: float = 100.0  # weight of the initial flux in the loss


def density0(x: Tensor) -> Tensor:
    return 1 + 0.2 * torch.sin(TWO_PI * x[..., 0])


def flux0(x: Tensor) -> Tensor:
    return density0(x).unsqueeze(-1) * 0.1 * torch.cos(TWO_PI * x)


def exact(t: Tensor, x: Tensor, iterations: int = 60) -> tuple[Tensor, Tensor]:
    """Density and flux at times t [B] and places x [B], before waves break; each invariant by Newton's method."""
    t, x = t.double(), x.double()
    waves = []
    for sign in (1, -1):

        def start(y: Tensor, sign: int = sign) -> tuple[Tensor, Tensor]:
            """The invariant at t = 0, and its slope."""
            value = 0.1 * torch.cos(TWO_PI * y) + sign * (1 + 0.2 * torch.sin(TWO_PI * y))
            return value, TWO_PI * (-0.1 * torch.sin(TWO_PI * y) + sign * 0.2 * torch.cos(TWO_PI * y))

        y = x - sign * t
        for _ in range(iterations):
            w, slope = start(y)
            y = y - (y + t * w - x) / (1 + t * slope)
        waves.append(start(y)[0])
    density, velocity = (waves[0] - waves[1]) / 2, (waves[0] + waves[1]) / 2
    return density, density * velocity


class Potential(nn.Module):
    """A network around the potential of the initial flux."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.net = mlp(2, 1, config.width, config.depth, Sin, (None, 1.0))

    def forward(self, y: Tensor) -> Tensor:
        flux: Tensor = SCALE * self.net(y) - flux0(y[:, 1:])
        return flux


class Built(nn.Module):
    """Density and flux by construction, of a = SCALE net - m0: with the start (rho0, m0),

    rho = rho0 + t a_x, flux = -(t a)_t: what `SpaceTimeField` makes of a in one dimension, here with its derivatives
    written out, since training takes them thousands of times.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.potential = Potential(config)
        self.law = NeuralConservationLaw(self.potential, Torus(1), density=density0)

    def forward(self, y: Tensor) -> Tensor:
        """(density, flux): [B, 2]."""
        density, flux = self.law(y[:, 0], y[:, 1:])
        return torch.cat([density.unsqueeze(-1), flux], -1)

    def with_derivatives(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(density, flux) [B, 2] and their derivatives by (t, x) [B, 2, 2]."""
        a, first, second = (SCALE * v.squeeze(-1) for v in hessians(stack_of(self.potential.net), y))
        t, (a_t, a_x), (a_tt, a_tx), a_xx = y[:, 0], first.T, second[:, 0].T, second[:, 1, 1]
        rho0, m0, drho0, dm0, ddm0 = start_with_slopes(y[:, 1])
        value = torch.stack([rho0 + t * (a_x - dm0), m0 - a - t * a_t], -1)
        rho_t, rho_x = a_x - dm0 + t * a_tx, drho0 + t * (a_xx - ddm0)
        m_t = -2 * a_t - t * a_tt
        return value, torch.stack([torch.stack([rho_t, rho_x], -1), torch.stack([m_t, -rho_t], -1)], 1)

    def start(self, y: Tensor) -> Tensor:
        """By how much the flux at t = 0 is off: [B]."""
        value: Tensor = SCALE * self.potential.net(F.pad(y[:, 1:], (1, 0))).squeeze(-1)
        return value


def start_with_slopes(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """rho0, m0, rho0', m0', m0''."""
    s, c, k = torch.sin(TWO_PI * x), torch.cos(TWO_PI * x), TWO_PI
    rho, u = 1 + 0.2 * s, 0.1 * c
    drho, du, ddrho, ddu = 0.2 * k * c, -0.1 * k * s, -0.2 * k * k * s, -0.1 * k * k * c
    return rho, rho * u, drho, drho * u + rho * du, ddrho * u + 2 * drho * du + rho * ddu


class Penalised(nn.Module):
    """Density and flux as outputs of a network."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.net = mlp(2, 2, config.width, config.depth, Sin, (None, 1.0))

    def forward(self, y: Tensor) -> Tensor:
        """(density, flux): [B, 2]."""
        x = y[:, 1:]
        out: Tensor = torch.cat([density0(x).unsqueeze(-1), flux0(x)], -1) + y[:, :1] * self.net(y)
        return out

    def with_derivatives(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(density, flux) [B, 2] and their derivatives by (t, x) [B, 2, 2]."""
        n, slope = tangents(stack_of(self.net), y, 2)
        rho0, m0, drho0, dm0, _ = start_with_slopes(y[:, 1])
        t = y[:, :1]
        by_t, by_x = n + t * slope[:, 0], torch.stack([drho0, dm0], -1) + t * slope[:, 1]
        return torch.stack([rho0, m0], -1) + t * n, torch.stack([by_t, by_x], -1)


def loss_of(model: Built | Penalised, config: Config) -> Tensor:
    y = torch.rand(config.batch, 2) * torch.tensor([DURATION, 1.0])
    value, j = model.with_derivatives(y)
    rho, m = value.T
    u = m / rho
    momentum = j[:, 1, 0] + (2 * u) * j[:, 1, 1] + (rho * rho - u * u) * j[:, 0, 1]
    loss: Tensor = momentum.square().mean()
    if isinstance(model, Built):
        penalty: Tensor = config.initial * model.start(y).square().mean()
    else:
        penalty = (j[:, 0, 0] + j[:, 1, 1]).square().mean()
    return loss + penalty


def run(config: Config, directory: Path) -> Path:
    """Train one method; returns the run directory."""
    torch.manual_seed(config.seed)
    model = (Built if config.method == "ncl" else Penalised)(config)
    t, x = torch.cartesian_prod(torch.linspace(0, DURATION, 11), (torch.arange(64) + 0.5) / 64).T
    y, right = torch.stack([t, x], -1), torch.stack(exact(t, x), -1)

    def measure() -> dict[str, float]:
        value, j = model(y).detach().double(), jacobian(model, y).detach()
        rest = (j[:, 0, 0] + j[:, 1, 1]).square().mean().sqrt() / (j[:, 0, 0] ** 2 + j[:, 1, 1] ** 2).mean().sqrt()
        off = ((value - right).square().sum(0) / right.square().sum(0)).sqrt()
        mass = value[:, 0].reshape(11, 64).mean(1)
        return {
            "density_error": float(off[0]),
            "flux_error": float(off[1]),
            "continuity": float(rest),
            "mass": float((mass - 1).abs().max()),
        }

    return train(model, lambda: loss_of(model, config), measure, directory, config, {}, config.seconds, config.lr, 6)


def main() -> None:
    parser = command("gas", __doc__)
    parser.add_argument("--seconds", type=float, default=Config.seconds, help="CPU time of one run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    options = parser.parse_args()
    for seed in range(options.seeds):
        for method in options.methods:
            run(Config(method, options.seconds, seed), options.out / f"{method}-{seed}")
    next_command("gas", options.out)


if __name__ == "__main__":
    main()
