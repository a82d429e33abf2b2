"""Adan: Nesterov momentum for Adam, by the means of gradients and of their differences.

Source: Xie et al. 2022, algorithm 1; the package pytorch_optimizer.
"""

from __future__ import annotations

import math

from torch import Tensor

from neuromech.optimizers import conventions as po
from neuromech.optimizers.rule import Elements, Rule, State

DIFFERENCE, PREVIOUS = "exp_avg_diff", "previous_grad"  # the latter with its sign turned


def _advance(e: Elements) -> dict[str, Tensor]:
    (b1, b2, b3), g = e.betas, e.gradient
    before = e.kept(PREVIOUS)
    change = g.add(g.neg() if before is None else before)
    ahead = change.mul(b2).add_(g)
    return {
        po.FIRST: e.old(po.FIRST).lerp(g, 1.0 - b1),
        DIFFERENCE: e.old(DIFFERENCE).lerp(change, 1.0 - b2),
        po.SECOND: e.old(po.SECOND).mul(b3).addcmul_(ahead, ahead, value=1.0 - b3),
        PREVIOUS: g.neg(),
    }


def _shrink(e: Elements) -> float:
    """Coupled decay divides the weights after the update: theta+ = (theta - lr u) / (1 + lr weight_decay)."""
    return 1.0 if po.decoupled(e.group) else 1.0 / (1.0 + e.number("lr") * e.number("weight_decay"))


def _update(e: Elements, after: State) -> Tensor:
    b2 = e.betas[1]
    root = after[po.SECOND].sqrt().div_(math.sqrt(po.debias(e, 2))).add_(e.number("eps"))
    return after[po.FIRST].mul(1.0 / po.debias(e, 0)).add_(after[DIFFERENCE], alpha=b2 / po.debias(e, 1)).div_(root)


ADAN = Rule(
    "Adan",
    "the package pytorch_optimizer; Xie et al. 2022, algorithm 1",
    ("lr", "betas", "eps", "weight_decay", "weight_decouple"),
    _update,
    _advance,
    lambda e: e.number("lr") * _shrink(e),
    lambda e: po.decay(e) * _shrink(e),
    late=True,
    clock="group",
    attributes=("maximize",),
    decoupled=lambda group: True,  # both ways act on the weights by themselves
    package=po.PACKAGE,
)
