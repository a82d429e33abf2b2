"""Optimizers. See `neuromech.compat`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor


def muon_rate(lr: float, adjust: str | None, shape: torch.Size) -> float:
    """The learning rate that `torch.optim.Muon` uses for a weight of this shape."""
    from torch.optim import _muon

    return float(_muon._adjust_lr(lr, adjust, shape))


def muon_direction(update: Tensor, coefficients: Iterable[float], steps: int, eps: float) -> Tensor:
    """The orthogonalized update of `torch.optim.Muon`: torch's own function, so that it is the same to the last bit."""
    from torch.optim import _muon

    return _muon._zeropower_via_newtonschulz(update, cast("tuple[float, float, float]", coefficients), steps, eps)
