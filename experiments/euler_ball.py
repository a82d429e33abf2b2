"""Incompressible Euler in the three-dimensional ball against an exact solution: a spheromak, seen by one who turns.

    python -m experiments.euler_ball [--seconds 20] [--seeds 3] [--out runs/euler_ball]
    python -m experiments.euler_ball --full [--device cuda]
    python -m analysis.euler_ball runs/euler_ball

v_t + (v . grad) v + 2 W x v + grad P = 0, div v = 0 in the unit ball, v . n = 0 on the sphere, v given at t = 0. The
spheromak (Chandrasekhar and Kendall 1957) has curl u = k u and is tangent to the sphere where tan k = k, so that it is
a steady flow with p = -|u|^2 / 2. In a frame that turns with W about another axis than its own, it precesses.

Every method has the same CPU time, optimizer, schedule, network and points. `ncl`: the matrix form with the wall built
in. `curl`: v = curl b, which in three dimensions is the same matrix form without the wall: that goes into the loss.
`pinn`: velocity and pressure, divergence and wall in the loss. The start is in the loss of all three. With `--full`
they have the same number of steps instead: hours a run on a core, meant for a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.runs import command, next_command
from experiments.training import train
from neuromech.physics import Ball, Sin, mlp
from neuromech.physics.fields.layers import stack_of
from neuromech.physics.fields.schemes import antisymmetric, field_of_jet
from neuromech.physics.fields.taylor import hessians, jacobian, tangents

METHODS = ("ncl", "curl", "pinn")
BALL = Ball(3)
ROOT = 4.493409457909064  # the least k > 0 with tan k = k
AXIS = (0.6, 0.0, 0.8)  # of the spheromak at t = 0
SPIN = 1.5  # of the frame, about the third axis
TERMS = 18  # of the series below; for s <= ROOT the first one left out is below float64's rounding


@dataclass(frozen=True)
class Config:
    method: str = "ncl"
    seconds: float = 20.0
    seed: int = 0
    batch: int = 256
    width: int = 48
    depth: int = 3
    lr: float = 1e-2
    initial: float = 10.0  # weights in the loss: of the initial condition,
    wall: float = 10.0  # of what crosses the wall,
    divergence: float = 1.0  # and of the divergence
    steps: int | None = None  # trains for so many steps instead of `seconds`
    device: str = "cpu"


FULL = Config(width=512, depth=4, batch=1000, steps=10_000, lr=1e-3)


def bessel(n: int, square: Tensor) -> Tensor:
    """j_n(s) / s^n of s^2, the spherical Bessel function: smooth at 0. DLMF 10.53.1, by Horner's rule."""
    total = torch.ones_like(square)
    for k in range(TERMS, 0, -1):
        total = 1 - total * square / (2 * k * (2 * n + 2 * k + 1))
    return total / math.prod(range(2 * n + 1, 1, -2))


def spheromak(x: Tensor, axis: Tensor) -> Tensor:
    """u with curl u = ROOT u, tangent to the unit sphere, 1 in the middle: x, axis [B, 3] -> [B, 3]."""
    square = x.square().sum(-1, keepdim=True)
    g, h = bessel(1, ROOT**2 * square), bessel(2, ROOT**2 * square)
    along = (axis * x).sum(-1, keepdim=True)
    poloidal = 2 * g * axis - ROOT**2 * h * (square * axis - along * x)
    field: Tensor = 1.5 * (poloidal + ROOT * g * torch.linalg.cross(axis, x))
    return field


def frame(x: Tensor) -> Tensor:
    """W x x, the velocity of the frame."""
    return SPIN * torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], -1)


def exact(y: Tensor) -> Tensor:
    """The velocity at (t, x): [B, 4] -> [B, 3]. Seen from the frame, the axis turns backwards."""
    angle, (a, b, c) = -SPIN * y[:, 0], AXIS
    cos, sin = angle.cos(), angle.sin()
    axis = torch.stack([a * cos - b * sin, a * sin + b * cos, c + 0 * cos], -1)
    return spheromak(y[:, 1:], axis) - frame(y[:, 1:])


def at_start(y: Tensor) -> Tensor:
    """The same places at t = 0."""
    return F.pad(y[:, 1:], (1, 0))


