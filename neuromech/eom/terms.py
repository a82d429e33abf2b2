"""Counter terms, to any order, as pure functions of a gradient field. There are two directions, never to be confused.

*Analysis.* Gradient descent theta -> theta - lr g lies on the flow theta' = -g - lr xi_0 - lr^2 xi_1 - ...: the
equation of motion (Miyagawa, NeurIPS 2022), with xi_0 = +1/2 Hg. Functions: `counter_terms`, `motion`.

*Steps.* theta -> theta - lr s with s = g - lr/2 Hg + ... lies on the gradient flow theta' = -g: Taylor's method.
Functions: `flow_gradient`, `lie_powers`. The signs are opposite: the wrong one doubles the error that it should cancel.

Each in two backends: explicit, from directional derivatives d^n g[v1, .., vn] (a `Derivative`, see `trees`), and from
gradients alone. `order` is the number of counter terms; order 0 is the bare gradient in both directions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial
from typing import Literal

import torch

from neuromech.compat import foreach_lerp, load_forward_mode
from neuromech.eom.bseries import Derivative, Series, evaluate
from neuromech.eom.decompositions import mathematical
from neuromech.eom.landscape import Terms
from neuromech.eom.rule import Rule, check_order
from neuromech.errors import EoMError
from neuromech.params import Params, combine

VectorField = Callable[[Params], Params]


def directional(field: VectorField, params: Params) -> Derivative:
    """d^n field[v1, .., vn] at `params` by nested forward mode, for a field that torch.func can trace."""

    def derivative(*directions: Params) -> Params:
        load_forward_mode()
        along = field
        for v in directions:
            along = _pushed(along, v)
        with mathematical("open"):
            return along(params)

    return derivative


def _pushed(field: VectorField, v: Params) -> VectorField:
    return lambda theta: torch.func.jvp(field, (theta,), (v,))[1]


def decayed(derivative: Derivative, theta: Params, decay: Mapping[str, float]) -> Derivative:
    """Derivatives of g + decay * theta, the field under coupled weight decay; `decay` by parameter name."""

    def with_decay(*directions: Params) -> Params:
        out = derivative(*directions)
        if len(directions) > 1:
            return out
        linear = directions[0] if directions else theta
        return {name: x + decay[name] * linear[name] if decay[name] else x for name, x in out.items()}

    return with_decay


# -- analysis: the flow that steps follow ------------------------------------------------------------------------------


def counter_series(order: int) -> list[Series]:
    """xi_0, .., xi_(order-1) of gradient descent as trees of g, with theta' = -g - sum_k lr^(k+1) xi_k."""
    return [{t: -c for t, c in field.items()} for field in Rule().fields(order)[1:]]


def counter_terms(derivative: Derivative, order: int) -> list[Params]:
    """xi_0, .., xi_(order-1) of gradient descent: 1/2 Hg, 1/3 H^2 g + 1/12 d^2 g[g, g], ...

    Units: xi_k is a gradient per lr^(k+1). Miyagawa 2022; Hairer, Lubich, Wanner, ch. IX.
    """
    return [evaluate(series, derivative, {}) for series in counter_series(order)]


def motion(derivative: Derivative, theta: Params, rule: Rule, lr: float, order: int) -> Params:
    """theta' of the flow that the steps of `rule` follow up to an error of order lr^(order+1)."""
    return evaluate(_summed(rule, lr, order), derivative, theta)


@lru_cache(maxsize=64)
def _summed(rule: Rule, lr: float, order: int) -> dict[tuple[object, ...], float]:
    total: dict[tuple[object, ...], float] = {}
    for k, field in enumerate(rule.fields(order)):
        for t, c in field.items():
            total[t] = total.get(t, 0.0) + float(c) * lr**k
    return total


@lru_cache(maxsize=16)
def logarithm_weights(order: int) -> tuple[Fraction, ...]:
    """w_j in lr F = sum_j w_j (theta_(j+1) - theta_j): the logarithm of a map, from its first order + 1 steps."""
    weights = [Fraction(0)] * (order + 1)
    for m in range(1, order + 2):  # log(1 + Delta) = sum_m (-1)^(m+1)/m Delta^m, Delta^m by differences of differences
        for j in range(m):
            weights[j] += Fraction((-1) ** (m + 1), m) * (-1) ** (m - 1 - j) * comb(m - 1, j)
    return tuple(weights)


