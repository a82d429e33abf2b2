"""Batch norm whose second derivative costs a few passes over memory; torch's own costs several times its gradient.

With xhat = (x - mean) r, r = (var + eps)^(-1/2), gain w and means <.> over the N values of a channel:

    y = w xhat + b,    x' = w r (y' - <y'> - xhat <y' xhat>),    w' = N <y' xhat>,    b' = N <y'>

where y' is the cotangent of y. For cotangents t of x', v of w' and c of b', differentiating once more gives

    of y':  w r (t - <t> - xhat <t xhat>) + v xhat + c
    of w:   N r (<t y'> - <t> <y'> - <t xhat> <y' xhat>)
    of x:   r (u - <u> - xhat <u xhat>) - w r^2 xhat (<t y'> - <t> <y'> - <t xhat> <y' xhat>)
            with u = (v - w r <t xhat>) y' - w r <y' xhat> t

Sums and the first line are what the kernels of torch's first derivative do already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuromech.compat import apply
from neuromech.eom.double_backward.last import Last
from neuromech.eom.norm_calls import NormCall


def form(call: NormCall) -> Tensor | None:
    """Only for statistics of the batch, a gain, one precision throughout, and more than one value per channel."""
    x, weight = call.input, call.weight
    if weight is None or not call.batch or weight.dtype != x.dtype or x.dtype not in (torch.float32, torch.float64):
        return None
    if not x.is_contiguous() or x.ndim < 2 or x.numel() <= x.shape[1]:
        return None
    return batch_norm(x, weight, call.bias, call.running_mean, call.running_var, call.momentum, call.eps)


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """`torch.batch_norm` in training, twice differentiable. x: [batch, channels, ..]. A third derivative raises."""
    bias = torch.zeros_like(weight) if bias is None else bias
    out: Tensor = apply(_Normed, x, weight, bias, running_mean, running_var, momentum, eps)
    return out


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, r = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, weight, mean, r)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, r = ctx.saved_tensors
        return (*apply(_BatchNormGradient, cotangents[0], x, weight, mean, r, ctx.eps), None, None, None, None)


class _BatchNormGradient(torch.autograd.Function):
    """x', w', b' from y'."""

    @staticmethod
    def forward(
        ctx: Any, y_: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        y_ = y_.contiguous()
        x_, weight_, bias_ = _gradient(y_, x, weight, mean, r, eps)
        ctx.save_for_backward(y_, x, weight, mean, r, weight_, bias_)
        ctx.eps = eps
        return x_, weight_, bias_

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        return (*apply(_BatchNormSecond, *cotangents, *ctx.saved_tensors, ctx.eps), None, None, None)


class _BatchNormSecond(Last):
    """The cotangents of y', x and w."""

    @staticmethod
    def forward(
        ctx: Any,
        t: Tensor,
        v: Tensor,
        c: Tensor,
        y_: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        r: Tensor,
        sum_y_xhat: Tensor,
        sum_y: Tensor,
        eps: float,
    ) -> tuple[Tensor, ...]:
        t, count = t.contiguous(), x.numel() // x.shape[1]
        over_y, sum_t_xhat, sum_t = _gradient(t, x, weight, mean, r, eps)
        zero, one = torch.zeros_like(mean), torch.ones_like(r)
        _, sum_t_y, _ = torch.ops.aten.native_batch_norm_backward(
            t, y_, None, None, None, zero, one, True, eps, [False, True, False]
        )
        t_xhat, y_xhat = sum_t_xhat / count, sum_y_xhat / count
        covariance = sum_t_y / count - sum_t / count * sum_y / count - t_xhat * y_xhat
        of_y, of_t = v - weight * r * t_xhat, -weight * r * y_xhat
        mean_u = (of_y * sum_y + of_t * sum_t) / count
        of_xhat = of_y * y_xhat + of_t * t_xhat + weight * r * covariance
        shape = (1, -1, *[1] * (x.ndim - 2))
        slope = -r * r * of_xhat
        shift = -r * mean_u - slope * mean
        over_x = (x * slope.view(shape)).add_(shift.view(shape)).addcmul_(t, (r * of_t).view(shape))
        over_x.addcmul_(y_, (r * of_y).view(shape))
        over_y.addcmul_(x, (v * r).view(shape)).add_((c - v * r * mean).view(shape))
        return over_y, over_x, count * r * covariance


def _gradient(y_: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor, eps: float) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = torch.ops.aten.native_batch_norm_backward(
        y_, x, weight, None, None, mean, r, True, eps, [True, True, True]
    )
    return found
