"""Gaussian mixtures that move: positive, of constant mass, and with a flux in closed form.

If x = mu(t) + S(t) z carries a Gaussian, its velocity is mu' + S' S^-1 (x - mu), and the flux of a mixture with
constant weights is the sum of the fluxes: flux = sum_k w_k N_k (mu_k' + S_k' S_k^-1 (x - mu_k)).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics.fields.construction import Construction, DensityFlux, check_positive
from neuromech.physics.fields.domain import FreeSpace
from neuromech.physics.fields.layers import mlp
from neuromech.physics.fields.motion import Clock, swirl_of


class Mixture(NamedTuple):
    """sum_k weights_k N(means_k, factors_k factors_k^T): [K], [K, d], [K, d, d]."""

    weights: Tensor
    means: Tensor
    factors: Tensor

    def log_density(self, x: Tensor) -> Tensor:
        """[B, d] -> [B]."""
        logs, _ = _log_parts(x.unsqueeze(1) - self.means, self.factors.expand(len(x), -1, -1, -1))
        return torch.logsumexp(logs + self.weights.log(), -1)

    def sample(self, count: int) -> Tensor:
        """[count, d]."""
        k = torch.multinomial(self.weights, count, replacement=True)
        z = torch.randn(count, self.means.shape[1], dtype=self.means.dtype, device=self.means.device)
        return self.means[k] + torch.einsum("bij,bj->bi", self.factors[k], z)


def check_mixture(name: str, value: object, missing: bool = True) -> None:
    """Raise `PhysicsError` for what is not a mixture; None may stand for one that is `missing`."""
    if not isinstance(value, Mixture) and not (missing and value is None):
        raise PhysicsError(
            f"{name} is {type(value).__name__}; expected a Mixture, as gaussian(mean, covariance) or "
            "gaussian_mixture(weights, means, covariances) make it"
        )


def gaussian(mean: Tensor, covariance: Tensor) -> Mixture:
    """One Gaussian as a mixture."""
    return gaussian_mixture(
        torch.ones(1, dtype=mean.dtype, device=mean.device), mean.unsqueeze(0), covariance.unsqueeze(0)
    )


def gaussian_mixture(weights: Tensor, means: Tensor, covariances: Tensor) -> Mixture:
    """Checked: weights [K] positive, means [K, d], covariances [K, d, d] positive definite. Weights are normalised."""
    k, d = means.shape if means.ndim == 2 else (0, 0)
    if weights.shape != (k,) or covariances.shape != (k, d, d) or not k:
        found = [list(v.shape) for v in (weights, means, covariances)]
        raise PhysicsError(f"weights, means, covariances have shapes {found}: expected [K], [K, d], [K, d, d]")
    factors, info = torch.linalg.cholesky_ex(covariances)
    skew = (covariances - covariances.mT).abs().max()
    if bool((info != 0).any()) or not bool(skew <= 1e-6 * covariances.abs().max()):
        raise PhysicsError("a covariance is not symmetric and positive definite")
    if not bool((weights > 0).all()):
        raise PhysicsError("a weight of the mixture is not positive: leave that component out")
    return Mixture(weights / weights.sum(), means, factors)


class MovingMixture(Construction):
    """A mixture of `components` Gaussians in R^d, moved by a network of time.

    `start`, `end`: mixtures that it is held at, exactly, at times 0 and `duration`; their components correspond one to
        one and have the same weights (`couple` sees to that). With both, each goes the way of optimal transport between
        Gaussians, up to a learned turn, and t (1 - t) times what the network moves.
    Factors are never singular, whatever the parameters are: the network multiplies them by triangular matrices with
    positive diagonals, the turn is orthogonal, and the way of optimal transport is positive definite.
    `swirl`: a potential [B, 1 + d] -> [B, d(d-1)/2] that adds sum_j d_j (rho B_ij) to the flux.
    `velocity` is taken without dividing by the density, so it is finite however small that is.
    """

    log_weights: Tensor
    means: Tensor
    factors: Tensor
    end_means: Tensor
    end_factors: Tensor

    def __init__(
        self,
        d: int,
        components: int = 16,
        start: Mixture | None = None,
        end: Mixture | None = None,
        width: int = 64,
        depth: int = 2,
        duration: float = 1.0,
        mass: float = 1.0,
        spread: float = 1.0,
        size: float = 0.5,
        swirl: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.domain, self.total_mass, self.duration = FreeSpace(d), mass, duration
        self._check(start, end, d)
        components = components if start is None else len(start.weights)
        check_positive(components=components, mass=mass, duration=duration, spread=spread, size=size)
        if start is None and end is not None:
            raise PhysicsError("an end without a start: run time backwards, or pass start= too")
        self.pinned = (start is not None) + (end is not None)
        if start is None:
            eye = size * torch.eye(d).expand(components, d, d)
            start = Mixture(torch.full((components,), 1 / components), spread * torch.randn(components, d), eye.clone())
        k = len(start.weights)
        self._hold("log_weights", start.weights.log())
        self._hold("means", start.means)
        self.register_buffer("factors", start.factors.clone())
        if self.pinned == 0:
            self.stretch = nn.Parameter(torch.zeros_like(start.factors))
        if end is not None:
            self._hold("end_means", end.means)
            self._hold("end_factors", aligned(start.factors, end.factors))
            self.turn = nn.Parameter(torch.zeros_like(end.factors))
        self.clock = Clock(mlp(1, k * (d + d * d), width, depth).to(start.means))
        self.swirl = swirl_of(swirl, d)

    def _hold(self, name: str, value: Tensor) -> None:
        """What is pinned is a buffer, what is free a parameter."""
        if self.pinned:
            self.register_buffer(name, value.clone())
        else:
            self.register_parameter(name, nn.Parameter(value.clone()))

    @staticmethod
    def _check(start: Mixture | None, end: Mixture | None, d: int) -> None:
        for name, m in (("start", start), ("end", end)):
            check_mixture(name, m)
            if m is not None and m.means.shape[1] != d:
                raise PhysicsError(f"{name} lives in {m.means.shape[1]} dimensions, the mixture in {d}")
        if (
            start is not None
            and end is not None
            and (start.weights.shape != end.weights.shape or not torch.allclose(start.weights, end.weights, rtol=1e-5))
        ):
            raise PhysicsError(
                f"start has {len(start.weights)} components and end {len(end.weights)}, or their weights differ: make "
                "them correspond one to one with couple(start, end)"
            )

    def motion(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means [B, K, d], factors [B, K, d, d] and their rates of change at times t [B]."""
        k, d = self.means.shape
        s = t / self.duration
        value, rate = self.clock(s)

        def split(v: Tensor) -> tuple[Tensor, Tensor]:
            return v[:, : k * d].unflatten(-1, (k, d)), v[:, k * d :].unflatten(-1, (k, d, d))

        gate, slope = (torch.ones_like(s), torch.zeros_like(s)) if self.pinned == 0 else (s, torch.ones_like(s))
        if self.pinned == 2:
            gate, slope = s * (1 - s), 1 - 2 * s
        shift = self.end_means - self.means if self.pinned == 2 else torch.zeros_like(self.means)
        mean, log = split(gate[:, None] * value)
        mean_rate, log_rate = split(gate[:, None] * rate + slope[:, None] * value)
        mean, mean_rate = mean + self.means + s[:, None, None] * shift, mean_rate + shift
        factor, factor_rate = positive(log + self.stretch if self.pinned == 0 else log, log_rate)
        if self.pinned == 2:
            turn, turn_rate = turned(self.turn - self.turn.mT, s[:, None, None, None])
            factor, factor_rate = turn @ factor, turn_rate @ factor + turn @ factor_rate
            way = self.end_factors - self.factors
            base = self.factors + s[:, None, None, None] * way
            factor, factor_rate = base @ factor, way @ factor + base @ factor_rate
        else:
            factor, factor_rate = self.factors @ factor, self.factors @ factor_rate
        return mean, factor, mean_rate / self.duration, factor_rate / self.duration

    def forward(self, t: Tensor, x: Tensor) -> DensityFlux:
        log_density, velocity = self._flow(t, x)
        density = self.total_mass * log_density.exp()
        return DensityFlux(density, density.unsqueeze(-1) * velocity)

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        return self._flow(t, x)[1]

    def log_density(self, t: Tensor, x: Tensor) -> Tensor:
        """log rho, [B], finite with its gradient however far x is: what maximum likelihood sums."""
        return self._flow(t, x)[0] + math.log(self.total_mass)

    def _flow(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, factor, mean_rate, factor_rate = self.motion(t)
        logs, z = _log_parts(x.unsqueeze(1) - mean, factor)
        logs = logs + torch.log_softmax(self.log_weights, -1)
        share = torch.softmax(logs, -1).unsqueeze(-1)
        velocity = (share * (mean_rate + (factor_rate @ z.unsqueeze(-1)).squeeze(-1))).sum(1)
        if self.swirl is not None:
            pull = torch.linalg.solve(factor.mT, z.unsqueeze(-1)).squeeze(-1)  # S^-T S^-1 (x - mu)
            velocity = velocity + self.swirl(t, x, torch.ones_like(t), -(share * pull).sum(1))
        return torch.logsumexp(logs, -1), velocity

    def sample(self, t: Tensor) -> Tensor:
        """One point of the density at each time t [B], differentiable in the motion: [B, d]."""
        mean, factor, _, _ = self.motion(t)
        k = torch.multinomial(torch.softmax(self.log_weights.detach(), -1), len(t), replacement=True)
        rows = torch.arange(len(t), device=t.device)
        z = torch.randn(len(t), mean.shape[-1], 1, dtype=mean.dtype, device=t.device)
        return mean[rows, k] + (factor[rows, k] @ z).squeeze(-1)


def aligned(factors: Tensor, others: Tensor) -> Tensor:
    """The factors of the same covariances as `others` [..., d, d] that lie nearest to `factors` (Procrustes).

    The straight way between the two is that of optimal transport, T = S1 S0^-1 symmetric and positive definite.
    """
    u, _, vh = torch.linalg.svd(others.mT @ factors)
    nearest: Tensor = others @ (u @ vh)
    return nearest


def positive(log: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """(1 + L) U of matrices [..., d, d], L below the diagonal, x + sqrt(x^2 + 1) of it in U, and its rate of change.

    Its determinant is that of U, so positive; of 0 it is 1.
    """
    x = log.diagonal(dim1=-2, dim2=-1)
    diagonal = torch.exp(torch.asinh(x))  # which loses no digits far below 0
    below, below_rate = torch.tril(log, -1), torch.tril(rate, -1)
    above = torch.triu(log, 1) + torch.diag_embed(diagonal)
    above_rate = torch.triu(rate, 1) + torch.diag_embed(
        diagonal * torch.rsqrt(1 + x * x) * rate.diagonal(dim1=-2, dim2=-1)
    )
    return above + below @ above, above_rate + below_rate @ above + below @ above_rate


def turned(skew: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """O(s) = (1 - s A)^-1 (1 + s A), A = skew/2, orthogonal at every s (Cayley), and its rate of change by s."""
    one = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    half = skew / 2
    left, right = one - s * half, one + s * half
    turn = torch.linalg.solve(left, right.expand_as(left))
    return turn, torch.linalg.solve(left, half @ (one + turn))


def _log_parts(y: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """log N(y; 0, S S^T) [B, K] and S^-1 y [B, K, d], for y [B, K, d] and S [B, K, d, d]."""
    d = y.shape[-1]
    if d == 1:
        z, volume = y / factor[..., 0], factor[..., 0, 0].abs()
    else:
        z, volume = torch.linalg.solve(factor, y.unsqueeze(-1)).squeeze(-1), torch.linalg.det(factor).abs()
    return -0.5 * z.square().sum(-1) - volume.log() - d / 2 * math.log(2 * math.pi), z
