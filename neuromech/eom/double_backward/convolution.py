"""Convolution whose second derivative costs two gradients; torch's own takes roundabout ways to the same.

A convolution c(x, w) is bilinear, and so is its backward: with y' the cotangent of y, x' = c_x(y', w), w' = c_w(x, y').
For cotangents t of x' and v of w', differentiating once more gives

    of y': c(t, w) + c(x, v)        of x: c_x(y', v)        of w: c_w(t, y')

and the last two are one call of the kernel of the first backward, at (t, v) in place of (x, w).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuromech.compat import apply
from neuromech.eom.double_backward.last import Last

Sizes = tuple[int, ...]
ConvolutionGeometry = tuple[
    Sizes, Sizes, Sizes, bool, Sizes, int
]  # stride, padding, dilation, transposed, output padding, groups


def applies(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """One precision throughout, and no autocast, which torch's own convolution only knows how to obey."""
    same = input.dtype == weight.dtype and (bias is None or bias.dtype == weight.dtype)
    plain = same and input.dtype in (torch.float32, torch.float64) and input.ndim == weight.ndim
    return plain and not torch.is_autocast_enabled(input.device.type)


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    """Convolution, twice differentiable. x: [batch, channels, ..]. A third derivative raises."""
    out: Tensor = apply(_Convolved, x, weight, bias, (stride, padding, dilation, False, (0,) * len(stride), groups))
    return out


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: ConvolutionGeometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.options, ctx.biased = options, bias is not None
        return torch.convolution(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (y_,) = cotangents
        need = ctx.needs_input_grad
        x_, w_ = apply(_ConvolutionGradient, y_, x, weight, ctx.options, (need[0], need[1]))
        bias_ = y_.sum([0, *range(2, y_.ndim)]) if ctx.biased and need[2] else None
        return x_, w_, bias_, None


class _ConvolutionGradient(torch.autograd.Function):
    """x' and w' from y', those of them that are needed."""

    @staticmethod
    def forward(
        ctx: Any, y_: Tensor, x: Tensor, weight: Tensor, options: ConvolutionGeometry, need: tuple[bool, bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y_, x, weight)
        ctx.options = options
        return _gradient(y_, x, weight, options, need)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        return (
            *apply(_ConvolutionSecond, *cotangents, *ctx.saved_tensors, ctx.options, ctx.needs_input_grad[:3]),
            None,
            None,
        )


class _ConvolutionSecond(Last):
    """The cotangents of y', x and w, those of them that are needed; t and v may be None for zero."""

    @staticmethod
    def forward(
        ctx: Any,
        t: Tensor | None,
        v: Tensor | None,
        y_: Tensor,
        x: Tensor,
        weight: Tensor,
        options: ConvolutionGeometry,
        need: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, ...]:
        over_y = None
        if need[0] and t is not None:
            over_y = torch.convolution(t, weight, None, *options)
        if need[0] and v is not None:
            of_weight = torch.convolution(x, v, None, *options)
            over_y = of_weight if over_y is None else over_y.add_(of_weight)
        rest = (v is not None and need[1], t is not None and need[2])
        at = (x if t is None else t, weight if v is None else v)
        return over_y, *(_gradient(y_, *at, options, rest) if any(rest) else (None, None))


def _gradient(
    y_: Tensor, x: Tensor, weight: Tensor, options: ConvolutionGeometry, need: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    found = torch.ops.aten.convolution_backward(y_, x, weight, None, *options, [*need, False])
    return found[0] if need[0] else None, found[1] if need[1] else None
