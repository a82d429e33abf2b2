"""Flows of optimizers that remember averages of gradients, to first order in lr: Adam's family, Lion, Muon.

An optimizer theta+ = (1 - lr decay) theta - lr u(averages of the past) forgets, to first order, by one substitution
(Cattaneo and Shigida, NeurIPS 2025): an average of mean age c sees the gradient c steps back, g + lr c k with
k = H F_0, where F_0 = u(g) + decay theta is the flow of lr -> 0. The flow that discrete steps follow adds half a step:

    theta' = -u(g + lr (c + 1/2) k) - decay theta - lr/2 decay F_0

The mean of squares also keeps the spread of ages: (g + lr (c + 1/2) k)^2 + lr^2 var(age) k^2. That is of second order
where g is large, and where a component of g crosses zero it is what keeps the field from jumping, as it keeps Adam.
Ages grow from the first step on, where the optimizer corrects its bias. eps stays outside of the root, as in torch.
RAdam begins without its root and changes over between two steps: there the field jumps in time, and no order is
claimed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neuromech.eom.derivatives import HVPForm, Point
from neuromech.eom.landscape import LossFunction, PureLandscape
from neuromech.eom.rule import Rule
from neuromech.eom.terms import VectorField, decayed
from neuromech.optimizers import muon_rate
from neuromech.params import Params

CLOCK = "clock"  # in the state of a flow: time since the first step


def ages(beta: float, steps: float) -> tuple[float, float]:
    """Mean and variance of the age of gradients, in steps, in an average that has seen this many and is normalised."""
    if beta == 0.0:
        return 0.0, 0.0
    mean, variance = beta / (1.0 - beta), beta / (1.0 - beta) ** 2
    if math.isinf(steps):
        return mean, variance
    tail = beta**steps
    if tail > 1.0 - 1e-9:  # all of them count alike
        return (steps - 1.0) / 2.0, (steps * steps - 1.0) / 12.0
    lost = steps * tail / (1.0 - tail)
    return mean - lost, max(variance - lost * (steps / (1.0 - tail)), 0.0)


def memory_field(rule: Rule, loss: LossFunction, lr: float, order: int, hvp: HVPForm) -> VectorField:
    """theta' of the flow; a state with a `CLOCK` is that of a fresh optimizer, else it is in its steady state."""
    pulled = rule.weight_decay if rule.decoupled else 0.0
    inside = 0.0 if rule.decoupled else rule.weight_decay

    def slope(state: Params) -> Params:
        theta = {name: x for name, x in state.items() if name != CLOCK}
        steps = max(float(state[CLOCK]) / lr + 0.5, 1.0) if CLOCK in state else math.inf
        point = Point(loss, theta, hvp) if order else Point.on(PureLandscape(loss, theta), "gradient")
        derivative = decayed(point.derivative, theta, dict.fromkeys(theta, inside))
        g = derivative()
        first = {n: update(rule, x, torch.zeros_like(x), steps) + pulled * theta[n] for n, x in g.items()}
        out = {n: -x for n, x in first.items()}
        if order:
            turned = derivative(first)
            out = {
                n: -update(rule, x, lr * turned[n], steps) - pulled * (theta[n] + 0.5 * lr * first[n])
                for n, x in g.items()
            }
        return out | ({CLOCK: torch.ones_like(state[CLOCK])} if CLOCK in state else {})

    return slope


def update(rule: Rule, g: Tensor, k: Tensor, steps: float) -> Tensor:
    """u of one parameter, from g and how much it was larger one step before; k = 0 gives the limit of lr -> 0."""
    moving = 0.5 * k
    beta1, beta2 = rule.betas
    if rule.kind == "lion":  # its mean is that of the steps before
        return torch.sign(g + _mixed_age(beta1, beta2, steps - 1.0, 1.0) * k + moving)
    if rule.kind == "muon":
        mu = rule.momentum
        age = _mixed_age(mu, mu, steps, 0.0) if rule.nesterov else ages(mu, steps)[0]
        return _orthogonal(g + age * k + moving, rule) * muon_rate(1.0, rule.adjust, g.shape)
    age, spread = ages(beta2, steps)
    later = g + age * k + moving
    root = (later * later + spread * k * k).sqrt() + rule.eps
    age, _ = ages(beta1, steps)
    if rule.kind == "nadam":
        now, ahead = (_nadam_weight(beta1, rule.drift, n) for n in (steps, steps + 1.0))
        return ((1.0 - now) * (g + moving) + ahead * (g + age * k + moving)) / root
    rectified = _rectified(beta2, steps) if rule.kind == "radam" else 1.0
    if rectified is None:
        return g + age * k + moving
    return rectified * (g + age * k + moving) / root


def startup_shift(rule: Rule) -> float:
    """s in theta_0 - lr s u(g(theta_0)), where the flow starts: what the first steps of NAdam go too far, as it weighs
    its means by other sums than theirs."""
    if rule.kind != "nadam":
        return 0.0
    beta1, total, product = rule.betas[0], 0.0, 1.0
    for n in range(1, 1000):
        now, ahead = (_nadam_weight(beta1, rule.drift, k) for k in (n, n + 1))
        product *= now
        weight = (1.0 - now) / (1.0 - product) + ahead * (1.0 - beta1**n) / (1.0 - product * ahead)
        total += weight - (1.0 - now + ahead)
        if product < 1e-17 and beta1**n < 1e-17:
            break
    return total


def _nadam_weight(beta1: float, drift: float, step: float) -> float:
    return float(beta1 * (1.0 - 0.5 * 0.96 ** (step * drift if drift else 0.0)))


def _mixed_age(share: float, beta: float, steps: float, late: float) -> float:
    """Mean age in (1 - share) g + share * mean, where the mean began at zero and lags behind by `late` steps."""
    if steps <= 0.0:
        return 0.0
    weight = share * (1.0 - beta**steps)
    gain: float = weight * (late + ages(beta, steps)[0]) / (weight + 1.0 - share)
    return gain


def _rectified(beta2: float, steps: float) -> float | None:
    """RAdam's factor; None while it does not adapt (Liu et al. 2020)."""
    longest = 2.0 / (1.0 - beta2) - 1.0
    if math.isinf(steps):
        return 1.0
    whole = round(steps)  # it changes its mind between two steps, not within one
    if longest - 2.0 * whole * beta2**whole / (1.0 - beta2**whole) <= 5.0:
        return None
    length = max(longest - 2.0 * steps * beta2**steps / (1.0 - beta2**steps), 5.0)
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


def _orthogonal(x: Tensor, rule: Rule) -> Tensor:
    """Newton and Schulz's iteration as Muon runs it, in the precision of the parameters."""
    a, b, c = rule.coefficients
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    x = x / x.norm().clamp_min(rule.eps)
    for _ in range(rule.iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
