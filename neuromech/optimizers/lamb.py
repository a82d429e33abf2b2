"""LAMB and LARS: the step of each tensor is as long as a share of its weights.

Sources: You et al. 2020, algorithm 2 (LAMB); You et al. 2017 (LARS); the package pytorch_optimizer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuromech.optimizers import conventions as po
from neuromech.optimizers.rule import Elements, Rule, State
from neuromech.optimizers.settings import number


def _lamb_advance(e: Elements) -> dict[str, Tensor]:
    (b1, b2), g = e.betas, e.gradient
    return {
        po.FIRST: e.old(po.FIRST).mul(b1).add_(g, alpha=1.0 - b1 if e.group["grad_averaging"] else 1.0),
        po.SECOND: e.old(po.SECOND).mul(b2).addcmul_(g, g, value=1.0 - b2),
    }


def _lamb_update(e: Elements, after: State) -> Tensor:
    """The trust ratio is a part of u; it is that of the weights after decoupled decay."""
    eps, theta = e.number("eps"), e.parameter.detach()
    u = after[po.FIRST] / after[po.SECOND].sqrt().add_(eps)
    if not po.decoupled(e.group):
        u = u.add(theta, alpha=e.number("weight_decay"))
    length, size = (theta * po.decay(e)).norm().clamp(max=e.number("clamp")), u.norm()
    trust = torch.where((length != 0) & (size != 0), length / (size + eps), 1.0)
    return u if e.group["adam"] else u * trust


def _lamb_rate(e: Elements) -> float:
    return e.number("lr") if e.group.get("adam_debias") else e.number("lr") / po.debias(e, 0)


LAMB = Rule(
    "Lamb",
    "the package pytorch_optimizer; You et al. 2020, algorithm 2",
    ("lr", "betas", "eps", "weight_decay", "weight_decouple", "fixed_decay", "grad_averaging", "adam"),
    _lamb_update,
    _lamb_advance,
    _lamb_rate,
    po.decay,
    local=False,
    clock="group",
    attributes=("maximize", "clamp"),
    power=-1,
    memory=po.beta1,
    decoupled=po.decoupled,
    package=po.PACKAGE,
)

BUFFER = "momentum_buffer"


def _scaled(e: Elements) -> Tensor:
    """The gradient as long as a share of the weights; that of a vector stays as it is, without weight decay."""
    g, theta, decay = e.gradient, e.parameter.detach(), e.number("weight_decay")
    if theta.ndim < 2:
        return g
    length = theta.norm()
    below = g.norm() + decay * length
    trust = torch.where((length > 0) & (below > 0), e.number("trust_coefficient") * length / below, 1.0)
    return g.add(theta, alpha=decay).mul_(trust)


def _lars_advance(e: Elements) -> dict[str, Tensor]:
    if not e.number("momentum"):
        return {}
    return {BUFFER: e.old(BUFFER).mul(e.number("momentum")).add_(_scaled(e), alpha=1.0 - e.number("dampening"))}


def _lars_update(e: Elements, after: State) -> Tensor:
    if not e.number("momentum"):
        return _scaled(e)
    return _scaled(e).add(after[BUFFER], alpha=e.number("momentum")) if e.group["nesterov"] else after[BUFFER]


LARS = Rule(
    "LARS",
    "the package pytorch_optimizer; You et al. 2017",
    ("lr", "momentum", "dampening", "weight_decay", "trust_coefficient", "nesterov"),
    _lars_update,
    _lars_advance,
    local=False,
    clock="group",
    attributes=("maximize",),
    power=-1,
    memory=lambda group: number(group["momentum"]),
    package=po.PACKAGE,
)
