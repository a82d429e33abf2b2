"""Flows of parameters in time: the gradient flow, the equation of motion, and what any known optimizer follows.

    flow = equation_of_motion(loss, params, lr=0.1, order=2)
    flow.at(1.0)            # where 10 steps of gradient descent lead, up to O(lr^3)
    flow.along([0.1, 0.2])  # at several times

`loss(params)` is a pure function of a dict of tensors (`as_function` makes one of a model). Time is the sum of lr.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.optim import Optimizer

from neuromech.compat import foreach_mul_
from neuromech.eom.derivatives import HVPForm, Point, gradient_at
from neuromech.eom.integrate import integrate
from neuromech.eom.landscape import LossFunction, PureLandscape
from neuromech.eom.memory import CLOCK, memory_field, startup_shift
from neuromech.eom.rule import Rule, check_lr, check_order, rule_and_lr
from neuromech.eom.terms import Backend, VectorField, decayed, motion, motion_by_gradients
from neuromech.errors import EoMError
from neuromech.params import Params, combine

Startup = Literal["torch", "matched"]
PLAIN = Rule()
CORRECTED = ("adam", "nadam", "radam", "lion", "muon")  # kinds whose averages know how many steps they have seen
VELOCITY = "velocity of "


@dataclass(frozen=True)
class Flow:
    """theta' = field(theta) from `start`. `rule` and `lr` are those of the steps that it follows.

    Names in `hidden` (velocities of second-order flows) are integrated, but not returned.
    """

    field: VectorField
    start: Params
    rule: Rule = PLAIN
    lr: float = 0.0
    hidden: frozenset[str] = frozenset()

    def along(
        self, times: Iterable[float], rtol: float = 1e-9, atol: float = 1e-11, method: str = "dopri8"
    ) -> list[Params]:
        """The parameters at each of `times`, in order, all counted from `start`; adaptive steps of torchdiffeq.

        Negative times run backwards. Tolerances are no smaller than the precision of the parameters allows. Raises
        `EoMError` for times that do not go one way, without torchdiffeq, or where the solver makes no headway.
        """
        asked = [float(t) for t in times]
        signs = [b - a for a, b in zip([0.0, *asked], asked, strict=False)]
        if not asked or not (all(d >= 0 for d in signs) or all(d <= 0 for d in signs)):
            raise EoMError(f"times are {asked}: give at least one, all forwards or all backwards from 0")
        grid = [0.0, *dict.fromkeys(t for t in asked if t != 0.0)]
        states = [self.start]
        if len(grid) > 1:
            lr = 0.0 if self.rule.kind == "sgd" else self.lr
            states = integrate(self.field, self.start, grid, rtol, atol, method, lr)
        at = dict(zip(grid, states, strict=True))
        return [{name: x for name, x in at[t].items() if name not in self.hidden} for t in asked]

    def at(self, time: float, rtol: float = 1e-9, atol: float = 1e-11, method: str = "dopri8") -> Params:
        """The parameters at one time."""
        return self.along([time], rtol, atol, method)[0]

    def valid(self, curvature: float) -> bool:
        """False if on a mode of this curvature no such flow exists: the steps oscillate there, whatever the order."""
        return self.lr * self.rule.kappa * curvature < self.rule.radius

    def buffers(self, gradient: VectorField) -> Params:
        """What the optimizer has to remember for its steps from `start` to lie on the flow from the first one on.

        Momentum buffers (for startup "matched"), or the squares that RMSprop averages, to lowest order.
        """
        rule = self.rule
        if rule.kind == "rmsprop":
            g = decayed(lambda: gradient(self.start), self.start, dict.fromkeys(self.start, rule.weight_decay))()
            return {name: x**2 for name, x in g.items()}
        if rule.kind != "sgd" or not rule.momentum:
            raise EoMError(
                "there is no buffer to match: Adam corrects its own start, and a rule without momentum forgets"
            )
        before = self.at(-self.lr)
        a = 1.0 - self.lr * rule.weight_decay if rule.decoupled else 1.0
        update = combine([(a / self.lr, before), (-1.0 / self.lr, self.start)])
        if not rule.nesterov:
            return update
        g = gradient(before)
        if rule.weight_decay and not rule.decoupled:
            g = combine([(1.0, g), (rule.weight_decay, before)])
        return combine([(1.0 / rule.momentum, update), (-1.0 / rule.momentum, g)])


def gradient_flow(loss: LossFunction, params: Params) -> Flow:
    """theta' = -g: the limit of infinitesimal steps of gradient descent.

    Raises `EoMError` for a loss that is not a scalar or does not depend on the parameters.
    """
    return flow_of(Rule(), loss, params, lr=0.0, order=0)


def equation_of_motion(
    loss: LossFunction, params: Params, lr: float, order: int = 1, backend: Backend = "gradients", hvp: HVPForm = "auto"
) -> Flow:
    """theta' = -g - lr xi_0 - ...: the flow on which gradient descent lies up to O(lr^(order+1)) (Miyagawa 2022).

    On a mode of curvature h the series converges for lr h < 1. Raises `EoMError` for a wrong lr or order.
    """
    return flow_of(Rule(), loss, params, lr, order, backend, hvp)


def flow_of(
    rule: Rule | Optimizer,
    loss: LossFunction,
    params: Params,
    lr: float | None = None,
    order: int = 1,
    backend: Backend | None = None,
    hvp: HVPForm = "auto",
    startup: Startup = "torch",
) -> Flow:
    """The flow that the steps of an optimizer follow, up to O(lr^(order+1)), from `params`.

    `rule` may be a torch optimizer, whose lr is then taken. `backend`: "gradients" (no second derivative; rules without
    momentum, where it is the default), else "hvp". `startup` of momentum: "torch" starts from the shadow point that the
    steps of a fresh optimizer settle on, known to the second order, that is enough for order 1; "matched" starts from
    `params`, for steps with the momentum of `Flow.buffers`. Adam, AdamW, NAdam, RAdam, RMSprop, Lion and Muon go to
    order 1, see `eom/memory.py`: "torch" is a fresh optimizer, "matched" one in its steady state.

    Raises `EoMError` for a rule, lr, order or backend without a flow.
    """
    rule, lr = rule_and_lr(rule, lr)
    if startup not in ("torch", "matched"):
        raise EoMError(f"startup is {startup!r}: it has to be 'torch' or 'matched'")
    check_order(order, 1 if rule.kind != "sgd" else 6)
    if lr is None or order or rule.kind != "sgd" or rule.momentum:
        check_lr(float("nan") if lr is None else lr)
    rate = float(lr or 0.0)
    slope = _field(rule, loss, rate, order, backend, hvp)
    start = PureLandscape(loss, params).here
    gradient_at(PureLandscape(loss, start))  # what is no loss is refused now
    if rule.kind == "sgd" and rule.momentum and order and startup == "torch":
        if rule.decoupled and rule.weight_decay:
            raise EoMError(
                "the start of decoupled decay with momentum is not known to second order: use startup='matched'"
            )
        force = Point(loss, start, hvp).gradient
        start = combine([(1.0, start), (rate * rule.startup, force), (rate * rule.startup * rule.weight_decay, start)])
    if rule.kind in CORRECTED and startup == "torch" and rate:
        clock = {CLOCK: next(iter(start.values())).new_zeros(())}
        if order and (far := startup_shift(rule)):
            ahead = _field(rule, loss, rate, 0, backend, hvp)(start | clock)  # -u - decay theta
            pulled = rule.weight_decay if rule.decoupled else 0.0
            start = combine([(1.0 + rate * far * pulled, start), (rate * far, ahead)])  # the clock is in `ahead` only
        return Flow(slope, start | clock, rule, rate, frozenset({CLOCK}))
    return Flow(slope, start, rule, rate)


def _field(rule: Rule, loss: LossFunction, lr: float, order: int, backend: Backend | None, hvp: HVPForm) -> VectorField:
    if backend not in (None, "gradients", "hvp"):
        raise EoMError(f"backend is {backend!r}: it has to be 'gradients' or 'hvp'")
    if backend == "gradients" and (rule.momentum or rule.kind != "sgd"):
        what = "momentum" if rule.kind == "sgd" else rule.kind
        raise EoMError(f"gradients alone give the flow of rules without memory: use backend='hvp' for {what}")
    if rule.kind != "sgd":
        return memory_field(rule, loss, lr, order, hvp)
    if backend == "gradients" or (backend is None and not rule.momentum):
        return lambda theta: motion_by_gradients(
            lambda at: gradient_at(PureLandscape(loss, at)), theta, rule, lr, order
        )

    def explicit(theta: Params) -> Params:
        point = Point(loss, theta, hvp) if order else Point.on(PureLandscape(loss, theta), "gradient")
        derivative = point.derivative
        if rule.weight_decay and not rule.decoupled:
            derivative = decayed(derivative, theta, dict.fromkeys(theta, rule.weight_decay))
        return motion(derivative, theta, rule, lr, order)

    return explicit


def second_order_flow(rule: Rule, loss: LossFunction, params: Params, lr: float, hvp: HVPForm = "auto") -> Flow:
    """lr (1 + momentum)/2 theta'' + (1 - momentum) theta' + kappa G = 0, which keeps the memory (Kunin et al. 2021).

    Nesterov adds lr momentum H theta'. The initial velocity is the one that torch's first step leads to; starting at
    rest costs an order in lr. Raises `EoMError` for rules without momentum or with decoupled decay.
    """
    check_lr(lr)
    if rule.kind != "sgd" or not rule.momentum or (rule.decoupled and rule.weight_decay):
        raise EoMError("a second-order flow belongs to 'sgd' with momentum and without decoupled decay")
    mu, friction, mass = rule.momentum, 1.0 - rule.momentum, lr * (1.0 + rule.momentum) / 2.0
    decay = dict.fromkeys(params, rule.weight_decay)

    def slope(state: Params) -> Params:
        theta = {name: state[name] for name in params}
        v = {name: state[VELOCITY + name] for name in params}
        point = Point(loss, theta, hvp) if rule.nesterov else Point.on(PureLandscape(loss, theta), "gradient")
        derivative = decayed(point.derivative, theta, decay)
        terms = [(-friction / mass, v), (-rule.kappa / mass, derivative())]
        if rule.nesterov:
            terms.append((-lr * mu / mass, derivative(v)))
        return v | {VELOCITY + name: x for name, x in combine(terms).items()}

    start = PureLandscape(loss, params).here
    force = decayed(Point.on(PureLandscape(loss, start), "gradient").derivative, start, decay)()
    first = (1.0 + 2.0 * mu) if rule.nesterov else (1.0 + rule.dampening)
    velocity = {VELOCITY + name: -first / (1.0 + mu) * x for name, x in force.items()}
    return Flow(slope, start | velocity, rule, lr, frozenset(velocity))


def minibatch_flow(
    losses: Sequence[LossFunction],
    params: Params,
    lr: float | Sequence[float],
    order: int = 1,
    rule: Rule | None = None,
) -> list[Params]:
    """The parameters after each step of SGD: the flow of each minibatch's loss, frozen for the lr of its step.

    This is what stochastic steps follow exactly, up to O(lr^(order+1)), any schedule of lr. Rules without momentum
    only: a buffer holds gradients of old minibatches, and no flow of the parameters alone is right.
    """
    rule = rule or Rule()
    if rule.kind != "sgd" or rule.momentum:
        raise EoMError(
            "minibatches with momentum have no flow of the parameters alone: the buffer remembers old batches"
        )
    rates = [lr] * len(losses) if isinstance(lr, (int, float)) else list(lr)
    if len(rates) != len(losses):
        raise EoMError(f"{len(losses)} losses, but {len(rates)} learning rates: one is needed for each step")
    path, at = [], params
    for loss, rate in zip(losses, rates, strict=True):
        at = flow_of(rule, loss, at, rate, order).at(rate)
        path.append(at)
    return path


def descend(
    rule: Rule,
    losses: LossFunction | Sequence[LossFunction],
    params: Params,
    lr: float | Sequence[float],
    steps: int | None = None,
    buffers: Params | None = None,
) -> list[Params]:
    """The steps themselves, taken by torch.optim: parameters after each. `losses`: one for all steps, or one for each.

    `buffers`: what `Flow.buffers` returns; None: a fresh optimizer.
    """
    count = steps if steps is not None else len(losses) if isinstance(losses, Sequence) else 0
    rates = [float(lr)] * count if isinstance(lr, (int, float)) else list(lr)
    live = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    optimizer = rule.optimizer(live.values(), rates[0])
    for name, b in (buffers or {}).items():
        rms = {"step": torch.tensor(0.0), "square_avg": b.clone()}
        optimizer.state[live[name]].update(rms if rule.kind == "rmsprop" else {"momentum_buffer": b.clone()})
    path = []
    for k in range(count):
        loss = losses[k] if isinstance(losses, Sequence) else losses
        for name, g in gradient_at(PureLandscape(loss, live)).items():
            live[name].grad = g
        optimizer.param_groups[0]["lr"] = rates[k]
        if rule.kind == "sgd" and rule.decoupled:  # torch's SGD has no such option
            with torch.no_grad():
                foreach_mul_(list(live.values()), 1.0 - rates[k] * rule.weight_decay)
        optimizer.step()
        path.append({name: p.detach().clone() for name, p in live.items()})
    return path