def motion_by_gradients(gradient: VectorField, theta: Params, rule: Rule, lr: float, order: int) -> Params:
    """As `motion`, for rules without momentum, from order + 1 gradients along as many fictitious steps.

    Same order, no second derivative, and nothing is divided by lr. Raises `EoMError` for a rule with memory.
    """
    if rule.kind != "sgd" or rule.momentum:
        raise EoMError("gradients alone give the flow of rules without memory: use backend='hvp' for momentum")
    check_order(order)
    at, moved = theta, []
    for _ in range(order + 1):
        g = gradient(at)
        velocity = combine([(-1.0, g), (-rule.weight_decay, at)]) if rule.weight_decay else combine([(-1.0, g)])
        moved.append(velocity)
        if len(moved) <= order:
            at = combine([(1.0, at), (lr, velocity)])
    return combine([(float(w), v) for w, v in zip(logarithm_weights(order), moved, strict=True)])


# -- steps: what follows the gradient flow -----------------------------------------------------------------------------


def taylor(order: int) -> list[Fraction]:
    """s_k in s = sum_k s_k lr^k D_g^k g: the step that follows the flow; 1, -1/2, +1/6, ..."""
    check_order(order)
    return [Fraction((-1) ** k, factorial(k + 1)) for k in range(order + 1)]


@lru_cache(maxsize=16)
def _partitions(n: int) -> dict[tuple[int, ...], int]:
    """How often each multiset of block sizes occurs among the partitions of n things."""
    if n == 0:
        return {(): 1}
    count: Counter[tuple[int, ...]] = Counter()
    for first in range(1, n + 1):  # the block of the first thing
        for rest, times in _partitions(n - first).items():
            count[tuple(sorted((first, *rest)))] += comb(n - 1, first - 1) * times
    return dict(count)


def lie_powers(derivative: Derivative, order: int) -> Iterator[Params]:
    """g, Hg, H^2 g + d^2 g[g, g], .., D_g^order g: time derivatives of g along theta' = g (Faa di Bruno's formula)."""
    check_order(order)
    powers: list[Params] = []
    for n in range(order + 1):
        terms = [
            (float(times), derivative(*(powers[b - 1] for b in blocks))) for blocks, times in _partitions(n).items()
        ]
        powers.append(terms[0][1] if len(terms) == 1 else combine(terms))
        yield powers[-1]


def flow_gradient(derivative: Derivative, lr: float, order: int) -> Params:
    """s for which theta - lr s is on the gradient flow through theta, up to lr^(order+2): g - lr/2 Hg + ..."""
    powers = lie_powers(derivative, order)
    return combine([(float(c) * lr**k, power) for k, (c, power) in enumerate(zip(taylor(order), powers, strict=True))])


# Runge-Kutta methods with as many gradients as their order: rows of A, then the weights.
TABLEAUS: dict[int, tuple[tuple[float, ...], ...]] = {
    0: ((1.0,),),  # Euler
    1: ((1.0,), (1 / 2, 1 / 2)),  # Heun
    2: ((1 / 2,), (-1.0, 2.0), (1 / 6, 2 / 3, 1 / 6)),  # Kutta
    3: ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),  # Kutta's classical
}


def flow_gradient_by_gradients(gradient: VectorField, theta: Params, lr: float, order: int) -> Params:
    """As `flow_gradient`, from order + 1 gradients by Runge-Kutta; beyond order 3 from 1 + order (order + 1) / 2."""
    check_order(order)
    if order not in TABLEAUS:

        def scaled(at: Params) -> Params:
            return combine([(lr, gradient(at))])

        powers = lie_powers_by_gradients(scaled, theta, order)
        return combine([(float(c) / lr, power) for c, power in zip(taylor(order), powers, strict=True)])
    return runge_kutta(lambda shift: gradient(combine([(1.0, theta), *shift])), gradient(theta), theta, lr, order)


