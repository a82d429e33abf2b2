"""The error of discretisation: how far discrete steps are from the flow that they should follow, and at which lr.

Gradient descent leaves the flow of the equation of motion of order p by -lr^(p+2) xi_p in each step (p = 0: the
gradient flow, -lr^2/2 Hg). Errors made along the way are carried on by the flow, so that after a time t the distance
is lr^(p+1) E(t) with E' = -H E + xi_p along the gradient flow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from neuromech.eom.accumulation import Closure
from neuromech.eom.bseries import evaluate
from neuromech.eom.closure import Live
from neuromech.eom.derivatives import HVPForm, Point
from neuromech.eom.flow import Flow
from neuromech.eom.lanczos import Eigen, largest
from neuromech.eom.landscape import LossFunction
from neuromech.eom.rule import Rule, check_lr, check_order
from neuromech.eom.terms import counter_series, decayed
from neuromech.errors import EoMError, warn
from neuromech.params import Params, combine, named_parameters, norm

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

ERROR = "error of "


@dataclass(frozen=True)
class StepError:
    """One step of gradient descent against the flow of order `order`, to leading order.

    `speed`: what momentum and dampening make of lr. `layers`: |(lr * speed)^(order+2) xi_order| by parameter; `total`
    the norm over all. `xi`: without lr. `sharpness`: the largest Hessian eigenvalue, off by at most `uncertainty`;
    nan if it was not asked for. Steps on it are stable below `edge`.
    """

    step: int
    lr: float
    order: int
    loss: float
    xi: float
    speed: float
    layers: Mapping[str, float]
    sharpness: float = math.nan
    uncertainty: float = math.nan
    edge: float = math.nan

    @property
    def total(self) -> float:
        return (self.lr * self.speed) ** (self.order + 2) * self.xi

    def lr_for(self, tolerance: float) -> float:
        """The largest lr whose step is off by no more than `tolerance`, in units of the parameters."""
        return _rate(tolerance, self.xi, self.order + 2) / self.speed


@dataclass(frozen=True)
class PathError:
    """A path of gradient descent against the flow of order `order`, at one time: the distance is lr^(order+1) |E|."""

    order: int
    time: float
    direction: Params

    def at(self, lr: float) -> Params:
        """theta of gradient descent minus theta of the flow, to leading order."""
        check_lr(lr)
        return combine([(-(lr ** (self.order + 1)), self.direction)])

    def lr_for(self, tolerance: float) -> float:
        """The largest lr for which the distance at this time is no more than `tolerance`."""
        return _rate(tolerance, float(norm(self.direction)), self.order + 1)


def _rate(tolerance: float, size: float, power: int) -> float:
    if not tolerance > 0:
        raise EoMError(f"tolerance is {tolerance!r}: it has to be a positive distance in parameter space")
    return (tolerance / size) ** (1.0 / power) if size else math.inf


def path_error(loss: LossFunction, params: Params, time: float, order: int = 0, hvp: HVPForm = "auto") -> PathError:
    """What gradient descent has moved away from the flow of order `order` (0: the gradient flow) after `time`.

    Raises `EoMError` for a wrong order or a loss without the derivatives that xi_order needs.
    """
    check_order(order, 5)
    series = counter_series(order + 1)[-1]

    def slope(state: Params) -> Params:
        theta = {name: state[name] for name in params}
        point = Point(loss, theta, hvp)
        e = {name: state[ERROR + name] for name in params}
        grown = combine([(-1.0, point.hvp(e)), (1.0, evaluate(series, point.derivative, theta))])
        return combine([(-1.0, point.gradient)]) | {ERROR + name: x for name, x in grown.items()}

    start = {name: p.detach() for name, p in params.items()}
    zero = {ERROR + name: 0.0 * p for name, p in start.items()}
    end = Flow(slope, start | zero, hidden=frozenset(start)).at(time)
    return PathError(order, time, {name: end[ERROR + name] for name in params})


class ErrorMeter:
    """Reads, in a live run, how far the next step of `optimizer` leaves the flow: call `measure(closure)` before it.

    `step` is the one about to be taken, counted from here or from where an `EoMOptimizer` stands. Counter terms are
    those of gradient descent in the time of the flow, lr * speed per step; the edge of stability is that of the
    optimizer with its momentum. The closure is a loss that need not call backward; nothing of the run changes.

    Raises `EoMError` for an optimizer that is not SGD, or with groups of different settings.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, order: int = 0, hvp: HVPForm = "auto") -> None:
        check_order(order, 5)
        self._optimizer = optimizer
        base = getattr(optimizer, "base", optimizer)
        if Rule.of(base).kind != "sgd":
            raise EoMError(
                f"an error of discretisation is known for SGD and EoMOptimizer, not for {type(base).__name__}"
            )
        self._base, self._order, self._hvp = base, order, hvp
        self._steps = int(getattr(optimizer, "steps", 0))
        optimizer.register_step_post_hook(self._count)
        mine = {id(p) for group in base.param_groups for p in group["params"]}
        self._params: Params = {n: p for n, p in named_parameters(model).items() if id(p) in mine and p.requires_grad}
        if not self._params:
            raise EoMError(
                "the optimizer holds none of this model's trainable parameters: pass the ones that belong together"
            )
        self._top: Eigen | None = None
        self._over = False
        self.rows: list[StepError] = []

    def _count(self, *_: object) -> None:
        self._steps += 1

    def measure(self, closure: Closure, sharpness: bool = True, tolerance: float = 1e-2) -> StepError:
        """The error of the step about to be taken. `sharpness`: find the largest eigenvalue too, by Lanczos.

        Warns when the eigenvalue crosses the edge of stability.
        """
        rule = Rule.of(self._base)
        rates = {float(group["lr"]) for group in self._base.param_groups}
        if len(rates) > 1:
            raise EoMError(f"the parameter groups have different lr, {sorted(rates)}: the error of one lr is measured")
        lr = rates.pop()
        w = lr * rule.speed
        gradients = {name: p.grad for name, p in self._params.items()}
        top, edge = None, math.nan
        with Live(closure, self._params, spectator=True) as live:
            point = Point.on(live, self._hvp)
            derivative = decayed(point.derivative, live.here, dict.fromkeys(self._params, rule.weight_decay))
            xi = evaluate(counter_series(self._order + 1)[-1], derivative, live.here)
            if sharpness:
                top = largest(derivative, live.here, tolerance, start=self._top.vector if self._top else None)
                edge = rule.edge / (w * (1.0 - rule.momentum))
        for name, p in self._params.items():
            p.grad = gradients[name]
        layers = {name: w ** (self._order + 2) * float(norm({name: x})) for name, x in xi.items()}
        row = StepError(
            self._steps + 1,
            lr,
            self._order,
            float(point.loss),
            float(norm(xi)),
            rule.speed,
            layers,
            *((top.value, top.residual, edge) if top else ()),
        )
        self._top = top or self._top
        self.rows.append(row)
        self._warn(row)
        return row

    def _warn(self, row: StepError) -> None:
        over = row.sharpness > row.edge
        if over and not self._over:
            warn(
                f"before step {row.step} the largest Hessian eigenvalue, {row.sharpness:.4g}, is past the edge of "
                f"stability, {row.edge:.4g} at this lr: steps oscillate there and follow no flow. Lower lr by "
                f"{row.sharpness / row.edge:.2g} or more",
                "edge of stability",
                short="the sharpness is past the edge of stability",
            )
        self._over = over

    @property
    def history(self) -> pd.DataFrame:
        """One row per measurement: its fields, and |error| by parameter."""
        import pandas as pd

        plain = ("step", "lr", "order", "loss", "total", "sharpness", "uncertainty", "edge")
        rows: list[dict[str, Any]] = [{n: getattr(r, n) for n in plain} | dict(r.layers) for r in self.rows]
        return pd.DataFrame(rows)
