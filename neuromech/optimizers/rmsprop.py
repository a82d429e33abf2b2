"""RMSprop, plain, centered, with momentum, and Rprop, which it descends from.

Sources: `torch.optim.RMSprop` (Tieleman and Hinton 2012; centered: Graves 2013), `torch.optim.Rprop` (Riedmiller and
Braun 1993).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from neuromech.optimizers.rule import Elements, Rule, State
from neuromech.optimizers.settings import ParamGroup, number

SQUARE, MEAN, BUFFER = "square_avg", "grad_avg", "momentum_buffer"


def _root(e: Elements, after: State) -> Tensor:
    second = after[SQUARE]
    if e.group["centered"]:
        second = second.addcmul(after[MEAN], after[MEAN], value=-1.0)
    return second.sqrt().add_(e.number("eps"))


def _force(e: Elements) -> Tensor:
    return e.force(e.number("weight_decay"))


def _advance(e: Elements) -> dict[str, Tensor]:
    alpha, momentum, g = e.number("alpha"), e.number("momentum"), _force(e)
    out = {SQUARE: e.old(SQUARE).mul(alpha).addcmul_(g, g, value=1.0 - alpha)}
    if e.group["centered"]:
        out[MEAN] = e.old(MEAN).lerp(g, 1.0 - alpha)
    if momentum > 0:
        out[BUFFER] = e.old(BUFFER).mul(momentum).addcdiv_(g, _root(e, out))
    return out


def _update(e: Elements, after: State) -> Tensor:
    return after[BUFFER] if e.number("momentum") > 0 else _force(e) / _root(e, after)


def _flow(group: ParamGroup) -> dict[str, Any] | str:
    if group["centered"] or number(group["momentum"]):
        return "its flow is worked out without momentum and centered only"
    told = {"weight_decay": number(group["weight_decay"]), "eps": number(group["eps"])}
    return told | {"kind": "rmsprop", "betas": (0.0, number(group["alpha"]))}


RMSPROP = Rule(
    "RMSprop",
    "torch.optim.RMSprop; Tieleman and Hinton 2012",
    ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize"),
    _update,
    _advance,
    clock="state",
    memory=lambda group: number(group.get("momentum") or 0.0),
    flow=_flow,
)

PREVIOUS, SIZE = "prev", "step_size"


def _rprop_advance(e: Elements) -> dict[str, Tensor]:
    """Where the gradient changes its sign the step is shortened, and the gradient forgotten."""
    (shorter, longer), (least, most) = e.group["etas"], e.group["step_sizes"]
    turned = e.gradient.mul(e.old(PREVIOUS)).sign()
    up, down = turned.clamp(min=0.0), turned.clamp(max=0.0)
    factor = up.mul(longer - 1.0).add_(down, alpha=1.0 - shorter).add_(1.0)
    size = e.old(SIZE, e.number("lr")).mul(factor).clamp_(min=least, max=most)
    return {SIZE: size, PREVIOUS: e.gradient.mul(down.add(1.0))}


RPROP = Rule(
    "Rprop",
    "torch.optim.Rprop; Riedmiller and Braun 1993",
    ("lr", "etas", "step_sizes", "maximize"),
    lambda e, after: after[PREVIOUS].sign().mul(after[SIZE]),
    _rprop_advance,
    rate=lambda e: 1.0,
    late=True,
    clock="state",
)
