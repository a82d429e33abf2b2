"""Optimizers. See `neuromech.compat`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor


def muon_direction(update: Tensor, coefficients: Iterable[float], steps: int, eps: float) -> Tensor:
    """The orthogonalized update of `torch.optim.Muon`: torch's own function, so that it is the same to the last bit.

    Before torch 2.9, which had no Muon, the same is written out here.
    """
    if not hasattr(torch.optim, "Muon"):
        return newton_schulz(update, coefficients, steps, eps)
    from torch.optim import _muon

    return _muon._zeropower_via_newtonschulz(update, cast("tuple[float, float, float]", coefficients), steps, eps)


def newton_schulz(update: Tensor, coefficients: Iterable[float], steps: int, eps: float) -> Tensor:
    """The odd polynomial of degree five in the singular values of `update`, `steps` times over, in bfloat16."""
    first, third, fifth = coefficients
    is_tall = update.shape[0] > update.shape[1]
    x = update.bfloat16().T if is_tall else update.bfloat16()
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return x.T if is_tall else x
