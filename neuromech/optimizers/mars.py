"""MARS: Adam or Lion after variance reduction, by what the gradient has changed since the last step.

Matrices are moved so; vectors by AdamW with settings of their own, unless `optimize_1d` says otherwise. Its
Shampoo-like kind is not worked out here. Source: Yuan et al. 2024, algorithm 2; the package pytorch_optimizer.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from neuromech.optimizers import conventions as po
from neuromech.optimizers.rule import Elements, Rule, State

LAST = "last_grad"


def _reduced(e: Elements) -> bool:
    return bool(e.group["optimize_1d"]) or e.parameter.ndim >= 2


def _own(e: Elements) -> Elements:
    """With the settings for parameters of this shape."""
    if _reduced(e):
        return e
    vectors: dict[str, Any] = {
        "betas": e.group["betas_1d"],
        "weight_decay": e.group["weight_decay_1d"],
        "lr": e.number("lr") * e.number("lr_1d_factor"),
    }
    return e._replace(group={**e.group, **vectors})


def _corrected(e: Elements) -> Tensor:
    if not _reduced(e):
        return e.gradient
    b1 = e.betas[0]
    c = e.gradient.sub(e.old(LAST)).mul_(e.number("gamma") * b1 / (1.0 - b1)).add_(e.gradient)
    return c.div(c.norm().clamp(min=1.0))


def _advance(e: Elements) -> dict[str, Tensor]:
    own = _own(e)
    out = po.moments(own, _corrected(own))
    if _lion(e):
        out.pop(po.SECOND)
    return out


def _lion(e: Elements) -> bool:
    return bool(e.group["mars_type"] == "lion") and _reduced(e)


def _update(e: Elements, after: State) -> Tensor:
    if _lion(e):
        return after[po.FIRST].sign()
    own = _own(e)
    return after[po.FIRST].div(po.root(own, after)).div_(po.debias(own, 0))


MARS = Rule(
    "MARS",
    "the package pytorch_optimizer; Yuan et al. 2024, algorithm 2",
    ("lr", "betas", "eps", "weight_decay", "weight_decouple", "gamma", "mars_type", "betas_1d", "weight_decay_1d"),
    _update,
    _advance,
    lambda e: _own(e).number("lr"),
    lambda e: po.decay(_own(e)),
    local=False,
    clock="group",
    attributes=("maximize",),
    memory=po.beta1,
    decoupled=po.decoupled,
    package=po.PACKAGE,
)
