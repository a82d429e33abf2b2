"""Muon: momentum whose matrix is made orthogonal. The orthogonalization is torch's own, run once more.

Sources: `torch.optim.Muon`; Jordan et al. 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from neuromech.compat import muon_direction
from neuromech.optimizers.accumulation import accumulated_orthogonal, geometric
from neuromech.optimizers.rule import Elements, Rule, State, decoupled_decay
from neuromech.optimizers.settings import ParamGroup, number

BUFFER = "momentum_buffer"


def muon_rate(lr: float, adjust: str | None, shape: Sequence[int]) -> float:
    """The learning rate that `torch.optim.Muon` uses for a weight of this shape."""
    rows, columns = shape[:2]
    if adjust in (None, "original"):
        return lr * math.sqrt(max(1.0, rows / columns))
    return lr * 0.2 * math.sqrt(max(rows, columns)) if adjust == "match_rms_adamw" else lr


def _advance(e: Elements) -> dict[str, Tensor]:
    return {BUFFER: e.old(BUFFER).lerp(e.gradient, 1.0 - e.number("momentum"))}


def _update(e: Elements, after: State) -> Tensor:
    """The rate, which depends on the shape, is in u."""
    told, buffer, p = e.group, after[BUFFER], e.parameter
    mixed = e.gradient.lerp(buffer, e.number("momentum")) if told["nesterov"] else buffer
    shaped = muon_direction(mixed, told["ns_coefficients"], told["ns_steps"], told["eps"])
    return shaped.to(p.dtype).mul_(muon_rate(e.number("lr"), told["adjust_lr_fn"], p.shape))


def _accumulation(group: ParamGroup, shape: Sequence[int]) -> float:
    mu = number(group["momentum"])
    ahead = 1.0 - mu if group["nesterov"] else 0.0  # the share of the newest gradient that goes past the buffer
    weights = (1.0 - ahead) * geometric(mu, 1.0 - mu)
    weights[0] += ahead
    return accumulated_orthogonal(weights, shape)


def _unit(group: ParamGroup, shape: Sequence[int]) -> float:
    """A matrix with singular values of one, at its rate."""
    rate = muon_rate(1.0, group["adjust_lr_fn"], shape)
    return rate**2 * min(shape[0], math.prod(shape[1:])) / math.prod(shape) * _accumulation(group, shape)


def _flow(group: ParamGroup) -> dict[str, Any]:
    told = {"momentum": number(group["momentum"]), "nesterov": bool(group["nesterov"]), "eps": number(group["eps"])}
    shape = {"coefficients": tuple(group["ns_coefficients"]), "iterations": int(group["ns_steps"])}
    decay = {"weight_decay": number(group["weight_decay"]), "decoupled": True}
    return {"kind": "muon", "adjust": group["adjust_lr_fn"], **told, **shape, **decay}


MUON = Rule(
    "Muon",
    "torch.optim.Muon; Jordan et al. 2024",
    ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"),
    _update,
    _advance,
    rate=lambda e: 1.0,
    decay=decoupled_decay,
    local=False,
    decoupled=lambda group: True,
    accumulation=_accumulation,
    unit=_unit,
    fixed=True,
    flow=_flow,
)
