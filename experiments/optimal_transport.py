"""Dynamical optimal transport between known densities, judged by the exact W2: by construction, by penalty, by duality.

    python -m experiments.optimal_transport [--seconds 8] [--seeds 3] [--out runs/optimal_transport]
    python -m analysis.optimal_transport runs/optimal_transport

Every method has the same CPU time. `ncl`: a moving mixture that is held at both ends and conserves mass exactly, so
that its kinetic energy is an upper bound; its means and factors may leave the straight line, and a swirl is added.
`pinn`: log density, exact at both ends, and velocity, continuity in the loss. `icnn`: gradients of convex networks,
minimax (Makkuva et al. 2020); a map, no flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.runs import command, next_command
from experiments.training import train
from neuromech.physics import (
    Mixture,
    MovingMixture,
    NeuralConservationLaw,
    couple,
    gaussian,
    gaussian_cost,
    gaussian_mixture,
    kinetic_energy,
    mlp,
)
from neuromech.physics.fields.taylor import jacobian

METHODS = ("ncl", "pinn-100", "pinn-1000", "icnn")
PROBLEMS = ("gauss1", "gauss2", "gauss8", "mixed1", "ring2")


@dataclass(frozen=True)
class Config:
    problem: str = "gauss2"
    method: str = "ncl"
    seconds: float = 8.0
    seed: int = 0
    batch: int = 512
    width: int = 48
    depth: int = 2
    lr: float = 5e-3


def ends(problem: str) -> tuple[Mixture, Mixture]:
    """The two densities of a problem."""
    if problem.startswith("gauss"):
        d = int(problem.removeprefix("gauss"))
        seeded = torch.Generator().manual_seed(d)
        roots = [torch.randn(d, d, generator=seeded) for _ in range(2)]
        covariances = [0.3 * torch.eye(d) + r @ r.T / d for r in roots]
        return gaussian(torch.zeros(d), covariances[0]), gaussian(1.5 * torch.ones(d) / math.sqrt(d), covariances[1])
    if problem == "mixed1":
        start = gaussian_mixture(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [0.5]]), torch.full((2, 1, 1), 0.09))
        three, narrow = torch.tensor([[-1.5], [0.0], [2.0]]), torch.full((3, 1, 1), 0.04)
        return start, gaussian_mixture(torch.tensor([0.3, 0.3, 0.4]), three, narrow)
    angle = torch.arange(8) * math.pi / 4
    ring = 2.0 * torch.stack([angle.cos(), angle.sin()], -1)
    narrow = 0.09 * torch.eye(2).repeat(8, 1, 1)
    return gaussian(torch.zeros(2), torch.eye(2)), gaussian_mixture(torch.ones(8), ring, narrow)


def moments(m: Mixture) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a mixture."""
    mean = m.weights @ m.means
    y = m.means - mean
    return mean, torch.einsum("k,kij->ij", m.weights, m.factors @ m.factors.mT + y[:, :, None] * y[:, None, :])


