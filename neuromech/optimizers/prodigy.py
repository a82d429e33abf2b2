"""Prodigy: Adam whose learning rate is found while it goes, by an estimate d of the distance to the solution.

The step moves with the d of the one before, and its new d only enters eps. Source: Mishchenko and Defazio 2023,
algorithm 4; the package pytorch_optimizer.
"""

from __future__ import annotations

import math

from torch import Tensor

from neuromech.optimizers import conventions as po
from neuromech.optimizers.rule import Elements, Rule, State


def _rate(e: Elements) -> float:
    """The package counts from 0 here."""
    rate = e.number("d") * e.number("lr")
    if not e.group["bias_correction"]:
        return rate
    b1, b2 = e.betas
    corrected: float = rate * math.sqrt(1.0 - b2 ** (e.step - 1.0)) / (1.0 - b1 ** (e.step - 1.0))
    return corrected


def _advance(e: Elements) -> dict[str, Tensor]:
    (b1, b2), g, d = e.betas, e.gradient, e.number("d")
    return {
        po.FIRST: e.old(po.FIRST).mul(b1).add_(g, alpha=d * (1.0 - b1)),
        po.SECOND: e.old(po.SECOND).mul(b2).addcmul_(g, g, value=d * d * (1.0 - b2)),
    }


def _update(e: Elements, after: State) -> Tensor:
    root = after[po.SECOND].sqrt()
    if e.group["eps"] is None:
        return after[po.FIRST].atan2(root)
    return after[po.FIRST] / root.add_(e.number("d") * e.number("eps"))


PRODIGY = Rule(
    "Prodigy",
    "the package pytorch_optimizer; Mishchenko and Defazio 2023, algorithm 4",
    ("lr", "betas", "eps", "weight_decay", "weight_decouple", "fixed_decay", "d"),
    _update,
    _advance,
    _rate,
    lambda e: po.decay(e, _rate(e)),
    late=True,
    clock="group",
    attributes=("maximize",),
    replayed=False,
    memory=po.beta1,
    decoupled=po.decoupled,
    package=po.PACKAGE,
)
