"""Incompressible Euler on the torus against the exact solution: a Taylor-Green vortex carried by a uniform wind.

    python -m experiments.taylor_green [--seconds 20] [--seeds 3] [--out runs/taylor_green]
    python -m analysis.taylor_green runs/taylor_green

Given the velocity at t = 0, find it for 0 < t <= 1. Every method has the same CPU time, optimizer, schedule, network
size, and choice of learning rates. `ncl`: a stream function, divergence-free by construction. `pinn`: velocity and
pressure, divergence in the loss. Both once with the initial condition in the loss, once built in (`-start`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.runs import command, next_command
from experiments.training import train
from neuromech.physics import mlp
from neuromech.physics.fields.layers import Sin, stack_of
from neuromech.physics.fields.taylor import hessians, jacobian, tangents

METHODS = ("ncl", "pinn", "ncl-start", "pinn-start")
RATES = (2e-2,)  # 5e-3 was worse for every method
WIND = (0.5, 0.25)
TWO_PI = 2 * math.pi


@dataclass(frozen=True)
class Config:
    method: str = "ncl"
    seconds: float = 20.0
    seed: int = 0
    batch: int = 256
    width: int = 48
    depth: int = 3
    lr: float = 5e-3
    initial: float = 10.0  # weight of the initial condition in the loss
    divergence: float = 1.0  # weight of the divergence in the loss


def exact(y: Tensor) -> Tensor:
    """The velocity at (t, x, y): [B, 3] -> [B, 2]."""
    a, b = TWO_PI * (y[:, 1] - WIND[0] * y[:, 0]), TWO_PI * (y[:, 2] - WIND[1] * y[:, 0])
    return torch.stack([WIND[0] + a.sin() * b.cos(), WIND[1] - a.cos() * b.sin()], -1)


def start(y: Tensor) -> tuple[Tensor, Tensor]:
    """The initial velocity, and its derivatives by (t, x, y): [B, 2], [B, 2, 3]."""
    a, b = TWO_PI * y[:, 1], TWO_PI * y[:, 2]
    zero = torch.zeros_like(a)
    cc, ss = TWO_PI * a.cos() * b.cos(), TWO_PI * a.sin() * b.sin()
    u = torch.stack([WIND[0] + a.sin() * b.cos(), WIND[1] - a.cos() * b.sin()], -1)
    return u, torch.stack([zero, cc, -ss, zero, ss, -cc], -1).unflatten(-1, (2, 3))


class Stream(nn.Module):
    """u = wind + (psi_y, -psi_x) / 2 pi: the matrix form in two dimensions; one network gives psi and the pressure.

    Unscaled, derivatives of 2 pi x make the start 2 pi times too large, and slow to train.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.net = mlp(3, 2, config.width, config.depth, Sin, (None, 1.0, 1.0))
        self.soft = config.method == "ncl"

    def velocity(self, y: Tensor) -> Tensor:
        slope = tangents(stack_of(self.net), y, 3)[1][..., 0] / TWO_PI
        return self._placed(y, torch.stack([slope[:, 2], -slope[:, 1]], -1))

    def _placed(self, y: Tensor, u: Tensor) -> Tensor:
        return u + torch.tensor(WIND) if self.soft else start(y)[0] + y[:, :1] * u

    def fields(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity [B, 2], its derivatives by (t, x, y) [B, 2, 3], pressure gradient [B, 2]."""
        _, first, second = hessians(stack_of(self.net), y)
        slope, bend = first[..., 0] / TWO_PI, second[..., 0] / TWO_PI
        u, du = torch.stack([slope[:, 2], -slope[:, 1]], -1), torch.stack([bend[:, 2], -bend[:, 1]], 1)
        return self._placed(y, u), du if self.soft else with_start(y, u, du), first[:, 1:, 1]


class Penalised(nn.Module):
    """Velocity and pressure of one network; the divergence goes into the loss."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.net = mlp(3, 3, config.width, config.depth, Sin, (None, 1.0, 1.0))
        self.soft = config.method == "pinn"

    def velocity(self, y: Tensor) -> Tensor:
        u = self.net(y)[:, :2]
        field: Tensor = u if self.soft else start(y)[0] + y[:, :1] * u
        return field

    def fields(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity [B, 2], its derivatives by (t, x, y) [B, 2, 3], pressure gradient [B, 2]."""
        value, slope = tangents(stack_of(self.net), y, 3)
        u, du, p = value[:, :2], slope[..., :2].transpose(1, 2), slope[:, 1:, 2]
        return (u, du, p) if self.soft else (start(y)[0] + y[:, :1] * u, with_start(y, u, du), p)


def with_start(y: Tensor, u: Tensor, du: Tensor) -> Tensor:
    """Derivatives of u0 + t u."""
    by_time = torch.nn.functional.pad(u.unsqueeze(-1), (0, 2))
    return start(y)[1] + y[:, :1].unsqueeze(-1) * du + by_time


def loss_of(flow: Stream | Penalised, config: Config) -> Tensor:
    y = torch.rand(config.batch, 3)
    u, du, p = flow.fields(y)
    momentum = du[..., 0] + (du[..., 1:] @ u.unsqueeze(-1)).squeeze(-1) + p
    loss = momentum.square().sum(-1).mean()
    if isinstance(flow, Penalised):
        loss = loss + config.divergence * (du[:, 0, 1] + du[:, 1, 2]).square().mean()
    if flow.soft:
        y0 = at_start(y)
        loss = loss + config.initial * (flow.velocity(y0) - exact(y0)).square().sum(-1).mean()
    return loss


def at_start(y: Tensor) -> Tensor:
    """The same places at t = 0."""
    return torch.cat([torch.zeros_like(y[:, :1]), y[:, 1:]], -1)


def run(config: Config, directory: Path) -> Path:
    """Train one method; returns the run directory."""
    torch.manual_seed(config.seed)
    flow = (Stream if config.method.startswith("ncl") else Penalised)(config)
    axis = torch.linspace(0, 1, 17)
    grid = torch.cartesian_prod(axis[::2], axis[:-1], axis[:-1])

    def measure() -> dict[str, float]:
        with torch.no_grad():
            u, du, right = flow.velocity(grid), jacobian(flow.velocity, grid), exact(grid)
        divergence = (du[:, 0, 1] + du[:, 1, 2]).square().mean().sqrt() / du[..., 1:].square().sum((1, 2)).mean().sqrt()
        error = (u - right).square().sum().sqrt() / right.square().sum().sqrt()
        return {"error": float(error), "divergence": float(divergence)}

    about = {"parameters": sum(p.numel() for p in flow.parameters())}
    return train(flow, lambda: loss_of(flow, config), measure, directory, config, about, config.seconds, config.lr)


def main() -> None:
    parser = command("taylor_green", __doc__)
    parser.add_argument("--seconds", type=float, default=Config.seconds, help="CPU time of one run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="learning rates; the best one is judged")
    options = parser.parse_args()
    for seed in range(options.seeds):
        for method in options.methods:
            for lr in options.rates:
                run(Config(method, options.seconds, seed, lr=lr), options.out / f"{method}-{lr:g}-{seed}")
    next_command("taylor_green", options.out)


if __name__ == "__main__":
    main()
