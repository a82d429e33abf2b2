"""Reductions and pooling: many entries become one, so they must scale alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import accumulate
from math import prod
from typing import Any

from neuromech.detect import told_apart
from neuromech.detect.abstract import Abstract, Event, Unsupported
from neuromech.detect.axes import Axis, axis, count, leaves
from neuromech.detect.data import Data
from neuromech.detect.expr import Expr
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import lengths
from neuromech.detect.matrix import movement as mixing
from neuromech.detect.matrix.products import by_entries
from neuromech.detect.operator import define
from neuromech.detect.operators.index import insert, length, stack, unbind
from neuromech.detect.operators.linear import plus
from neuromech.detect.operators.movement import reshaped
from neuromech.detect.operators.pointwise import maximum

FEW = 8  # entries of an axis that are told one by one where that says more


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
        y = s.result(_kept(x, dims, keepdim), s.scaling.uniform(x.scale, over), shift)
        return replace(y, data=x.data.reduced("mean" if mean else "sum", over))

    return rule


def extremum(s: Interpreter, x: Abstract, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Abstract:
    """The largest or smallest entry: commutes with a common factor and with a common shift."""
    dims = _dims(x, dim)
    over = x.along(dims)
    s.translation.vanish(x.shift, along=over)
    return s.result(_kept(x, dims, keepdim), s.scaling.uniform(x.scale, over), x.shift.averaged(over), of=[x])


def both(s: Interpreter, x: Abstract, dim: int, keepdim: bool = False) -> list[Abstract]:
    """The extreme entry along an axis, and where it stands."""
    y = extremum(s, x, dim, keepdim)
    return [y, s.result(y.axes)]


def extreme(s: Interpreter, x: Abstract, *others: Any, **named: Any) -> Any:
    """max(x), max(x, dim) or max(x, y)."""
    if others and isinstance(others[0], Abstract):
        return maximum(s, x, *others)
    return both(s, x, *others, **named) if others or named else extremum(s, x)


def kth(s: Interpreter, x: Abstract, k: int, dim: int = -1, keepdim: bool = False) -> list[Abstract]:
    """The k-th smallest entry along an axis, and where it stands."""
    return both(s, x, dim, keepdim)


def both_ends(s: Interpreter, x: Abstract, *, dim: int | None = None, keepdim: bool = False) -> list[Abstract]:
    """The smallest and the largest entry."""
    return [extremum(s, x, dim, keepdim), extremum(s, x, dim, keepdim)]


def running(s: Interpreter, x: Abstract, dim: int) -> list[Abstract]:
    """The extreme of all entries up to each, and where it stands: as a maximum, at every place."""
    over = x.along([dim])
    y = extremum(s, x, dim, True)
    axes = [axis(prod(a.n for a in x.axes[dim])) if d == dim % x.ndim else a for d, a in enumerate(x.axes)]
    assert over or y.ndim
    return [s.result(axes, y.scale, y.shift), s.result(axes)]


def windows(s: Interpreter, x: Abstract, dim: int, size: int, step: int) -> Abstract:
    """Windows of one axis, their entries along a new last one."""
    assert s.node is not None
    over, where, inside = x.along([dim]), axis(s.node.outputs[0].shape[dim]), axis(size)
    local, constant = x.shift.split(over)
    patches = Data((("windows", s.node),), (*over, *where, *inside))
    axes = [where if d == dim % x.ndim else a for d, a in enumerate(x.axes)]
    return s.result([*axes, inside], s.scaling.uniform(x.scale, over), local.times(patches).summed(over) + constant)


def place(s: Interpreter, x: Abstract, dim: int | None = None, keepdim: bool = False) -> Abstract:
    """Where the extreme entry stands."""
    return s.result(extremum(s, x, dim, keepdim).axes)


def ordered(s: Interpreter, x: Abstract, *args: Any, **named: Any) -> Any:
    """Entries of one axis in the order of their size (sort, topk): a common factor and a common shift pass."""
    assert s.node is not None
    shape = s.node.outputs[0].shape
    dim = next((d for d in range(x.ndim) if shape[d] != prod(a.n for a in x.axes[d])), None)
    if dim is None:
        dim = (
            next((a for a in args[1 if "topk" in s.node.op else 0 :] if type(a) is int), named.get("dim", -1)) % x.ndim
        )
    over = x.along([dim])
    s.translation.vanish(x.shift, along=over)
    axes = [axis(shape[dim]) if d == dim else a for d, a in enumerate(x.axes)]
    y = s.result(axes, s.scaling.uniform(x.scale, over), x.shift.averaged(over))
    made = [y, s.result(axes)]
    return made if len(s.node.outputs) > 1 else made[1 if "arg" in s.node.op else 0]


def counted(s: Interpreter, x: Abstract, *_: Any, **__: Any) -> Abstract:
    """How many entries have which value."""
    assert s.node is not None
    s.pin(x)
    return s.result([axis(n) for n in s.node.outputs[0].shape])


def cumulative(s: Interpreter, x: Abstract, dim: int, *, dtype: Any = None) -> Abstract:
    """Sums of all entries up to each; of few, one after the other."""
    assert s.node is not None
    if 1 < length(x, dim) <= FEW and x.shift:
        sums = unbind(s, x, dim)
        return stack(s, list(accumulate(sums, partial(plus, s))), dim)
    over, new = x.along([dim]), axis(prod(a.n for a in x.axes[dim]))
    steps = Data((("cumulative", s.node),), (*over, *new))
    axes = [new if d == dim % x.ndim else a for d, a in enumerate(x.axes)]
    return s.result(axes, s.scaling.uniform(x.scale, over), x.shift.times(steps).summed(over))


def log_sum_exp(s: Interpreter, x: Abstract, dim: int | Sequence[int], keepdim: bool = False) -> Abstract:
    """A smooth maximum: a common shift passes, no factor does."""
    s.scaling.vanish(x.scale)
    return extremum(s, x, dim, keepdim)


def spread(degree: int, also_mean: bool = False) -> Callable[..., Any]:
    """Variance or standard deviation: no shift is seen, a common factor passes."""

    def rule(
        s: Interpreter,
        x: Abstract,
        dim: Any = None,
        unbiased: Any = None,
        keepdim: bool = False,
        *,
        correction: Any = None,
    ) -> Any:
        dims = _dims(x, None if isinstance(dim, bool) else dim)
        over = x.along(dims)
        s.translation.vanish(x.shift, along=over)
        s.translation.events.append(Event("absorbs", f"the variance{s.at} does not see a common shift", x.shift))
        s.scaling.events.append(Event("passes", f"the variance{s.at}", x.scale))
        y = s.result(_kept(x, dims, keepdim), s.scaling.uniform(x.scale, over) * degree)
        return [y, summed(mean=True)(s, x, dims, keepdim)] if also_mean else y

    return rule


def norm(
    s: Interpreter, x: Abstract, p: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Abstract:
    return vector_norm(s, x, 2 if p is None else p, dim, keepdim)


def unfolded(
    s: Interpreter, x: Abstract, kernel: Sequence[int], dilation: object, padding: Sequence[int], stride: object
) -> Abstract:
    """Patches as columns: (c taps, positions)."""
    assert s.node is not None
    batched = x.ndim == 4
    channel = 1 if batched else 0
    over = x.along(range(channel + 1, x.ndim))
    taps, where = axis(prod(kernel)), axis(s.node.outputs[0].shape[-1])
    local, constant = x.shift.split(over) if not any(padding) else (x.shift, Expr())
    patches = Data((("unfolded", s.node),), (*over, *taps, *where))
    axes = (*x.axes[:channel], (*x.axes[channel], *taps), where)
    return s.result(axes, s.scaling.uniform(x.scale, over), local.times(patches).summed(over) + constant)


def folded(s: Interpreter, x: Abstract, size: Sequence[int], kernel: Sequence[int], *_: object) -> Abstract:
    """Columns of patches added up in their places: (c taps, positions) -> (c, space)."""
    assert s.node is not None
    *batch, rows, where = map(count, x.axes)
    x = reshaped(x, (*batch, rows // prod(kernel), prod(kernel), where))
    over = x.along([-2, -1])
    space = [axis(n) for n in s.node.outputs[0].shape[-len(size) :]]
    patches = Data((("folded", s.node),), (*over, *leaves(y for a in space for y in a)))
    shift = x.shift.times(patches).summed(over)
    return s.result((*x.axes[:-2], *space), s.scaling.uniform(x.scale, over), shift)


def distances(s: Interpreter, x: Abstract, y: Abstract, p: float = 2, *_: object) -> Abstract:
    """Norms of the differences of rows: a common factor passes, a shift of all rows alike is not seen."""
    x, y = s.broadcast(insert(x, -2), insert(y, -3))
    s.translation.events.append(Event("absorbs", f"the distance{s.at} does not see a common shift", x.shift))
    s.translation.vanish(x.shift - y.shift)
    difference = s.result(s.joint([x, y]), s.alike(x, y))
    return vector_norm(s, difference, p, -1)


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


define("sum", summed(mean=False), mixing.reduced, for_complex=True, apart=told_apart.nothing)
define("mean", summed(mean=True), mixing.reduced, for_complex=True, apart=told_apart.nothing)
define("amax amin", extremum, by_entries, apart=told_apart.nothing)
define("max min", extreme, by_entries, apart=told_apart.nothing)
define("median nanmedian", extreme, by_entries)
define("kthvalue", kth, by_entries)
define("aminmax", both_ends, by_entries)
define("cummax cummin", running, by_entries)
define("unfold", windows)
define("histc bincount", counted, by_entries)
define("argmax argmin", place, by_entries)
define("sort topk argsort msort", ordered, by_entries)
define("linalg_vector_norm", vector_norm, lengths.vector_norm, apart=told_apart.nothing)
define("norm linalg_norm", norm, lengths.norm, apart=told_apart.nothing)
define("cumsum", cumulative, mixing.along_one)
define("logsumexp special_logsumexp", log_sum_exp, by_entries, apart=told_apart.nothing)
define("var", spread(2), by_entries, apart=told_apart.nothing)
define("std", spread(1), by_entries, apart=told_apart.nothing)
define("var_mean", spread(2, also_mean=True), by_entries, apart=told_apart.nothing)
define("std_mean", spread(1, also_mean=True), by_entries, apart=told_apart.nothing)
define("im2col", unfolded)
define("col2im", folded)
define("cdist _cdist_forward", distances, by_entries)
