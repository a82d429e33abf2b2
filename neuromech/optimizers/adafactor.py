"""Adafactor: second moments kept as rows and columns, and a step size relative to that of the weights.

Sources: `torch.optim.Adafactor`; Shazeer and Stern 2018, algorithms 4 and 5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neuromech.optimizers.rule import Elements, Rule, State, decoupled_decay

ROW, COLUMN, WHOLE = "row_var", "col_var", "variance"


def _averaged(e: Elements, key: str, x: Tensor) -> Tensor:
    old = e.kept(key)
    return torch.lerp(torch.zeros_like(x) if old is None else old, x, e.step ** e.number("beta2_decay"))


def _advance(e: Elements) -> dict[str, Tensor]:
    square = e.gradient.square()
    if square.ndim < 2:
        return {WHOLE: _averaged(e, WHOLE, square)}
    return {
        ROW: _averaged(e, ROW, square.mean(-1, keepdim=True)),
        COLUMN: _averaged(e, COLUMN, square.mean(-2, keepdim=True)),
    }


def _update(e: Elements, after: State) -> Tensor:
    """The step size is part of u: it is relative to the root mean square of the weights."""
    p, (eps1, eps2) = e.parameter, e.group["eps"]
    largest = min(e.number("lr"), 1.0 / math.sqrt(e.step))
    eps1 = torch.finfo(p.dtype).eps if eps1 is None else eps1
    if ROW in after:
        second = (after[ROW] @ after[COLUMN]) / after[ROW].mean(-2, keepdim=True).clamp_(min=eps1)
    else:
        second = after[WHOLE].clone()
    u = second.clamp_(min=eps1 * eps1).rsqrt_().mul_(e.gradient)
    size = p.norm() / math.sqrt(p.numel())
    clip = (u.norm() / (math.sqrt(u.numel()) * e.number("d"))).clamp_(min=1.0)
    return u.mul_(size.clamp_(min=eps2) * largest / clip)


ADAFACTOR = Rule(
    "Adafactor",
    "torch.optim.Adafactor; Shazeer and Stern 2018, algorithms 4 and 5",
    ("lr", "beta2_decay", "eps", "d", "weight_decay", "maximize"),
    _update,
    _advance,
    rate=lambda e: 1.0,
    decay=decoupled_decay,
    local=False,
    clock="state",
    power=-1,
    memory=lambda group: 0.0,
    decoupled=lambda group: True,
)
