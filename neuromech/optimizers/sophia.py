"""Sophia: a mean of gradients over one of the diagonal of the Hessian, clipped.

The Hessian is sampled by the optimizer: its mean is read off the state after the step, and is not foretold.
Source: Liu et al. 2023, algorithm 3; the package pytorch_optimizer.
"""

from __future__ import annotations

from torch import Tensor

from neuromech.optimizers import conventions as po
from neuromech.optimizers.rule import Elements, Rule, State
from neuromech.optimizers.settings import number

MOMENTUM, HESSIAN = "momentum", "hessian_moment"


def _update(e: Elements, after: State) -> Tensor:
    most = e.number("p")
    return after[MOMENTUM].div(after[HESSIAN].clamp(min=e.number("eps"))).clamp_(min=-most, max=most)


SOPHIA = Rule(
    "SophiaH",
    "the package pytorch_optimizer; Liu et al. 2023, algorithm 3",
    ("lr", "betas", "eps", "p", "weight_decay", "weight_decouple", "fixed_decay"),
    _update,
    lambda e: {MOMENTUM: e.old(MOMENTUM).lerp(po.force(e), 1.0 - e.betas[0])},
    decay=po.decay,
    late=True,
    clock="group",
    attributes=("maximize",),
    memory=lambda group: number(group["betas"][0]),
    decoupled=po.decoupled,
    package=po.PACKAGE,
)
