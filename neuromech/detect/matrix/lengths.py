"""Lengths, and what is divided by them: only rotations go unseen (see inner.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuromech.detect.axes import count
from neuromech.detect.matrix.products import by_entries as by_entries
from neuromech.detect.matrix.products import keeps_axes as keeps_axes
from neuromech.detect.matrix.walk import Indexed, Walk


def vector_norm(
    m: Walk, x: Indexed, order: Any = 2, dim: int | Sequence[int] | None = None, keepdim: bool = False, **_: Any
) -> Any:
    """The length, of order 2; any other order depends on single entries."""
    if order not in (None, 2):
        return by_entries(m)
    whole = dim is None or dim == []
    return m.inner(x, x, range(x.ndim) if whole else [dim] if isinstance(dim, int) else dim or (), keepdim)


def norm(m: Walk, x: Indexed, order: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    """As `vector_norm`; over two axes it may be a matrix norm of that order."""
    one = isinstance(dim, int) or (isinstance(dim, (list, tuple)) and len(dim) == 1)
    return vector_norm(m, x, order if one or order is None else 0, dim, keepdim)


def rms_norm(
    m: Walk, x: Indexed, shape: Sequence[int], gain: Indexed | None = None, eps: float | None = None
) -> Indexed:
    """x over its length; with a gain for every entry nothing may be mixed."""
    if gain is not None:
        return keeps_axes(m, x, gain)
    m.inner(x, x, range(x.ndim - len(shape), x.ndim))
    return x


def cosine_similarity(m: Walk, x: Indexed, y: Indexed, dim: int = 1, eps: float = 1e-8) -> Any:
    """x y / (|x| |y|)."""
    if list(map(count, x.axes)) != list(map(count, y.axes)):
        return by_entries(m)
    for t in (x, y):
        m.inner(t, t, [dim])
    return m.inner(x, y, [dim])
