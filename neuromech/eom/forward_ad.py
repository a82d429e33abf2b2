"""Dual numbers, without what torch says to itself when it first makes one."""

from __future__ import annotations

import warnings
from functools import cache

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor


@cache
def prepare_duals() -> None:
    """Make the first dual number of the process: torch then loads rules by a part that it calls deprecated itself."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))


def dual(x: Tensor, tangent: Tensor) -> Tensor:
    """x + epsilon tangent, inside of a `forward_ad.dual_level`."""
    prepare_duals()
    return forward_ad.make_dual(x, tangent)
