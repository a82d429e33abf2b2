"""Transposes of linear operators, written in operators that stand in forward passes too.

Autograd has operators of its own for them (`convolution_backward`). The sweep is a forward pass to whoever trains
through it, so it is put into words that forward passes have: detection of symmetries then reads it like any model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _convolution(
    g: Tensor, x: Tensor, w: Tensor, bias: Any, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    transposed: bool, extra: Sequence[int], groups: int, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """Of the input alone: the convolution with the other sense. `extra`: what a stride has left over of the input."""
    if transposed or any(wanted[1:]):
        return NotImplemented
    sizes = zip(g.shape[2:], w.shape[2:], x.shape[2:], stride, padding, dilation, strict=True)
    left = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for m, k, n, s, p, d in sizes]
    return aten.convolution(g, w, None, stride, padding, dilation, True, left, groups), None, None


def _slice(g: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int) -> Any:
    """Zeros before and after."""
    if step != 1:
        return NotImplemented
    n = sizes[dim]
    start = max(start + n, 0) if start < 0 else min(start, n)

    def zeros(count: int) -> list[Tensor]:
        return [g.new_zeros([count if k == dim % g.ndim else m for k, m in enumerate(g.shape)])] if count else []

    parts = [*zeros(start), g, *zeros(n - start - g.shape[dim])]
    return torch.cat(parts, dim) if len(parts) > 1 else g.clone()


TRANSPOSES: dict[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: _convolution,
    aten.slice_backward.default: _slice,
}
