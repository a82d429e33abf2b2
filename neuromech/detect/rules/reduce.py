"""Reductions and pooling: many entries become one, so they must scale alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import prod
from typing import Any

from neuromech.detect.axes import Axis, axis
from neuromech.detect.expr import Data
from neuromech.detect.interpret import Abstract, Event, Interpreter


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
        n = Fraction(prod(a.n for a in over))
        # Where the data does not vary along the axes, the sum is n times the mean of the function.
        varied, even = x.shift.split(over, data_only=True)
        shift = (varied.hide(over) + even.averaged(over) * n) * (1 / n if mean else 1)
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
    """A norm is homogeneous of degree 1."""
    dims = _dims(x, dim)
    s.translation.vanish(x.shift)
    s.scaling.events.append(Event("passes", f"the norm{s.at}", x.scale))
    return s.result(_kept(x, dims, keepdim), s.scaling.uniform(x.scale, x.along(dims)))


def pool(spatial: int, largest: bool) -> Callable[..., Any]:
    """Pooling over windows of the last `spatial` axes: by their maximum, or by their mean."""

    def rule(s: Interpreter, x: Abstract, *args: Any, **kwargs: Any) -> Abstract | list[Abstract]:
        assert s.node is not None
        dims = range(x.ndim - spatial, x.ndim)
        over = x.along(dims)
        out = [*x.axes[: x.ndim - spatial], *(axis(n) for n in s.node.outputs[0].shape[x.ndim - spatial :])]
        local, constant = x.shift.split(over)
        padding = args[2] if len(args) > 2 else kwargs.get("padding", 0)
        if largest:
            s.translation.vanish(local)
            shift = constant
        else:
            where = Data(("pool", s.node), tuple(q for a in out[-spatial:] for q in a))
            padded = any(padding) if isinstance(padding, (list, tuple)) else bool(padding)
            shift = local.times(where).hide(over) + (constant.times(where) if padded else constant)
        y = s.result(out, s.scaling.uniform(x.scale, over), shift)
        indices = [s.constant(v.shape, v) for v in s.node.outputs[1:]]
        return [y, *indices] if indices else y

    return rule


TABLE: dict[str, Callable[..., Any]] = {
    "sum": summed(mean=False),
    "mean": summed(mean=True),
    "amax": extremum,
    "amin": extremum,
    "linalg_vector_norm": vector_norm,
    **{
        f"{kind}_pool{d}d": pool(d, largest="max" in kind)
        for d in (1, 2, 3)
        for kind in ("max", "avg", "adaptive_max", "adaptive_avg")
    },
}
