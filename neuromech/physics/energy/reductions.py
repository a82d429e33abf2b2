"""Reductions and pools written in operators that have rules, for the table of `composites.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Join = Callable[[Tensor, Tensor], Tensor]


def _halved(join: Join, x: Tensor, dim: int) -> Tensor:
    """All entries along `dim`, joined two by two: log2(n) operators."""
    while (n := x.shape[dim]) > 1:
        pairs = join(x.narrow(dim, 0, n // 2), x.narrow(dim, n // 2, n // 2))
        x = torch.cat([pairs, x.narrow(dim, n - 1, 1)], dim) if n % 2 else pairs
    return x


def reduced(join: Join, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    if dim is None or dim == [] or dim == ():
        return _halved(join, x.reshape(-1), 0).reshape([1] * x.ndim if keepdim else [])
    dims = sorted({d % x.ndim for d in ([dim] if isinstance(dim, int) else dim)}, reverse=True)
    for d in dims:
        x = _halved(join, x, d)
    return x if keepdim else x.squeeze(tuple(dims))


def _scanned(join: Join, x: Tensor, dim: int) -> Tensor:
    """All up to each entry along `dim`, joined: log2(n) operators."""
    shift, n = 1, x.shape[dim]
    while shift < n:
        later = join(x.narrow(dim, shift, n - shift), x.narrow(dim, 0, n - shift))
        x, shift = torch.cat([x.narrow(dim, 0, shift), later], dim), 2 * shift
    return x


def prod(x: Tensor, *args: Any, dtype: Any = None) -> Any:
    return NotImplemented if dtype is not None else reduced(torch.mul, x, *args)


def cumprod(x: Tensor, dim: int, *, dtype: Any = None) -> Any:
    return NotImplemented if dtype is not None else _scanned(torch.mul, x, dim)


def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    return _scanned(torch.logaddexp, x, dim)


def extremum(join: Join, places: Callable[..., Tensor]) -> Callable[..., Any]:
    """max and min: of two tensors, of all entries, or along an axis with the places."""

    def rule(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], Tensor):
            return join(x, args[0])
        if not args and not kwargs:
            return reduced(join, x)
        return reduced(join, x, *args, **kwargs), places(x, *args, **kwargs)

    return rule


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


# -- pools: the largest entry of every window --------------------------------------------------------------------------


def _windowed(x: Tensor, windows: Sequence[Sequence[list[int]]]) -> Tensor:
    """[..., *numbers of windows, entries] of the last axes of x, each with its windows, lists of places."""
    for k, axis in enumerate(windows):
        size = max(map(len, axis))
        # What a window lacks, at a border, it has twice: the largest stays the largest.
        places = torch.tensor([w + w[-1:] * (size - len(w)) for w in axis], device=x.device)
        at = k - len(windows) - (k > 0)  # behind the axes: the entries so far
        x = x.index_select(at, places.reshape(-1)).unflatten(at, places.shape).movedim(at, -1)
        x = x.flatten(-2) if k else x
    return x


def _largest(x: Tensor, windows: Sequence[Sequence[list[int]]], has_places: bool) -> Any:
    if any(not window for axis in windows for window in axis):
        return NotImplemented
    entries = _windowed(x, windows)
    value = reduced(torch.maximum, entries, [-1])
    if not has_places:
        return value
    shape = x.shape[-len(windows) :]
    places = _windowed(torch.arange(shape.numel(), device=x.device).reshape(shape), windows)
    return value, places.expand(entries.shape).gather(-1, entries.argmax(-1, keepdim=True)).squeeze(-1)


def _strided(n: int, size: int, stride: int, padding: int, dilation: int, ceil: bool) -> list[list[int]]:
    room = n + 2 * padding - dilation * (size - 1) - 1
    count = (room + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (count - 1) * stride >= n + padding:  # it would begin behind the last entry
        count -= 1
    starts = [k * stride - padding for k in range(count)]
    return [[i for j in range(size) if 0 <= (i := s + j * dilation) < n] for s in starts]


def max_pool(axes: int, has_places: bool = False) -> Callable[..., Any]:
    def rule(
        x: Tensor, size: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), ceil: bool = False
    ) -> Any:
        settings = [list(s) * (axes if len(s) == 1 else 1) for s in (size, stride or size, padding, dilation)]
        each = zip(x.shape[-axes:], *settings, strict=True)
        return _largest(x, [_strided(n, k, by, pad, apart, ceil) for n, k, by, pad, apart in each], has_places)

    return rule


def adaptive_max_pool(x: Tensor, size: Sequence[int]) -> Any:
    each = zip(x.shape[-len(size) :], size, strict=True)
    return _largest(x, [[list(range(k * n // m, -(-(k + 1) * n // m))) for k in range(m)] for n, m in each], True)
