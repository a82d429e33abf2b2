"""Lion: the sign of a mixture of gradient and momentum, with decoupled decay. torch has none: it is known by its name.

Source: Chen et al. 2023, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from neuromech.optimizers import conventions as po
from neuromech.optimizers.accumulation import accumulated_signs, geometric
from neuromech.optimizers.rule import Elements, Rule, State, decoupled_decay
from neuromech.optimizers.settings import ParamGroup, number

FIRST = "exp_avg"


def _advance(e: Elements) -> dict[str, Tensor]:
    beta2 = e.betas[1]
    return {FIRST: e.old(FIRST).mul(beta2).add_(e.gradient, alpha=1.0 - beta2)}


def _update(e: Elements, after: State) -> Tensor:
    beta1 = e.betas[0]
    return e.old(FIRST).mul(beta1).add_(e.gradient, alpha=1.0 - beta1).sign_()


def _accumulation(group: ParamGroup, shape: Sequence[int]) -> float:
    """beta1 m + (1 - beta1) g, with a mean m that remembers by beta2 and does not know the newest gradient."""
    beta1, beta2 = map(number, group["betas"])
    return accumulated_signs(geometric(beta2, 1.0 - beta1, beta1 * (1.0 - beta2)))


def _flow(group: ParamGroup) -> dict[str, Any]:
    betas = tuple(map(number, group["betas"]))
    return {"kind": "lion", "betas": betas, "weight_decay": number(group["weight_decay"]), "decoupled": True}


LION = Rule(
    "Lion",
    "Chen et al. 2023, algorithm 2",
    ("lr", "betas", "weight_decay"),
    _update,
    _advance,
    decay=decoupled_decay,
    decoupled=lambda group: True,
    accumulation=_accumulation,
    unit=_accumulation,
    fixed=True,
    flow=_flow,
)


LION_PO = Rule(
    "Lion",
    "the package pytorch_optimizer; Chen et al. 2023",
    ("lr", "betas", "weight_decay", "weight_decouple", "fixed_decay", "maximize"),
    lambda e, after: e.old(FIRST).lerp(po.force(e), 1.0 - e.betas[0]).sign_(),
    lambda e: {FIRST: e.old(FIRST).lerp(po.force(e), 1.0 - e.betas[1])},
    decay=po.decay,
    decoupled=po.decoupled,
    accumulation=_accumulation,
    unit=_accumulation,
    fixed=True,
    attributes=("maximize",),
    package=po.PACKAGE,
)
