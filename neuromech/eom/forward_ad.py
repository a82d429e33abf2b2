"""Dual numbers, without what torch says to itself when it first makes one."""

from __future__ import annotations

import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from neuromech.compat import load_forward_mode


def dual(x: Tensor, tangent: Tensor) -> Tensor:
    """x + epsilon tangent, inside of a `forward_ad.dual_level`."""
    load_forward_mode()
    dual: Tensor = forward_ad.make_dual(x, tangent)
    return dual
