"""ReLU whose second derivative is one pass over memory; torch's own also writes out that it does not depend on x."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuromech.compat import apply
from neuromech.eom.double_backward.last import Last


def relu(x: Tensor) -> Tensor:
    """max(x, 0), twice differentiable. A third derivative raises."""
    out: Tensor = apply(_Rectified, x)
    return out


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.relu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        out: Tensor = apply(_Masked, cotangents[0], y.detach())
        return out


class _Masked(torch.autograd.Function):
    """The cotangent where y > 0, and 0 elsewhere; it does not depend on y between kinks."""

    @staticmethod
    def forward(ctx: Any, y_: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        out: Tensor = torch.ops.aten.threshold_backward(y_, y, 0)
        return out

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        out: Tensor = apply(_MaskedAgain, *cotangents, *ctx.saved_tensors)
        return out, None


class _MaskedAgain(Last):
    @staticmethod
    def forward(ctx: Any, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = torch.ops.aten.threshold_backward(t, y, 0)
        return out