class Flow(nn.Module):
    """One network of (t, x); its first outputs make the velocity, the last is the pressure."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.built, self.walled = config.method != "pinn", config.method == "ncl"
        self.net = mlp(4, 4, config.width, config.depth, Sin)
        with torch.no_grad():
            next(self.net.parameters()).mul_(2.0)  # as many waves as the flow has

    def velocity(self, y: Tensor) -> Tensor:
        """[B, 4] -> [B, 3]."""
        if not self.built:
            field: Tensor = self.net(y)[:, :3]
            return field
        value, first = tangents(stack_of(self.net), y, 3)
        a, slope = value[:, :3], first[..., :3]
        if self.walled:
            gate, steep = BALL.wall(y[:, 1:])
            slope = gate[:, None, None] * slope + steep.unsqueeze(-1) * a.unsqueeze(1)
        return torch.einsum("bjij->bi", antisymmetric(slope, 3))

    def fields(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity [B, 3], its derivatives by (t, x) [B, 3, 4], pressure gradient [B, 3]."""
        stack = stack_of(self.net)
        if not self.built:
            value, first = tangents(stack, y, 4)
            return value[:, :3], first[..., :3].transpose(1, 2), first[:, 1:, 3]
        value, first, second = hessians(stack, y)
        domain = BALL if self.walled else None
        return *field_of_jet(value[:, :3], first[..., :3], second[..., :3], 3, domain, y[:, 1:]), first[:, 1:, 3]


def momentum(v: Tensor, dv: Tensor, slope: Tensor) -> Tensor:
    """v_t + (v . grad) v + 2 W x v + grad P: [B, 3]."""
    return dv[..., 0] + (dv[..., 1:] @ v.unsqueeze(-1)).squeeze(-1) + 2 * frame(v) + slope


def divergence(dv: Tensor) -> Tensor:
    """[B, 3, 4] -> [B]."""
    return dv[..., 1:].diagonal(dim1=1, dim2=2).sum(-1)


def draw(count: int, device: str | torch.device = "cpu") -> Tensor:
    """Points (t, x) in [0, 1] x ball; drawn on the CPU, so that a run that goes on draws the same."""
    return torch.cat([torch.rand(count, 1), BALL.sample(count)], -1).to(device)


def on_sphere(y: Tensor) -> Tensor:
    """The points moved out to the wall."""
    return torch.cat([y[:, :1], F.normalize(y[:, 1:], dim=-1)], -1)


def loss_of(flow: Flow, config: Config) -> Tensor:
    y = draw(config.batch, config.device)
    v, dv, slope = flow.fields(y)
    y0 = at_start(y)
    missed = (flow.velocity(y0) - exact(y0)).square().sum(-1).mean()
    loss = momentum(v, dv, slope).square().sum(-1).mean() + config.initial * missed
    if not flow.walled:
        few = on_sphere(y[: len(y) // 2])
        loss = loss + config.wall * (flow.velocity(few) * few[:, 1:]).sum(-1).square().mean()
    if not flow.built:
        loss = loss + config.divergence * divergence(dv).square().mean()
    return loss


@torch.no_grad()
def measures(flow: Flow, y: Tensor) -> dict[str, float]:
    """Relative root mean squares: error, divergence (over |grad v|), what crosses the wall (over |v|), momentum.

    The divergence is that of the velocity itself, by autodiff. Momentum is over its largest term, (v . grad) v.
    """
    v, dv, slope = flow.fields(y)
    right, edge = exact(y), on_sphere(y)
    j = jacobian(flow.velocity, y)
    at_wall = flow.velocity(edge)
    advection = (dv[..., 1:] @ v.unsqueeze(-1)).norm()
    return {
        "error": float((v - right).norm() / right.norm()),
        "divergence": float(divergence(j).norm() / j[..., 1:].norm()),
        "wall": float((at_wall * edge[:, 1:]).sum(-1).norm() / at_wall.norm()),
        "momentum": float(momentum(v, dv, slope).norm() / advection),
    }


def run(config: Config, directory: Path) -> Path:
    """Train one method; returns the run directory."""
    torch.manual_seed(config.seed)
    flow = Flow(config).to(config.device)
    state = torch.get_rng_state()
    torch.manual_seed(1000)
    probe = draw(2048, config.device)
    torch.set_rng_state(state)
    about = {"parameters": sum(p.numel() for p in flow.parameters())}
    return train(
        flow,
        lambda: loss_of(flow, config),
        lambda: measures(flow, probe),
        directory,
        config,
        about,
        config.seconds,
        config.lr,
        measures=12 if config.steps is None else 200,
        steps=config.steps,
    )


def main() -> None:
    parser = command("euler_ball", __doc__)
    parser.add_argument("--seconds", type=float, default=Config.seconds, help="CPU time of one run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--lr", type=float, default=None, help="learning rate")
    parser.add_argument("--full", action="store_true", help="the paper's size: 512 wide, 10,000 steps; for a GPU")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    base = FULL if options.full else Config()
    base = replace(base, seconds=options.seconds, device=options.device, lr=options.lr or base.lr)
    for seed in range(options.seeds):
        for method in options.methods:
            run(replace(base, method=method, seed=seed), options.out / f"{method}-{seed}")
    next_command("euler_ball", options.out)


if __name__ == "__main__":
    main()
