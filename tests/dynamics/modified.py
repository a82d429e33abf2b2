"""An oracle, expanded by hand. Modified flows: the discrete steps lie on their solutions, to higher order in lr.

Backward error analysis (Hairer, Lubich, Wanner, ch. IX; for gradient descent: Miyagawa 2022) finds the flow that an
optimizer follows as a series in lr. What it says about a charge of degree n (1: linear, 2: quadratic) is

    charge' = -n rate charge + lr drive <g, D g>

`rate` is that of weights which nothing but coupled weight decay moves. Under plain SGD their step is 1 - lr
weight_decay, so rate = -ln(1 - lr weight_decay) / lr, expanded to order 3. With momentum w' = -rate w turns the rule
d_k - momentum d_(k-1) = -lr weight_decay (force w_k + lookahead (w_k - w_(k-1))), d_k = w_(k+1) - w_k, into an equation
for the rate, which is solved to order 2. Order 0 is gradient flow.

The drive of plain SGD are kicks lr^2 <g, D g> at the end of each step; that is right to every order, since what the
series adds is what the change of the gradient along the flow takes back. With momentum it is right to order 1.

The series converge below `radius`; beyond it the weights oscillate, and no flow without memory exists.
"""

from __future__ import annotations

import math
from functools import lru_cache

from torch import Tensor

from neuromech.optimizers import Settings


def highest(settings: Settings) -> int:
    """The order to which the rate is known."""
    return 3 if settings.momentum == 0 else 2


@lru_cache(maxsize=256)
def rate(settings: Settings, order: int) -> float:
    """How fast weight decay shrinks weights, per unit of time, in the modified flow of that order.

    Raises `ValueError` for an order that is not known.
    """
    if not 0 <= order <= highest(settings):
        raise ValueError(f"order {order}: the modified flow is known here from order 0 to {highest(settings)}")
    lr, lam, mu = settings.lr, settings.weight_decay, settings.momentum
    if mu == 0:
        return lam * sum((lr * lam) ** k / (k + 1) for k in range(order + 1))
    # (1-mu) r - (lr/2)(1+mu) r^2 + (lr^2/6)(1-mu) r^3 = lam (force - lr l r - (lr^2/2) l r^2), in powers of lr.
    ahead = lam * settings.lookahead
    r0 = lam * settings.force / (1 - mu)
    r1 = (0.5 * (1 + mu) * r0**2 - ahead * r0) / (1 - mu)
    r2 = ((1 + mu) * r0 * r1 - ahead * (r1 + 0.5 * r0**2)) / (1 - mu) - r0**3 / 6
    return float(sum((r0, lr * r1, lr**2 * r2)[: order + 1]))


def drive(settings: Settings) -> float:
    """What a squared gradient adds to a quadratic charge, per unit of time and of lr: 1 for plain SGD."""
    mu = settings.momentum
    if settings.lookahead:
        return (1 - mu + 2 * mu**2) / (1 - mu) ** 3
    return settings.force**2 * (1 + mu) / (1 - mu) ** 3


def start(settings: Settings, degree: int) -> float:
    """By what to multiply the charge from which the flow starts, to order 1: torch's first step has a fresh buffer,
    which is not that of the flow, and the flow meets the weights once this is forgotten."""
    mu = settings.momentum
    if mu == 0:
        return 1.0
    shift = mu**2 / (1 - mu) ** 2 if settings.lookahead else settings.kappa / (1 - mu) ** 2 - 1 / (1 - mu)
    return 1.0 + degree * settings.lr * settings.weight_decay * shift


def radius(settings: Settings) -> float:
    """The bound on lr * force * weight_decay below which the series converges: 1, (1 - sqrt(momentum))^2 for heavy
    ball, ((1 - momentum) / (1 + momentum))^2 for Nesterov."""
    mu = settings.momentum
    return ((1 - mu) / (1 + mu)) ** 2 if settings.lookahead else (1 - math.sqrt(mu)) ** 2


def modified_step(charge: Tensor, gradient: Tensor | float, settings: Settings, degree: int, order: int) -> Tensor:
    """One step of the modified flow; `gradient`: <g, D g> of the step, 0 for a linear charge."""
    kick = settings.lr**2 * drive(settings) * gradient if order else 0.0
    return math.exp(-degree * settings.lr * rate(settings, order)) * charge + kick
