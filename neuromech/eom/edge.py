"""The flow of steps past the edge of stability, where they swing across sharp directions and no series in lr converges.

Steps are split into a centre and a swing that changes sides at every step, both slow: theta_n = w + (-1)^n d. With
g_e and g_o, the even and odd halves of the gradients at w + d and w - d, the steps of SGD with momentum mu and
kappa = 1 - dampening fall apart into two recursions without any approximation. To second order in lr they are

    M w'' + (1 - mu) w' = -kappa g_e        M = lr (1 + mu) / 2
    M d'' + (1 - mu) d' = kappa g_o - 4 M / lr^2 d

the swing grows where the curvature exceeds 2 (1 + mu) / (lr kappa), until g_e, the gradient of the loss averaged over
both sides, has pushed the sharpness back. Nesterov's force is (1 + mu) g_e(t) - mu g_e(t - lr) for the centre and
(1 + mu) g_o(t) + mu g_o(t - lr) for the swing. RMSprop's is over p = sqrt(nu) + eps, where nu' = -ln(beta) / lr (g_e^2
+ g_o^2 - nu). Two gradients, or, while the swing is small, one Hessian-vector product, give the whole field.

With M = 0 and d = a v on one direction v this is the edge flow of Marion (2026, arXiv 2606.18080); with d d^T for d,
the rod flow of Regis and Chewi (2026, arXiv 2602.01480 and 2605.06821). The inertia M is the half step that both lack:
without it the loss is off by lr/2 g^T H g times the time, and the bursts of swing are damped wrongly. As d is a whole
vector, several directions may be unstable at once.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.optim import Optimizer

from neuromech.eom.derivatives import HVPForm, Point, gradient_at
from neuromech.eom.flow import VELOCITY, Flow, Startup, descend
from neuromech.eom.integrate import integrate
from neuromech.eom.lanczos import random_like
from neuromech.eom.landscape import LossFunction, PureLandscape
from neuromech.eom.rule import Rule, check_lr, rule_and_lr
from neuromech.errors import EoMError
from neuromech.params import Params, combine, dot, norm

SWING, SWING_VELOCITY, SQUARES = "swing of ", "velocity of swing of ", "squares of "
FILTER = 4  # order of the differences that tell a swing from a slow motion; steps that are taken for it


class EdgePoint(NamedTuple):
    """Where steps are: at `centre` plus and minus `swing`, in turn."""

    centre: Params
    swing: Params

    @property
    def amplitude(self) -> float:
        return float(norm(self.swing))

    @property
    def direction(self) -> Params:
        """The swing to length 1."""
        return combine([(1.0 / max(self.amplitude, 1e-300), self.swing)])

    @property
    def spread(self) -> list[Params]:
        """Vectors s whose s s^T add up to the covariance of the steps around the centre."""
        return [self.swing]

    def side(self, sign: float) -> Params:
        """centre + sign * swing."""
        return combine([(1.0, self.centre), (sign, self.swing)])

    def mean_of(self, quantity: Callable[[Params], Any]) -> Any:
        """The mean of a function of parameters over both sides: what a quantity of the steps is on average."""
        return 0.5 * (quantity(self.side(1.0)) + quantity(self.side(-1.0)))


class CentralPoint(NamedTuple):
    """The centre of steps, and vectors s whose s s^T add up to the covariance of the steps around it."""

    centre: Params
    spread: list[Params]

    def mean_of(self, quantity: Callable[[Params], Any]) -> Any:
        """What a quantity of the steps is on average, to second order in their distance from the centre."""
        middle = quantity(self.centre)
        mean = middle
        for s in self.spread:
            for by in (1.0, -1.0):
                mean = mean + 0.5 * (quantity(combine([(1.0, self.centre), (by, s)])) - middle)
        return mean


@dataclass(frozen=True)
class EdgeFlow(Flow):
    """An edge flow. `at` and `along` give the centre, `points` the swing too. Forwards in time only.

    By default one step of Runge and Kutta's fourth order for each of lr, that is 8 gradients; tolerances are for
    adaptive methods of torchdiffeq ("dopri5").
    """

    def along(
        self, times: Iterable[float], rtol: float = 1e-6, atol: float = 1e-9, method: str = "rk4"
    ) -> list[Params]:
        return [point.centre for point in self.points(times, rtol, atol, method)]

    def at(self, time: float, rtol: float = 1e-6, atol: float = 1e-9, method: str = "rk4") -> Params:
        return self.along([time], rtol, atol, method)[0]

    def points(
        self, times: Iterable[float], rtol: float = 1e-6, atol: float = 1e-9, method: str = "rk4"
    ) -> list[EdgePoint]:
        """Centre and swing at each of `times`. Raises `EoMError` for times that do not run forwards from 0."""
        step = 0.0 if method.startswith(("dopri", "bosh", "fehlberg", "adaptive")) else self.lr
        states = forwards(self.field, self.start, times, rtol, atol, method, step)
        names = [n for n in self.start if n not in self.hidden]
        return [EdgePoint({n: s[n] for n in names}, {n: s[SWING + n] for n in names}) for s in states]


def forwards(
    field: Callable[[Params], Params],
    start: Params,
    times: Iterable[float],
    rtol: float,
    atol: float,
    method: str,
    step: float,
) -> list[Params]:
    """States at each of `times`, which may not go backwards: past the edge, what has settled cannot be undone."""
    asked = [float(t) for t in times]
    if not asked or any(b < a for a, b in zip([0.0, *asked], asked, strict=False)):
        raise EoMError(f"times are {asked}: give at least one, all forwards from 0")
    grid = [0.0, *dict.fromkeys(t for t in asked if t)]
    states = integrate(field, start, grid, rtol, atol, method, step=step) if len(grid) > 1 else [start]
    at = dict(zip(grid, states, strict=True))
    return [at[t] for t in asked]


def edge_flow(
    rule: Rule | Optimizer,
    loss: LossFunction,
    params: Params,
    lr: float | None = None,
    seed: float | None = None,
    hvp: HVPForm = "auto",
    startup: Startup = "torch",
) -> EdgeFlow:
    """The flow of steps past the edge of stability: of SGD with all its options, and of RMSprop.

    The swing that the first steps have is measured on them. `seed`: the swing that rounding keeps alive while the edge
    is far, relative to |params|; by default the precision of the parameters. `startup`: "torch" begins with an empty
    buffer, "matched" with that of a steady gradient (of RMSprop: always matched).

    A swing that dies within a few steps is not a slow motion: begin where training is smooth, with a curvature below
    half of the edge, or close to the edge. Raises `EoMError` for other rules and for decoupled decay.
    """
    rule, lr = edge_rule(rule, lr, "edge flow")
    if startup not in ("torch", "matched"):
        raise EoMError(f"startup is {startup!r}: it has to be 'torch' or 'matched'")
    start = PureLandscape(loss, params).here
    names, eps = list(start), max(torch.finfo(p.dtype).eps for p in start.values())
    mu, mass, friction = rule.momentum, lr * (1.0 + rule.momentum) / 2.0, 1.0 - rule.momentum
    restoring = 4.0 * mass / lr**2
    noise = random_like(start)
    noise = combine([((eps if seed is None else seed) * (1.0 + float(norm(start))) / float(norm(noise)), noise)])

    def halves(w: Params, d: Params) -> tuple[Params, Params]:
        """g_e and g_o, of a loss with coupled weight decay."""
        if float(norm(d)) <= eps ** (1 / 3) * (1.0 + float(norm(w))):  # differences would lose more than this does
            point = Point(loss, w, hvp, once=True)
            even, odd = point.gradient, point.hvp(d)
        else:
            ahead, behind = (gradient_at(PureLandscape(loss, w), shift=[(by, d)]) for by in (1.0, -1.0))
            even, odd = combine([(0.5, ahead), (0.5, behind)]), combine([(0.5, ahead), (-0.5, behind)])
        if not rule.weight_decay:
            return even, odd
        return combine([(1.0, even), (rule.weight_decay, w)]), combine([(1.0, odd), (rule.weight_decay, d)])

    def slope(state: Params) -> Params:
        w, v, d, u = ({n: state[by + n] for n in names} for by in ("", VELOCITY, SWING, SWING_VELOCITY))
        even, odd = halves(w, d)
        out: Params = {}
        if rule.kind == "rmsprop":
            rate = -math.log(rule.betas[1]) / lr
            for n in names:
                out[SQUARES + n] = rate * (even[n] ** 2 + odd[n] ** 2 - state[SQUARES + n])
            by = {n: state[SQUARES + n].clamp_min(0.0).sqrt() + rule.eps for n in names}
            even, odd = ({n: x[n] / by[n] for n in names} for x in (even, odd))
        elif rule.nesterov:
            before = halves(combine([(1.0, w), (-lr, v)]), combine([(1.0, d), (-lr, u)]))
            even = combine([(1.0 + mu, even), (-mu, before[0])])
            odd = combine([(1.0 + mu, odd), (mu, before[1])])
        kappa = rule.kappa
        centre = combine([(-kappa / mass, even), (-friction / mass, v)])
        swing = combine([(kappa / mass, odd), (-restoring / mass, d), (-friction / mass, u), (restoring / mass, noise)])
        out |= v | {VELOCITY + n: x for n, x in centre.items()}
        return out | {SWING + n: x for n, x in u.items()} | {SWING_VELOCITY + n: x for n, x in swing.items()}

    swing, velocity = _first_swing(rule, loss, start, lr, startup)
    centre = combine([(1.0, start), (-1.0, swing)])
    force = halves(centre, swing)[0]
    state = dict(centre)
    if rule.kind == "rmsprop":
        state |= {SQUARES + n: x * x for n, x in force.items()}
        first, force = 1.0, {n: x / (x.abs() + rule.eps) for n, x in force.items()}
    elif startup == "matched":
        first = rule.speed
    else:
        first = ((1.0 + 2.0 * mu) if rule.nesterov else 1.0 + rule.dampening) / (1.0 + mu)
    state |= {VELOCITY + n: -first * x for n, x in force.items()}
    state |= {SWING + n: swing[n] + noise[n] for n in names}
    state |= {SWING_VELOCITY + n: x for n, x in velocity.items()}
    return EdgeFlow(slope, state, rule, lr, frozenset(state.keys() - start.keys()))


def _first_swing(rule: Rule, loss: LossFunction, start: Params, lr: float, startup: Startup) -> tuple[Params, Params]:
    """The swing of the first steps and its velocity, both 0 if nothing near the edge swings.

    Differences of order n over steps that change sides are 2^n times the swing, and blind to slow motion. On one mode
    the swing obeys d_2 = s d_1 - mu d_0, so that it is a sum over the two roots of r^2 = s r - mu; what grows by r a
    step comes out of the differences as ((1 + r) / 2)^n of itself.
    """
    gradient, mu = gradient_at(PureLandscape(loss, start)), rule.momentum
    buffers: Params = {}
    if rule.kind == "rmsprop":
        buffers = {n: x * x for n, x in gradient.items()}
    elif mu and startup == "matched":
        buffers = combine([(rule.kappa / (1.0 - mu), gradient)])
    path = [start, *descend(rule, loss, start, lr, FILTER + 2, buffers)]
    weights = [math.comb(FILTER, k) * (-1) ** k / 2**FILTER for k in range(FILTER + 1)]
    seen = [combine([((-1) ** m * c, path[m + k]) for k, c in enumerate(weights)]) for m in range(3)]
    mode = seen[1]
    size = float(dot(mode, mode))
    if not size:
        return mode, mode
    first, second = float(dot(seen[0], mode)) / size, 1.0
    s = float(dot(seen[2], mode)) / size + mu * first
    split = cmath.sqrt(s * s - 4.0 * mu)
    roots = [(s + split) / 2.0, (s - split) / 2.0] if mu else [complex(s)]
    if not 0.4 < abs(roots[0]) < 2.0 or roots[0].real < 0.0 or (mu and not split):
        nothing = combine([(0.0, mode)])
        return nothing, nothing
    parts = [complex(second / s)]
    if mu:
        a, b = roots
        parts = [(second - b * first) / (a - b), (second - a * first) / (b - a)]
    parts = [c / ((1.0 + r) / 2.0) ** FILTER for c, r in zip(parts, roots, strict=True)]
    swing = sum(parts).real
    velocity = sum(c * cmath.log(r) for c, r in zip(parts, roots, strict=True)).real / lr
    return combine([(swing, mode)]), combine([(velocity, mode)])


def edge_rule(rule: Rule | Optimizer, lr: float | None, what: str) -> tuple[Rule, float]:
    """The rule and the one lr of a flow at the edge. Raises `EoMError` for rules whose edge is not known."""
    rule, lr = rule_and_lr(rule, lr)
    check_lr(float("nan") if lr is None else lr)
    assert lr is not None
    if rule.kind not in ("sgd", "rmsprop"):
        raise EoMError(f"the {what} is known for SGD and RMSprop, not for {rule.kind}")
    if rule.decoupled and rule.weight_decay:
        raise EoMError(f"the {what} is known for coupled weight decay only, not for decoupled")
    return rule, float(lr)


def charge_rate(charge: Callable[[Params], Any], point: EdgePoint | CentralPoint, rule: Rule, lr: float) -> Any:
    """How fast a quadratic charge Q that the gradient flow keeps changes past the edge, per unit of time.

    Along theta' = -s (g + grad <H, S> / 2), s = kappa / (1 - mu), with the covariance S of the steps on directions of
    curvature h = edge / (lr kappa), the symmetry of the loss gives Q' = s <Q'', H S> = s h <Q'', S>: for gradient
    descent (2 / lr) <Q'', S>. A number or a tensor, as the charge is.

    Raises `EoMError` for RMSprop, which keeps no such charge.
    """
    if rule.kind != "sgd":
        raise EoMError(f"{rule.kind} keeps no charge of a symmetry: its preconditioner does not have the symmetry")
    here = charge(point.centre)
    bent = 0.0 * here
    for s in point.spread:
        bent = bent + sum(charge(combine([(1.0, point.centre), (by, s)])) for by in (1.0, -1.0)) - 2.0 * here
    return rule.speed * rule.edge / (rule.kappa * lr) * bent
