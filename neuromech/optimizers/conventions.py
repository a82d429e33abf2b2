"""What the Adam-like optimizers of the package pytorch_optimizer have in common: settings of decay, moments."""

from __future__ import annotations

import math

from torch import Tensor

from neuromech.optimizers.rule import Elements, State
from neuromech.optimizers.settings import ParamGroup, number

FIRST, SECOND, LARGEST = "exp_avg", "exp_avg_sq", "max_exp_avg_sq"
PACKAGE = "pytorch_optimizer"
FLOOR = 1e-15  # the package adds it to second moments


def decoupled(group: ParamGroup) -> bool:
    return bool(group.get("weight_decouple", True))


def beta1(group: ParamGroup) -> float:
    return number(group["betas"][0])


def decay(e: Elements, lr: float | None = None, ratio: float = 1.0) -> float:
    """The factor of the weights: `fixed_decay` leaves out the learning rate."""
    if not decoupled(e.group) or not e.number("weight_decay"):
        return 1.0
    rate = 1.0 if e.group.get("fixed_decay") else e.number("lr") if lr is None else lr
    return 1.0 - e.number("weight_decay") * rate * ratio


def force(e: Elements) -> Tensor:
    """The gradient, with coupled weight decay."""
    return e.force(0.0 if decoupled(e.group) else e.number("weight_decay"))


def debias(e: Elements, which: int) -> float:
    """1 - beta^step: by what a mean that began at zero is short."""
    return float(1.0 - number(e.group["betas"][which]) ** e.step)


def moments(e: Elements, g: Tensor) -> dict[str, Tensor]:
    """The means of g and of its square after the step, and the largest of the latter if it is kept."""
    b1, b2 = e.betas[:2]
    first = e.old(FIRST).lerp(g, 1.0 - b1)
    second = e.old(SECOND).mul(b2).addcmul_(g, g, value=1.0 - b2)
    out = {FIRST: first, SECOND: second}
    return out | {LARGEST: e.old(LARGEST).maximum(second)} if e.group.get("ams_bound") else out


def root(e: Elements, after: State) -> Tensor:
    """What the package's Adam divides by, with its bias correction."""
    second = after[LARGEST if e.group.get("ams_bound") else SECOND]
    return second.add(FLOOR).sqrt_().add_(e.number("eps")).div_(math.sqrt(debias(e, 1)))