class Penalised(nn.Module):
    """log rho = (1 - t) log rho_0 + t log rho_1 + t (1 - t) net, and u = net; sampled from a wide moving Gaussian."""

    def __init__(self, start: Mixture, end: Mixture, config: Config) -> None:
        super().__init__()
        d = start.means.shape[1]
        self.net, self.start, self.end = mlp(1 + d, 1 + d, config.width, config.depth, nn.SiLU), start, end
        self.penalty = float(config.method.removeprefix("pinn-"))
        (self.m0, c0), (self.m1, c1) = moments(start), moments(end)
        self.wide = 2 * torch.maximum(torch.linalg.eigvalsh(c0).max(), torch.linalg.eigvalsh(c1).max()).sqrt()
        if d > 2:
            self.wide = 0.6 * self.wide

    def fields(self, y: Tensor) -> Tensor:
        """(log rho, u): [B, 1 + d]."""
        t, x = y[:, 0], y[:, 1:]
        value = self.net(y)
        log = (1 - t) * self.start.log_density(x) + t * self.end.log_density(x) + t * (1 - t) * value[:, 0]
        return torch.cat([log.unsqueeze(-1), value[:, 1:]], -1)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Points (t, x), and the logarithm of their density."""
        t, z = torch.rand(count, 1), torch.randn(count, len(self.m0))
        x = (1 - t) * self.m0 + t * self.m1 + self.wide * z
        return torch.cat([t, x], -1), (-0.5 * z * z - self.wide.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def loss(self, batch: int) -> Tensor:
        y, log_q = self.draw(batch)
        value, j = self.fields(y), jacobian(self.fields, y, forward=True)
        u = value[:, 1:]
        residual = j[:, 0, 0] + (u * j[:, 0, 1:]).sum(-1) + j[:, 1:, 1:].diagonal(dim1=1, dim2=2).sum(-1)
        weight = (value[:, 0] - log_q).exp()
        return (weight * (u.square().sum(-1) + self.penalty * residual.square())).mean()

    @torch.no_grad()
    def energy(self, count: int = 40_000) -> float:
        """Kinetic energy."""
        y, log_q = self.draw(count)
        value = self.fields(y)
        return float(((value[:, 0] - log_q).exp() * value[:, 1:].square().sum(-1)).mean())

    def transport(self, x: Tensor) -> Tensor:
        return runge_kutta(lambda t, y: self.net(torch.cat([t.expand(len(y), 1), y], -1))[:, 1:], x)


class Convex(nn.Module):
    """An input-convex network with a quadratic part; called, it returns its gradient, nearly the identity at first.

    A map that tears a density apart is the gradient of a potential with kinks: sharp softplus and large first weights
    come near them, with torch's defaults training stays close to the affine map.
    """

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.first, self.skip = nn.Linear(d, width), nn.Linear(d, width)
        self.inner, self.last = nn.Parameter(torch.randn(width, width) - 4), nn.Parameter(torch.randn(width) - 4)
        self.root, self.shift = nn.Parameter(torch.eye(d)), nn.Parameter(torch.zeros(d))
        with torch.no_grad():
            for p in (*self.first.parameters(), *self.skip.parameters()):
                p.mul_(3.0)

    def value(self, x: Tensor) -> Tensor:
        h = F.softplus(self.first(x), beta=5.0)
        h = F.softplus(h @ F.softplus(self.inner).T + self.skip(x), beta=5.0)
        return h @ F.softplus(self.last) + 0.5 * (x @ self.root).square().sum(-1) + x @ self.shift

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(self.value(x).sum(), x, create_graph=True)[0]


class Dual(nn.Module):
    """min_f max_g  E_1[f] + E_0[<x, grad g(x)> - f(grad g(x))], both convex; grad g is the transport."""

    def __init__(self, start: Mixture, end: Mixture, config: Config) -> None:
        super().__init__()
        d = start.means.shape[1]
        self.f, self.g, self.start, self.end = Convex(d, config.width), Convex(d, config.width), start, end

    def loss(self, batch: int) -> Tensor:
        """Both losses in one: what f shall lower is detached from g, and what g shall raise (negated) from f."""
        x, z = self.start.sample(batch), self.end.sample(batch)
        y = self.g(x)
        of_g = (frozen_value(self.f, y) - (x * y).sum(-1)).mean()
        of_f = self.f.value(z).mean() - self.f.value(y.detach()).mean()
        loss: Tensor = of_g + of_f
        return loss

    def transport(self, x: Tensor) -> Tensor:
        value: Tensor = self.g(x).detach()
        return value


def frozen_value(f: Convex, y: Tensor) -> Tensor:
    """f(y) with a gradient to y alone."""
    for p in f.parameters():
        p.requires_grad_(False)
    value = f.value(y)
    for p in f.parameters():
        p.requires_grad_(True)
    return value


@torch.no_grad()
def runge_kutta(f: Callable[[Tensor, Tensor], Tensor], x: Tensor, steps: int = 32) -> Tensor:
    """x(1) of x' = f(t, x) from x(0)."""
    dt = 1 / steps
    for i in range(steps):
        t = torch.tensor([[i * dt]])
        k1 = f(t, x)
        k2 = f(t + dt / 2, x + dt / 2 * k1)
        k3 = f(t + dt / 2, x + dt / 2 * k2)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + f(t + dt, x + dt * k3))
    return x


