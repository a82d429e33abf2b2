"""Losses written in operators that have rules, for the table of `composites.py`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _averaged(x: Tensor, reduction: int) -> Tensor:
    return x if reduction == 0 else x.mean() if reduction == 1 else x.sum()


def huber(x: Tensor, y: Tensor, reduction: int = 1, delta: float = 1.0) -> Tensor:
    far = (x - y).abs()
    near = torch.clamp(far, max=delta)
    return _averaged(near * (far - 0.5 * near), reduction)


def smooth_l1(x: Tensor, y: Tensor, reduction: int = 1, beta: float = 1.0) -> Tensor:
    if beta == 0:
        return _averaged((x - y).abs(), reduction)
    return huber(x, y, reduction, beta) * (1 / beta)


def _of_classes(x: Tensor) -> int:
    """The axis of the classes."""
    return 1 if x.ndim > 1 else 0


def _picked(x: Tensor, y: Tensor, weight: Any, ignored: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of every target: the entry of x at its class, the share of it in a mean, and whether it counts."""
    kept, axis = y != ignored, _of_classes(x)
    of = torch.where(kept, y, 0)
    share = kept.to(x.dtype) if weight is None else kept * weight[of]
    return x.gather(axis, of.unsqueeze(axis)).squeeze(axis), share, kept


def nll(x: Tensor, y: Tensor, weight: Any, reduction: int, ignored: int) -> Any:
    at, share, _ = _picked(x, y, weight, ignored)
    loss = -at * share
    return loss.sum() / share.sum() if reduction == 1 else _averaged(loss, reduction), share.sum()


def cross_entropy(
    x: Tensor, y: Tensor, weight: Any = None, reduction: int = 1, ignored: int = -100, smoothing: float = 0.0
) -> Any:
    axis = _of_classes(x)
    scale = 1 if weight is None else weight.reshape([-1] + [1] * (x.ndim - 1 - axis))
    log_p = torch.log_softmax(x, axis)
    if y.is_floating_point():
        smooth = y * (1 - smoothing) + smoothing / x.shape[axis] if smoothing else y
        loss = -(log_p * smooth * scale).sum(axis)
        return _averaged(loss, reduction)
    at, share, kept = _picked(log_p, y, weight, ignored)
    loss = -at * share
    if smoothing:
        loss = loss * (1 - smoothing) - (log_p * scale).sum(axis) * kept * (smoothing / x.shape[axis])
    return loss.sum() / share.sum() if reduction == 1 else _averaged(loss, reduction)


def binary_cross_entropy_with_logits(
    x: Tensor, y: Tensor, weight: Any = None, of_ones: Any = None, reduction: int = 1
) -> Any:
    scale = 1 if of_ones is None else (of_ones - 1) * y + 1
    loss = (1 - y) * x + scale * F.softplus(-x, 1.0, 40.0)
    return _averaged(loss if weight is None else loss * weight, reduction)


def _log_from(x: Tensor, floor: float) -> Tensor:
    """log x, `floor` where that is less; without infinities at 0."""
    is_inside = x > max(math.exp(floor), torch.finfo(x.dtype).tiny)
    return torch.where(is_inside, torch.log(torch.where(is_inside, x, torch.ones_like(x))), floor)


def binary_cross_entropy(x: Tensor, y: Tensor, weight: Any = None, reduction: int = 1) -> Any:
    loss = (y - 1) * _log_from(1 - x, -100.0) - y * _log_from(x, -100.0)
    return _averaged(loss if weight is None else loss * weight, reduction)


def soft_margin(x: Tensor, y: Tensor, reduction: int = 1) -> Tensor:
    return _averaged(F.softplus(-y * x, 1.0, 40.0), reduction)


def multi_margin(x: Tensor, y: Tensor, p: Any = 1, margin: Any = 1.0, weight: Any = None, reduction: int = 1) -> Any:
    axis = _of_classes(x)
    of = y.unsqueeze(axis)
    missed = torch.relu(margin - x.gather(axis, of) + x)
    missed = missed if p == 1 else missed * missed
    missed = missed * (torch.arange(x.shape[axis], device=x.device) != of)
    return _averaged((missed if weight is None else missed * weight[of]).mean(axis), reduction)
