"""AdamP: Adam without the part of the update along weights that are scale-invariant, as far as their gradients tell.

Source: Heo et al. 2021, algorithm 2; the package pytorch_optimizer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from neuromech.optimizers import conventions as po
from neuromech.optimizers.rule import Elements, Rule, State


def _invariant(e: Elements) -> Tensor | None:
    """The weights, row by row or as one row, if they are taken for scale-invariant so: at right angles to gradients."""
    theta = e.parameter.detach()
    if theta.ndim < 2:
        return None
    for x in (theta.reshape(len(theta), -1), theta.reshape(1, -1)):
        cosine = cosine_similarity(e.gradient.reshape(x.shape), x, dim=1, eps=e.number("eps")).abs_()
        if cosine.max() < e.number("delta") / math.sqrt(x.shape[1]):
            return x
    return None


def _update(e: Elements, after: State) -> Tensor:
    b1 = e.betas[0]
    mean = after[po.FIRST].lerp(e.gradient, 1.0 - b1) if e.group["nesterov"] else after[po.FIRST]
    u = mean * (math.sqrt(po.debias(e, 1)) / after[po.SECOND].sqrt().add_(e.number("eps")))
    x = _invariant(e)
    if x is None:
        return u
    unit = x / x.norm(dim=1, keepdim=True).add_(e.number("eps"))
    along = (unit * u.reshape(x.shape)).sum(dim=1, keepdim=True)
    return torch.sub(u.reshape(x.shape), unit * along).reshape(u.shape)


def _decay(e: Elements) -> float:
    return po.decay(e, ratio=1.0 if _invariant(e) is None else e.number("wd_ratio"))


ADAMP = Rule(
    "AdamP",
    "the package pytorch_optimizer; Heo et al. 2021, algorithm 2",
    ("lr", "betas", "eps", "weight_decay", "weight_decouple", "fixed_decay", "delta", "wd_ratio", "nesterov"),
    _update,
    lambda e: po.moments(e, e.gradient),
    lambda e: e.number("lr") if e.group.get("adam_debias") else e.number("lr") / po.debias(e, 0),
    _decay,
    local=False,
    clock="group",
    attributes=("maximize",),
    memory=po.beta1,
    decoupled=po.decoupled,
    package=po.PACKAGE,
)
