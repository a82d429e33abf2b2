"""Optimal transport between Gaussians and their mixtures: closed forms to judge by, and starts to train from.

Dynamical transport (Benamou and Brenier): W2^2 is the least kinetic energy, the integral of rho |u|^2 over space and
a unit of time, of all flows from the one density to the other. A flow that satisfies the continuity equation and both
ends exactly has an energy that is an upper bound of W2^2; one that violates them can report less than the truth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuromech.compat import is_transformed
from neuromech.errors import PhysicsError
from neuromech.physics.fields.mixture import Mixture, MovingMixture, check_mixture
from neuromech.physics.fields.samples import cheapest_plan


def root(covariance: Tensor) -> Tensor:
    """The symmetric square root of positive semi-definite matrices [..., d, d]."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT
    return root


def gaussian_cost(mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor) -> Tensor:
    """W2^2 between Gaussians, |m0 - m1|^2 + tr(C0 + C1 - 2 (C0^1/2 C1 C0^1/2)^1/2), batched (Dowson, Landau 1982)."""
    _check_gaussians(mean0, cov0, mean1, cov1)
    half = root(cov0)
    cross = root(half @ cov1 @ half)
    spread = (cov0 + cov1 - 2 * cross).diagonal(dim1=-2, dim2=-1).sum(-1)
    return (mean0 - mean1).square().sum(-1) + spread


def _check_gaussians(mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor) -> None:
    d = mean0.shape[-1] if mean0.ndim else 0
    if mean1.ndim == 0 or mean1.shape[-1] != d or cov0.shape[-2:] != (d, d) or cov1.shape[-2:] != (d, d):
        found = [list(v.shape) for v in (mean0, cov0, mean1, cov1)]
        raise PhysicsError(f"means and covariances have shapes {found}: expected [..., d], [..., d, d] with the same d")
    for which, covariance in (("first", cov0), ("second", cov1)):
        if is_transformed(covariance):
            continue
        size = covariance.detach().abs().amax((-2, -1), keepdim=True)
        rounding = 1e3 * torch.finfo(covariance.dtype).eps * size
        if not bool(((covariance - covariance.mT).abs() <= rounding).all()):
            raise PhysicsError(f"the {which} covariance is not finite, or not symmetric")
        if not bool((torch.linalg.eigvalsh(covariance.detach()) >= -rounding.squeeze(-1)).all()):
            raise PhysicsError(f"the {which} covariance has a negative eigenvalue")


def gaussian_map(mean0: Tensor, cov0: Tensor, mean1: Tensor, cov1: Tensor) -> tuple[Tensor, Tensor]:
    """(M, b) of the optimal map x -> M x + b between Gaussians; M = C0^-1/2 (C0^1/2 C1 C0^1/2)^1/2 C0^-1/2."""
    _check_gaussians(mean0, cov0, mean1, cov1)
    half = root(cov0)
    inverse, broken = torch.linalg.inv_ex(half)
    if not is_transformed(half) and bool(broken.any()):
        raise PhysicsError("the first covariance is singular: what lies in a plane has no map to what does not")
    matrix = inverse @ root(half @ cov1 @ half) @ inverse
    return matrix, mean1 - matrix @ mean0


def couple(start: Mixture, end: Mixture) -> tuple[Mixture, Mixture]:
    """The same two mixtures, components split so that they correspond one to one, with the same weights.

    The pairing is the cheapest between components (Delon and Desolneux 2020): a linear program over their W2^2.
    """
    for name, m in (("start", start), ("end", end)):
        check_mixture(name, m, missing=False)
    if start.means.shape[1] != end.means.shape[1]:
        raise PhysicsError(f"start lives in {start.means.shape[1]} dimensions, end in {end.means.shape[1]}")
    covariances = [m.factors @ m.factors.mT for m in (start, end)]
    k1 = len(end.weights)
    costs = gaussian_cost(start.means[:, None], covariances[0][:, None], end.means[None], covariances[1][None])
    weights = cheapest_plan(start.weights, end.weights, costs).flatten()
    used = (weights > 1e-9).nonzero().squeeze(1)
    i, j, weights = used // k1, used % k1, weights[used] / weights[used].sum()
    return Mixture(weights, start.means[i], start.factors[i]), Mixture(weights, end.means[j], end.factors[j])


def kinetic_energy(flow: MovingMixture, count: int, stratified: bool = True) -> Tensor:
    """The integral of rho |u|^2 over space and the unit of time, by sampling the density itself; differentiable.

    For a mixture held at both ends its expectation is an upper bound of mass * W2^2, whatever the parameters are.
    """
    if not isinstance(flow, MovingMixture) or count < 1:
        raise PhysicsError(
            f"expected a MovingMixture and one point or more, got {type(flow).__name__} and {count} (of a "
            "NeuralConservationLaw, pass its source)"
        )
    t = torch.rand(count, dtype=flow.means.dtype, device=flow.means.device)
    if stratified:
        t = (torch.arange(count, dtype=t.dtype, device=t.device) + t) / count
    t = flow.duration * t
    x = flow.sample(t)
    return flow.total_mass * flow.duration**2 * flow.velocity(t, x).square().sum(-1).mean()
