"""Transport from samples: the cheapest plan between two sets of points, and mixtures that are fitted to them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.fields.mixture import Mixture, gaussian_mixture


class SamplePlan(NamedTuple):
    """How much of which point goes to which [N, M], summing to 1, and the mean squared distance that it costs."""

    weights: Tensor
    cost: Tensor


def cheapest_plan(start: Tensor, end: Tensor, costs: Tensor) -> Tensor:
    """The plan [N, M] of least cost between weights [N] and [M], which are normalised.

    By POT's network simplex, where it is installed (neuromech[transport]), else by scipy's linear program.
    """
    a, b = (w.double().cpu().numpy() / float(w.double().sum()) for w in (start.detach(), end.detach()))
    c = costs.detach().double().cpu().numpy()
    try:
        from ot import emd
    except ImportError:
        from scipy.optimize import linprog
        from scipy.sparse import eye_array, kron, vstack

        n, m = c.shape
        margins = vstack([kron(eye_array(n), [[1.0] * m]), kron([[1.0] * n], eye_array(m))]).tocsr()
        plan = linprog(c.ravel(), A_eq=margins, b_eq=[*a, *b]).x.reshape(n, m)
    else:
        plan = emd(a, b, c, numItermax=1_000_000)
    return torch.as_tensor(plan).to(costs)


def sample_plan(x: Tensor, y: Tensor) -> SamplePlan:
    """Optimal transport between samples [N, d] and [M, d]; its cost is W2^2 of the samples.

    Of the densities that they were drawn from, it is too large by about N^(-2/d).
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise PhysicsError(f"samples have shapes {list(x.shape)} and {list(y.shape)}: expected [N, d] and [M, d]")
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise PhysicsError("some samples are not finite: leave them out")
    costs = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    plan = cheapest_plan(x.new_ones(len(x)), y.new_ones(len(y)), costs)
    return SamplePlan(plan, (plan * costs).sum())


def fit_mixture(x: Tensor, components: int, seed: int = 0) -> Mixture:
    """A mixture of Gaussians fitted to samples [N, d] by expectation and maximisation: a start or an end of transport.

    By scikit-learn (neuromech[transport]). `couple` makes the components of two of them correspond.
    """
    if x.ndim != 2 or not 1 <= components <= len(x):
        raise PhysicsError(f"{components} components for samples of shape {list(x.shape)}: expected 1 to N for [N, d]")
    if not bool(torch.isfinite(x).all()):
        raise PhysicsError("some samples are not finite: leave them out")
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise PhysicsError("mixtures are fitted by scikit-learn: pip install neuromech[transport]") from error
    found = GaussianMixture(components, random_state=seed).fit(x.detach().double().cpu().numpy())
    weights, means, covariances = (torch.as_tensor(v).to(x) for v in (found.weights_, found.means_, found.covariances_))
    return gaussian_mixture(weights, means, covariances)