def runge_kutta(
    shifted: Callable[[Terms], Params],
    start: Params,
    theta: Params,
    lr: float,
    order: int,
    decay: float = 0.0,
    sign: float = 1.0,
) -> Params:
    """s for which theta - lr (sign s + decay theta) is on the flow theta' = -(sign g + decay theta).

    `shifted` gives g at theta plus a sum, and `start` is g at theta. As few passes over memory as it takes.
    """

    def velocity(g: Params, shift: Terms) -> Params:
        if not decay and sign > 0:
            return g
        return combine([(sign, g), (decay, theta), *((decay * c, x) for c, x in shift)])

    *rows, weights = TABLEAUS[order]
    gradients, shifts, stages = [start], list[Terms]([()]), list[Params]()
    for row in rows:
        stages.append(velocity(gradients[-1], shifts[-1]))
        shifts.append([(-lr * a, k) for a, k in zip(row, stages, strict=True) if a])
        gradients.append(shifted(shifts[-1]))
    terms = list(zip(weights, gradients, strict=True))
    if decay:  # sum_j b_j decay (theta_j - theta)
        terms += [(sign * decay * b * c, x) for b, shift in zip(weights, shifts, strict=True) for c, x in shift]
    if len(terms) == 2:  # Heun: one pass
        first, last = gradients
        mean = foreach_lerp(list(first.values()), [last[name] for name in first], weights[1])
        return dict(zip(first, mean, strict=True))
    return combine(terms)


def lie_powers_by_gradients(field: VectorField, theta: Params, order: int) -> list[Params]:
    """V, D_V V, .., D_V^order V of a small field V, each up to O(V^(order+2)), from 1 + order (order + 1) / 2 values.

    A polynomial in time is laid through V along theta' = -V, and raised in degree by integrating the one before. Times
    run to 1, so that nothing is divided by a small number.
    """
    check_order(order)
    start = field(theta)
    powers = [start]
    for degree in range(1, order + 1):
        times = [j / degree for j in range(1, degree + 1)]
        values = []
        for t in times:  # theta(t) = theta - sum_k (-1)^k t^(k+1)/(k+1)! D_V^k V
            drift = [
                (-float(c) * t ** (k + 1), p) for k, (c, p) in enumerate(zip(taylor(degree - 1), powers, strict=True))
            ]
            values.append(field(combine([(1.0, theta), *drift])))
        # V(t) = V + sum_(k>=1) (-t)^k/k! D_V^k V, solved for the powers
        matrix = torch.tensor(
            [[(-t) ** k / factorial(k) for k in range(1, degree + 1)] for t in times], dtype=torch.float64
        )
        inverse = torch.linalg.inv(matrix).tolist()
        powers = [start, *(combine([(-sum(row), start), *zip(row, values, strict=True)]) for row in inverse)]
    return powers


# -- cost ----------------------------------------------------------------------------------------------------------

Direction = Literal["analysis", "steps"]
Backend = Literal["hvp", "gradients"]


def calls(order: int, direction: Direction, backend: Backend) -> Counter[int]:
    """How often d^n g is evaluated, by n (0: the gradient), for gradient descent."""
    check_order(order)
    if backend == "gradients":
        beyond = direction == "steps" and order not in TABLEAUS
        return Counter({0: 1 + order * (order + 1) // 2 if beyond else order + 1})
    seen: Counter[int] = Counter()

    def derivative(*directions: Params) -> Params:
        seen[len(directions)] += 1
        return {"x": torch.zeros(1)}

    if direction == "analysis":
        motion(derivative, {"x": torch.zeros(1)}, Rule(), 1.0, order)
    else:
        list(lie_powers(derivative, order))
    return seen


def cost(order: int, direction: Direction = "analysis", backend: Backend = "hvp") -> float:
    """Cost in units of one gradient, with 3^n for d^n g, which is what one more derivative multiplies the cost by."""
    return float(sum(times * 3**n for n, times in calls(order, direction, backend).items()))
