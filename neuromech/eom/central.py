"""The central flow: the time average of steps at the edge of stability (Cohen, Damian, Talwalkar, Kolter, Lee 2025).

Steps that swing with covariance S around a centre w follow, on average (arXiv 2410.24206, eq. 6 and appendix A),

    w' = -s P^-1 (g + grad <H, S> / 2)          s = kappa / (1 - mu)

with P = 1 for SGD and P = diag(sqrt(nu) + eps) for RMSprop, where nu' = -ln(beta) / lr (g^2 + diag(H S H) - nu). S is
what keeps the curvature at the edge, and not more than that: with h = edge / (lr kappa), the solution of

    S >= 0,    h P - H >= 0 at the end of a step,    <S, h P - H> = 0

on the directions whose curvature is within `MARGIN` of the edge: a semidefinite complementarity problem of their
number. For momentum the average of the buffer gives the same flow, faster by 1 / (1 - mu), with edge 2 (1 + mu).
Unlike the edge flow it knows no bursts: it is what they average to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuromech.eom.derivatives import HVPForm, Point
from neuromech.eom.edge import SQUARES, CentralPoint, edge_rule, forwards
from neuromech.eom.flow import Flow
from neuromech.eom.lanczos import leading, random_like
from neuromech.eom.landscape import LossFunction, PureLandscape
from neuromech.eom.rule import Rule
from neuromech.errors import EoMError
from neuromech.params import Params, combine, dot

MARGIN = 0.95  # directions from this part of the edge on may carry a swing
PRODUCTS = 60  # Hessian-vector products at most for the leading directions


class _Slope(NamedTuple):
    """The field at a state, and the swing there."""

    value: Params
    spread: list[Params]


@dataclass(frozen=True)
class CentralFlow(Flow):
    """A central flow. `at` and `along` give the centre, `points` the covariance of the steps too. Forwards only.

    Integrated by Euler's steps of lr, which the complementarity problem looks one of ahead; tolerances are not used.
    """

    slope: _CentralField | None = field(default=None, repr=False)

    def along(
        self, times: Iterable[float], rtol: float = 0.0, atol: float = 0.0, method: str = "euler"
    ) -> list[Params]:
        if method != "euler":
            raise EoMError(f"method is {method!r}: a central flow, whose field jumps at the edge, goes by 'euler'")
        states = forwards(self.field, self.start, times, rtol, atol, method, self.lr)
        return [{n: x for n, x in state.items() if n not in self.hidden} for state in states]

    def at(self, time: float, rtol: float = 0.0, atol: float = 0.0, method: str = "euler") -> Params:
        return self.along([time], rtol, atol, method)[0]

    def points(self, times: Iterable[float]) -> list[CentralPoint]:
        """Centre and covariance at each of `times`. Raises `EoMError` for times that do not run forwards from 0."""
        assert self.slope is not None
        states = forwards(self.field, self.start, times, 0.0, 0.0, "euler", self.lr)
        centres = [{n: x for n, x in state.items() if n not in self.hidden} for state in states]
        return [CentralPoint(w, self.slope.at(state).spread) for w, state in zip(centres, states, strict=True)]


def central_flow(
    rule: Rule | Optimizer,
    loss: LossFunction,
    params: Params,
    lr: float | None = None,
    hvp: HVPForm = "auto",
) -> CentralFlow:
    """The flow that steps of SGD, with momentum or without, and of RMSprop follow on average, past the edge too.

    A step of lr costs some ten Hessian-vector products and k (k + 1) / 2 third derivatives, for k directions at the
    edge. Raises `EoMError` for other rules, Nesterov, and weight decay, which is to be a part of the loss.
    """
    rule, lr = edge_rule(rule, lr, "central flow")
    if rule.nesterov or rule.weight_decay:
        raise EoMError("the central flow is known without nesterov, and with weight decay as a part of the loss only")
    start = PureLandscape(loss, params).here
    slope = _CentralField(rule, loss, lr, hvp, list(start))
    state = dict(start)
    if rule.kind == "rmsprop":
        state |= {SQUARES + n: g * g for n, g in Point.on(PureLandscape(loss, start), "gradient").gradient.items()}
    return CentralFlow(slope, state, rule, lr, frozenset(state.keys() - start.keys()), slope)


class _CentralField:
    """The field. It remembers leading directions from call to call, as a guess of the next ones and as nothing else."""

    def __init__(self, rule: Rule, loss: LossFunction, lr: float, hvp: HVPForm, names: list[str]) -> None:
        self._rule, self._loss, self._lr, self._hvp, self._names = rule, loss, lr, hvp, names
        self._guess: Params | None = None

    def __call__(self, state: Params) -> Params:
        return self.at(state).value

    def at(self, state: Params) -> _Slope:
        rule, lr, names = self._rule, self._lr, self._names
        edge, speed = rule.edge / (rule.kappa * lr), rule.speed
        w = {n: state[n] for n in names}
        point = Point(self._loss, w, self._hvp)
        p = {n: torch.ones_like(x) for n, x in w.items()}
        if rule.kind == "rmsprop":
            p = {n: state[SQUARES + n].clamp_min(0.0).sqrt() + rule.eps for n in names}
        values, u = self._leading(point, p, least=min(MARGIN * edge, 1.0 / (speed * lr)))
        k = sum(value >= MARGIN * edge for value in values)
        pairs = [(i, j) for i in range(k) for j in range(i, k)]
        bends = {(i, j): point.derivative(u[i], u[j]) for i, j in pairs}  # grad of u_i H u_j
        # Every rate is affine in S = U X U^T: its value for X = 0, and what each (symmetrised) entry of X adds.
        still = self._rates(point.gradient, p, state)
        moved = [self._pushed(bends[i, j], (i, j), p, u, values) for i, j in pairs]

        def stability(rates: tuple[Params, Params]) -> Tensor:
            """d/dt of U^T (h P - H) U."""
            dw, dp = rates
            out = torch.zeros(k, k, dtype=torch.float64)
            for i, j in pairs:
                turned = sum(float((u[i][n] * dp[n] * u[j][n]).sum()) for n in dp)
                out[i, j] = out[j, i] = edge * turned - float(dot(bends[i, j], dw))
            return out

        x = torch.zeros(k, k, dtype=torch.float64)
        if k:
            gap = torch.diag(edge - torch.tensor(values[:k], dtype=torch.float64))
            x = complementary(gap + lr * stability(still), [lr * stability(m) for m in moved], pairs)
        weights = [float(x[i, j]) * (1.0 if i == j else 2.0) for i, j in pairs]
        dw = combine([(1.0, still[0]), *((c, m[0]) for c, m in zip(weights, moved, strict=True))])
        # Along stiff directions a step of Euler's is made implicit: they are slaves of the others.
        for value, v in zip(values, u, strict=True):
            along = sum(float((v[n] * p[n] * dw[n]).sum()) for n in names)
            dw = combine([(1.0, dw), (along * (1.0 / (1.0 + lr * speed * max(value, 0.0)) - 1.0), v)])
        out = dict(dw)
        if rule.kind == "rmsprop":
            rate = -math.log(rule.betas[1]) / lr
            squares = {n: g * g for n, g in point.gradient.items()}
            for c, (i, j) in zip(weights, pairs, strict=True):
                for n in names:  # H u = value P u
                    squares[n] = squares[n] + c * values[i] * values[j] * p[n] ** 2 * u[i][n] * u[j][n]
            out |= {SQUARES + n: rate * (squares[n] - state[SQUARES + n]) for n in names}
        roots, vectors = torch.linalg.eigh(x)
        kept = [i for i in range(k) if float(roots[i]) > 0.0]
        spread = [combine([(float(roots[i].sqrt() * vectors[j, i]), u[j]) for j in range(k)]) for i in kept]
        return _Slope(out, spread)

    def _leading(self, point: Point, p: Params, least: float) -> tuple[list[float], list[Params]]:
        """Eigenvalues of P^-1 H and vectors u with u P u = 1."""
        root = {n: x.sqrt() for n, x in p.items()}

        def product(v: Params) -> Params:
            out = point.hvp({n: v[n] / root[n] for n in v})
            return {n: x / root[n] for n, x in out.items()}

        found = leading(product, point.gradient, least, 1e-3, PRODUCTS, self._guess)
        few = random_like(point.gradient)
        scale = 0.01 / math.sqrt(sum(x.numel() for x in few.values()))
        self._guess = combine([(scale, few), *((1.0, e.vector) for e in found)])
        return [e.value for e in found], [{n: x / root[n] for n, x in e.vector.items()} for e in found]

    def _rates(self, g: Params, p: Params, state: Params) -> tuple[Params, Params]:
        """w' and P' without a swing."""
        rule = self._rule
        dw = {n: -rule.speed * x / p[n] for n, x in g.items()}
        if rule.kind != "rmsprop":
            return dw, {}
        rate = -math.log(rule.betas[1]) / self._lr
        return dw, {n: rate * (x * x - state[SQUARES + n]) / (2.0 * p[n].clamp_min(1e-300)) for n, x in g.items()}

    def _pushed(
        self, bend: Params, pair: tuple[int, int], p: Params, u: list[Params], values: list[float]
    ) -> tuple[Params, Params]:
        """What an entry of X adds to w' and P', to first order."""
        rule, (i, j) = self._rule, pair
        dw = {n: -0.5 * rule.speed * x / p[n] for n, x in bend.items()}
        if rule.kind != "rmsprop":
            return dw, {}
        rate = -math.log(rule.betas[1]) / self._lr
        return dw, {n: 0.5 * rate * values[i] * values[j] * p[n] * u[i][n] * u[j][n] for n in dw}


def complementary(still: Tensor, moved: list[Tensor], pairs: list[tuple[int, int]], rounds: int = 500) -> Tensor:
    """X >= 0 with Y = still + sum of X_ij moved_ij >= 0 and <X, Y> = 0, for symmetric matrices of a few rows.

    `moved`: what X_ij adds, for each pair i <= j. Where every direction carries a swing, X is the solution of Y = 0;
    else projections of X - c Y on the cone, accelerated (Beck and Teboulle 2009), find it.
    """
    k = len(still)
    double = torch.tensor([1.0 if i == j else 2.0 for i, j in pairs], dtype=torch.float64)
    stack = torch.stack(moved) * double[:, None, None]
    columns = torch.stack([m[[i for i, _ in pairs], [j for _, j in pairs]] for m in stack], dim=1)

    def matrix(entries: Tensor) -> Tensor:
        out = torch.zeros(k, k, dtype=torch.float64)
        for c, (i, j) in zip(entries, pairs, strict=True):
            out[i, j] = out[j, i] = c
        return out

    def gap(x: Tensor) -> Tensor:
        entries = torch.stack([x[i, j] for i, j in pairs])
        return still + (stack * entries[:, None, None]).sum(0)

    def projected(x: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(x)
        out: Tensor = (vectors * values.clamp_min(0.0)) @ vectors.T
        return out

    if float(torch.linalg.eigvalsh(still).min()) >= 0.0:
        return torch.zeros(k, k, dtype=torch.float64)
    direct = matrix(torch.linalg.lstsq(columns, -still[[i for i, _ in pairs], [j for _, j in pairs]]).solution)
    if float(torch.linalg.eigvalsh(direct).min()) >= 0.0:
        return direct
    size = 1.0 / max(float(torch.linalg.matrix_norm(columns, 2)) * 2.0, 1e-300)
    x = ahead = projected(direct)
    t = 1.0
    for _ in range(rounds):
        new = projected(ahead - size * gap(ahead))
        if float((new - x).abs().max()) <= 1e-10 * float(new.abs().max().clamp_min(1e-300)):
            return new
        t, old = (1.0 + math.sqrt(1.0 + 4.0 * t * t)) / 2.0, t
        ahead, x = new + (old - 1.0) / t * (new - x), new
    return x
