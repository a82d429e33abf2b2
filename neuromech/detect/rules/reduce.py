"""Reductions and pooling: many entries become one, so they must scale alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import prod
from typing import Any

from neuromech.detect.axes import Axis, Label, axis
from neuromech.detect.expr import Data, Expr
from neuromech.detect.interpret import Abstract, Event, Interpreter, Unsupported


def _dims(x: Abstract, dim: int | Sequence[int] | None) -> list[int]:
    if dim is None or dim == []:
        return list(range(x.ndim))
    return sorted(d % x.ndim for d in ([dim] if isinstance(dim, int) else dim))


def _kept(x: Abstract, dims: Sequence[int], keepdim: bool) -> list[Axis]:
    return [() if d in dims else a for d, a in enumerate(x.axes) if keepdim or d not in dims]


def summed(mean: bool) -> Callable[..., Abstract]:
    def rule(
        s: Interpreter, x: Abstract, dim: int | Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Abstract:
        """Sum or mean over axes: linear, with the same weight for every entry."""
        dims = _dims(x, dim)
        over = x.along(dims)
        # Data, too, may be constant along an axis (after `expand`), which then counts as often as it is long.
        shift = x.shift.summed(over) * (Fraction(1, prod(a.n for a in over)) if mean else 1)
        return s.result(_kept(x, dims, keepdim), s.scaling.uniform(x.scale, over), shift)

    return rule


def extremum(s: Interpreter, x: Abstract, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Abstract:
    """The largest or smallest entry: commutes with a common factor and with a common shift."""
    dims = _dims(x, dim)
    over = x.along(dims)
    s.translation.vanish(x.shift, along=over)
    return s.result(_kept(x, dims, keepdim), s.scaling.uniform(x.scale, over), x.shift.averaged(over))


def vector_norm(
    s: Interpreter,
    x: Abstract,
    ord: float = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Abstract:
    """A norm is homogeneous of degree 1; that of order 0 counts, and is none."""
    if ord == 0:
        raise Unsupported("the norm of order 0 counts entries")
    dims = _dims(x, dim)
    s.translation.vanish(x.shift)
    s.scaling.events.append(Event("passes", f"the norm{s.at}", x.scale))
    return s.result(_kept(x, dims, keepdim), s.scaling.uniform(x.scale, x.along(dims)))


def max_pool(spatial: int) -> Callable[..., Any]:
    """The largest entry of every window of the last `spatial` axes; where it stood, if that is asked for."""

    def rule(s: Interpreter, x: Abstract, *_: Any, **__: Any) -> Abstract | list[Abstract]:
        assert s.node is not None
        out, over = _windows(s, x, spatial)
        local, constant = x.shift.split(over)
        s.translation.vanish(local)
        y = s.result(out, s.scaling.uniform(x.scale, over), constant)
        return [y, *(s.constant(v.shape, v) for v in s.node.outputs[1:])] if s.node.outputs[1:] else y

    return rule


def mean_pool(spatial: int) -> Callable[..., Any]:
    """The mean of every window of the last `spatial` axes."""

    def rule(
        s: Interpreter,
        x: Abstract,
        size: Sequence[int],
        stride: Any = None,
        padding: int | Sequence[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Abstract:
        out, over = _windows(s, x, spatial)
        padded = any(padding) if isinstance(padding, (list, tuple)) else bool(padding)
        local, constant = x.shift.split(over)
        # A true mean leaves a constant alone; zeros that are counted in, or a divisor of incomplete windows, do not.
        if (padded and count_include_pad) or ((padded or ceil_mode) and divisor_override):
            local, constant = x.shift, Expr()
        window = Data((("pool", s.node),), (*over, *(q for a in out[-spatial:] for q in a)))
        entries = prod(size) if len(size) == spatial else size[0] ** spatial
        shift = local.times(window).summed(over) + constant * Fraction(entries, divisor_override or entries)
        return s.result(out, s.scaling.uniform(x.scale, over), shift)

    return rule


def _windows(s: Interpreter, x: Abstract, spatial: int) -> tuple[list[Axis], list[Label]]:
    """The axes after pooling, and the indices that are pooled."""
    assert s.node is not None
    kept = x.ndim - spatial
    return [*x.axes[:kept], *(axis(n) for n in s.node.outputs[0].shape[kept:])], x.along(range(kept, x.ndim))


TABLE: dict[str, Callable[..., Any]] = {
    "sum": summed(mean=False),
    "mean": summed(mean=True),
    "amax": extremum,
    "amin": extremum,
    "linalg_vector_norm": vector_norm,
    **{f"{name}_pool{d}d": mean_pool(d) for d in (1, 2, 3) for name in ("avg", "adaptive_avg")},
    **{f"{name}_pool{d}d": max_pool(d) for d in (1, 2, 3) for name in ("max", "adaptive_max")},
    **{f"max_pool{d}d_with_indices": max_pool(d) for d in (1, 2, 3)},
}
