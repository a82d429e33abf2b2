"""Flows at the edge of stability, where steps oscillate across the sharpest direction and no series in lr converges.

A step lands now on one side, now on the other: theta_n = w + (-1)^n a v, with a slow centre w, a direction v of length
1 and an amplitude a. With g_e and g_o the even and odd halves of the gradients at w + a v and w - a v, the steps of
gradient descent say w+ = w - lr g_e and a+ v = lr g_o - a v, which as a flow is (cf. Marion 2026, "edge flow")

    w' = -g_e        a' = <v, g_o> - 2 a / lr        v' = (1 - v v^T) H v

for two gradients and one Hessian-vector product. Below the edge a dies out and w' = -g; past it a grows until the
third derivative in g_e, a^2/2 d^2 g[v, v], has pushed the sharpness back to 2 / lr. RMSprop: gradients over p =
sqrt(nu) + eps, with nu' = (1 - beta) / lr (g_e^2 + g_o^2 - nu).

One direction is followed: where several modes are unstable at once this is an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.optim import Optimizer

from neuromech.eom.curvature import sharpness
from neuromech.eom.derivatives import HVPForm, Point, gradient_at
from neuromech.eom.flow import VELOCITY, Flow
from neuromech.eom.integrate import integrate
from neuromech.eom.landscape import LossFunction, PureLandscape
from neuromech.eom.rule import Rule, check_lr
from neuromech.errors import EoMError
from neuromech.params import Params, combine, dot, norm

DIRECTION, SQUARES, AMPLITUDE = "direction of ", "squares of ", "log of the amplitude"


class EdgePoint(NamedTuple):
    """Where steps are: around `centre`, by `amplitude` along `direction` (of length 1) to either side."""

    centre: Params
    direction: Params
    amplitude: float

    def side(self, sign: float) -> Params:
        """centre + sign * amplitude * direction."""
        return combine([(1.0, self.centre), (sign * self.amplitude, self.direction)])

    def mean_of(self, quantity: object) -> float:
        """The mean of a function of parameters over both sides: what a quantity of the steps is on average."""
        if not callable(quantity):
            raise EoMError("mean_of takes a function of parameters")
        return 0.5 * (float(quantity(self.side(1.0))) + float(quantity(self.side(-1.0))))


@dataclass(frozen=True)
class EdgeFlow(Flow):
    """An edge flow. `at` and `along` give the centre, `points` the direction and the amplitude too."""

    def points(self, times: Iterable[float], method: str = "midpoint", rtol: float = 1e-6) -> list[EdgePoint]:
        """Centre, direction and amplitude at each of `times`, which run forwards.

        By two steps for each of lr, or adaptively with a method of torchdiffeq that does ("dopri5"), to `rtol`.
        """
        asked = [float(t) for t in times]
        if not asked or any(b < a for a, b in zip([0.0, *asked], asked, strict=False)):
            raise EoMError(f"times are {asked}: give at least one, all forwards from 0")
        grid = [0.0, *dict.fromkeys(t for t in asked if t)]
        states = [self.start]
        if len(grid) > 1:
            step = 0.5 * self.lr if method in ("euler", "midpoint", "rk4") else 0.0
            states = integrate(self.field, self.start, grid, rtol, rtol, method, step=step)
        at = dict(zip(grid, map(_point_of, states), strict=True))
        return [at[t] for t in asked]


def _point_of(state: Params) -> EdgePoint:
    prefixes = (DIRECTION, SQUARES, AMPLITUDE, VELOCITY)
    centre = {n: x for n, x in state.items() if not n.startswith(prefixes)}
    v = {n: state[DIRECTION + n] for n in centre}
    return EdgePoint(centre, combine([(1.0 / float(norm(v)), v)]), math.exp(float(state[AMPLITUDE])))


def edge_flow(
    rule: Rule | Optimizer,
    loss: LossFunction,
    params: Params,
    lr: float | None = None,
    seed: float = 1e-4,
    hvp: HVPForm = "auto",
) -> EdgeFlow:
    """The flow of steps past the edge of stability: of SGD without momentum, and of RMSprop.

    `seed`: the amplitude that rounding, batches and what the flow leaves out keep alive below the edge, relative to
    |params|; it tells how long the oscillation takes to be seen. Raises `EoMError` for other rules, and for decay.
    """
    rule, lr = _known(rule, lr)
    start = PureLandscape(loss, params).here
    least = math.log(seed * (1.0 + float(norm(start))))
    top = sharpness(loss, start, hvp).vector
    state = start | {DIRECTION + n: x for n, x in top.items()}
    state[AMPLITUDE] = next(iter(start.values())).new_tensor(least)
    if rule.kind == "rmsprop":
        squares = gradient_at(PureLandscape(loss, start))
        state |= {SQUARES + n: x * x for n, x in squares.items()}

    def slope(state: Params) -> Params:
        w = {n: state[n] for n in start}
        raw = {n: state[DIRECTION + n] for n in start}
        v = combine([(1.0 / float(norm(raw)), raw)])
        a = math.exp(float(state[AMPLITUDE]))
        landscape = PureLandscape(loss, w)
        ahead, behind = (gradient_at(landscape, shift=[(by, v)]) for by in (a, -a))
        even, odd = combine([(0.5, ahead), (0.5, behind)]), combine([(0.5, ahead), (-0.5, behind)])
        out: Params = {}
        turned = Point(loss, w, hvp, once=True).hvp(v)
        if rule.kind == "rmsprop":
            rate = (1.0 - rule.betas[1]) / lr
            for n in start:
                out[SQUARES + n] = rate * (even[n] ** 2 + odd[n] ** 2 - state[SQUARES + n])
            by = {n: state[SQUARES + n].clamp_min(0.0).sqrt() + rule.eps for n in start}
            even, odd, turned = ({n: x[n] / by[n] for n in start} for x in (even, odd, turned))
        growth = float(dot(v, odd)) / a - 2.0 / lr
        if float(state[AMPLITUDE]) <= least and growth < 0.0:
            growth = 0.0
        along = float(dot(v, turned))
        out |= {n: -x for n, x in even.items()}
        out |= {DIRECTION + n: turned[n] - along * v[n] for n in start}
        out[AMPLITUDE] = torch.full_like(state[AMPLITUDE], growth)
        return out

    return EdgeFlow(slope, state, rule, lr, frozenset(state.keys() - start.keys()))


def _known(rule: Rule | Optimizer, lr: float | None) -> tuple[Rule, float]:
    if isinstance(rule, Optimizer):
        rates = {float(group["lr"]) for group in rule.param_groups}
        if lr is None and len(rates) > 1:
            raise EoMError(f"the parameter groups have different lr, {sorted(rates)}: one flow needs one; pass lr")
        lr, rule = rates.pop() if lr is None else lr, Rule.of(rule)
    check_lr(float("nan") if lr is None else lr)
    assert lr is not None
    if rule.kind not in ("sgd", "rmsprop") or rule.momentum:
        what = f"{rule.kind} with momentum" if rule.momentum else rule.kind
        raise EoMError(f"an edge flow is known for SGD without momentum and for RMSprop, not for {what}")
    if rule.weight_decay:
        raise EoMError("put weight decay into the loss, as weight_decay / 2 |params|^2: the edge flow has no other")
    return rule, float(lr)
