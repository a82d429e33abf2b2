"""Losses and reductions written in operators that have rules, for the table of `composites.py`."""

from __future__ import annotations

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


def cross_entropy(
    x: Tensor, y: Tensor, weight: Any = None, reduction: int = 1, ignored: int = -100, smoothing: float = 0.0
) -> Any:
    if y.is_floating_point() or smoothing or not 0 < y.ndim == x.ndim - 1:
        return NotImplemented
    kept = y != ignored
    of = torch.where(kept, y, 0)
    share = kept.to(x.dtype) if weight is None else kept * weight[of]
    loss = -torch.log_softmax(x, 1).gather(1, of.unsqueeze(1)).squeeze(1) * share
    return loss.sum() / share.sum() if reduction == 1 else _averaged(loss, reduction)


def binary_cross_entropy(x: Tensor, y: Tensor, weight: Any = None, of_ones: Any = None, reduction: int = 1) -> Any:
    given = weight is not None or of_ones is not None
    return NotImplemented if given else _averaged((1 - y) * x + F.softplus(-x), reduction)


def scatter_reduce(x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True) -> Any:
    if reduce not in ("sum", "mean"):
        return NotImplemented
    count = torch.zeros_like(x).scatter_add(dim, index, torch.ones_like(src))
    out = torch.scatter_add(x if include_self else x * (count == 0), dim, index, src)
    return out if reduce == "sum" else out / torch.clamp(count + include_self, min=1)


def index_reduce(x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True) -> Any:
    along = [-1 if d == dim % x.ndim else 1 for d in range(x.ndim)]
    index = index.reshape(along).expand(src.shape)
    return scatter_reduce(x, dim, index, src, reduce, include_self=include_self)