def mixture_of(config: Config) -> MovingMixture:
    """Held at both ends, with a swirl where there is room for one."""
    start, end = couple(*ends(config.problem))
    d = start.means.shape[1]
    swirl = mlp(1 + d, d * (d - 1) // 2, config.width, 1, nn.SiLU) if d > 1 else None
    return MovingMixture(d, start=start, end=end, width=config.width, depth=config.depth, swirl=swirl)


@torch.no_grad()
def mass_halfway(density: Callable[[Tensor], Tensor], start: Mixture, end: Mixture) -> float:
    """The integral of the density at t = 1/2: on a grid in 1 and 2 dimensions, else by drawing from a wide Gaussian."""
    d = start.means.shape[1]
    if d <= 2:
        axis = (torch.arange(360) + 0.5) / 360 * 18 - 9
        x = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
        volume: float = float(density(x).double().mean()) * 18**d
        return volume
    mean = (moments(start)[0] + moments(end)[0]) / 2
    factor = torch.linalg.cholesky(0.75 * (moments(start)[1] + moments(end)[1]))
    z = torch.randn(50_000, d)
    log_q = -0.5 * z.square().sum(-1) - d / 2 * math.log(2 * math.pi) - factor.diagonal().log().sum()
    return float((density(mean + z @ factor.T) / log_q.exp()).double().mean())


def run(config: Config, directory: Path) -> Path:
    """Train one method on one problem; returns the run directory."""
    torch.manual_seed(config.seed)
    start, end = ends(config.problem)
    d = start.means.shape[1]
    probe = start.sample(2000)
    m1, c1 = moments(end)

    def ending(y: Tensor) -> float:
        """How far the moments of the transported points are from the target's: a W2 of Gaussians."""
        return float(gaussian_cost(y.mean(0), y.T.cov().reshape(d, d), m1, c1).clamp_min(0).sqrt())

    model: nn.Module
    if config.method == "ncl":
        flow = mixture_of(config)
        law = NeuralConservationLaw(flow)
        model = flow

        def loss() -> Tensor:
            return kinetic_energy(flow, config.batch)

        @torch.no_grad()
        def measure() -> dict[str, float]:
            y = law.paths(probe, [0.0, 1.0], 16).positions[-1]
            cost = sum(float(kinetic_energy(flow, 10_000)) for _ in range(4)) / 4
            mass = mass_halfway(lambda x: law.density(0.5, x), start, end)
            return {"cost": cost, "mass": mass, "ending": ending(y), "map_cost": moved(y)}

    else:
        other = Dual(start, end, config) if config.method == "icnn" else Penalised(start, end, config)
        model = other

        def loss() -> Tensor:
            return other.loss(config.batch)

        def measure() -> dict[str, float]:
            y = other.transport(probe)
            if isinstance(other, Dual):  # a map has no density on the way
                x = start.sample(40_000)
                cost = float((other.transport(x) - x).square().sum(-1).mean())
                return {"cost": cost, "mass": math.nan, "ending": ending(y), "map_cost": moved(y)}

            def density(x: Tensor) -> Tensor:
                return other.fields(torch.cat([torch.full((len(x), 1), 0.5), x], -1))[:, 0].exp()

            cost, mass = other.energy(), mass_halfway(density, start, end)
            return {"cost": cost, "mass": mass, "ending": ending(y), "map_cost": moved(y)}

    def moved(y: Tensor) -> float:
        return float((y - probe).square().sum(-1).mean())

    lr, betas = config.lr, (0.9, 0.99)
    if config.method == "icnn":  # a minimax: it diverges at the others' rate, and momentum makes it swing
        lr, betas = 2e-3, (0.5, 0.9)
    train(model, loss, measure, directory, config, {"lr": lr}, config.seconds, lr, measures=2, betas=betas)
    return directory


def main() -> None:
    parser = command("optimal_transport", __doc__)
    parser.add_argument("--seconds", type=float, default=Config.seconds, help="CPU time of one run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--problems", nargs="+", default=PROBLEMS, choices=PROBLEMS)
    options = parser.parse_args()
    for seed in range(options.seeds):
        for problem in options.problems:
            for method in options.methods:
                run(Config(problem, method, options.seconds, seed), options.out / f"{problem}-{method}-{seed}")
    next_command("optimal_transport", options.out)


if __name__ == "__main__":
    main()
