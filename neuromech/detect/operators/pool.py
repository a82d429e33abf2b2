"""Windows over the last axes: pooling and resampling.

Where every window along an axis sees all of its entries (one window, or a kernel wider than the picture), the axis is
reduced and what is left stands at every place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any

from neuromech.detect import told_apart
from neuromech.detect.abstract import Abstract
from neuromech.detect.axes import Label, axis, leaves
from neuromech.detect.data import Data
from neuromech.detect.expr import Expr
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import movement as mixing
from neuromech.detect.matrix.products import by_entries
from neuromech.detect.operator import define
from neuromech.detect.operators.convolution import option_of
from neuromech.detect.operators.index import length, put
from neuromech.detect.operators.pointwise import div
from neuromech.detect.operators.reduce import extremum, summed


def resampled(spatial: int) -> Callable[..., Abstract]:
    """Interpolation over the last axes: weights that add up to one."""

    def rule(s: Interpreter, x: Abstract, *_: Any, **__: Any) -> Abstract:
        over, window = _windows(s, x, range(x.ndim - spatial, x.ndim), 1)
        return s.result(window.axes, s.scaling.uniform(x.scale, over), _averaged(x, over, window), of=(x, window))

    return rule


def _averaged(x: Abstract, over: Sequence[Label], window: Abstract) -> Expr:
    """The shift of x in windows: what is the same everywhere stays, times what the weights add up to."""
    local, constant = x.shift.split(over) if window.data.sums else (x.shift, Expr())
    return local.times(window.data).summed(over) + (constant * window.data.sums[0][1] if constant else constant)


def max_pool(spatial: int) -> Callable[..., Any]:
    """The largest entry of every window of the last `spatial` axes; where it stood, if that is asked for."""

    def rule(
        s: Interpreter,
        x: Abstract,
        size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Abstract | list[Abstract]:
        assert s.node is not None
        shape, first = s.node.outputs[0].shape, x.ndim - spatial
        rest = []
        for d in range(spatial):
            n, out = length(x, first + d), shape[first + d]
            walk = tuple(option_of(o, d) for o in (size, stride or size, padding))
            if _sees_each(s, n, out, *walk):
                continue
            if option_of(dilation, d) == 1 and _sees_all(s, n, out, *walk):
                x = _everywhere(extremum(s, x, first + d, keepdim=True), first + d, out)
            else:
                rest.append(first + d)
        y = x
        if rest:
            over, window = _windows(s, x, rest, None)
            local, constant = x.shift.split(over)
            s.translation.vanish(local)
            y = s.result(window.axes, s.scaling.uniform(x.scale, over), constant, of=(x, window))
        return [y, *(s.constant(v.shape, v) for v in s.node.outputs[1:])] if s.node.outputs[1:] else y

    return rule


def mean_pool(spatial: int) -> Callable[..., Any]:
    """The mean of every window of the last `spatial` axes."""

    def rule(
        s: Interpreter,
        x: Abstract,
        size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Abstract:
        assert s.node is not None
        shape, first = s.node.outputs[0].shape, x.ndim - spatial
        rest = []
        for d in range(spatial):
            n, out = length(x, first + d), shape[first + d]
            by, step, before = (option_of(o, d) for o in (size, stride or size, padding))
            if _sees_each(s, n, out, by, step, before):
                continue
            # The last window may reach beyond the zeros around, and then counts fewer entries.
            short = ceil_mode and (out - 1) * step - before + by > n + before
            if divisor_override or short or not _sees_all(s, n, out, by, step, before):
                rest.append(first + d)
                continue
            entries = by if before and count_include_pad else n
            total = summed(mean=False)(s, x, first + d, keepdim=True)
            x = _everywhere(div(s, total, entries), first + d, out)
        if not rest and not divisor_override:
            return x
        padded = any(option_of(padding, d - first) for d in rest)
        # A true mean leaves a constant alone; zeros that are counted in, or a divisor of incomplete windows, do not.
        true = not ((padded and count_include_pad) or ((padded or ceil_mode) and divisor_override))
        entries = prod(option_of(size, d) for d in range(spatial))
        over, window = _windows(s, x, rest, Fraction(entries, divisor_override or entries) if true else None)
        return s.result(window.axes, s.scaling.uniform(x.scale, over), _averaged(x, over, window), of=(x, window))

    return rule


def _sees_all(s: Interpreter, n: int, out: int, size: int, stride: int, padding: int) -> bool:
    """True if each of `out` windows along an axis holds all of its n entries."""
    assert s.node is not None
    if "adaptive" in s.node.op:
        return out == 1
    return size - padding >= n and (out - 1) * stride <= padding


def _sees_each(s: Interpreter, n: int, out: int, size: int, stride: int, padding: int) -> bool:
    """True if the windows along an axis hold one entry each, one after the other."""
    assert s.node is not None
    return out == n if "adaptive" in s.node.op else (size, stride, padding) == (1, 1, 0)


def _everywhere(x: Abstract, dim: int, n: int) -> Abstract:
    """What an axis of length one holds, at n places."""
    return replace(x, axes=put(x.axes, dim, axis(n)))


def _windows(
    s: Interpreter, x: Abstract, dims: Sequence[int], total: Fraction | int | None
) -> tuple[list[Label], Abstract]:
    """The indices that windows walk along, and the weights of their entries, which add up to `total` in each (None: not
    to one number), with the axes of what they make of x."""
    assert s.node is not None
    shape, over = s.node.outputs[0].shape, x.along(dims)
    axes = tuple(axis(shape[d]) if d in dims else a for d, a in enumerate(x.axes))
    labels = (*over, *leaves(q for d in dims for q in axes[d]))
    return over, Abstract(axes, Data((("windows", s.node),), labels, () if total is None else ((tuple(over), total),)))


define("upsample_linear1d", resampled(1), mixing.over_space(1), apart=told_apart.places)
define(
    "upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa",
    resampled(2),
    mixing.over_space(2),
    apart=told_apart.places,
)
define("upsample_trilinear3d", resampled(3), mixing.over_space(3), apart=told_apart.places)
for d in (1, 2, 3):
    for _kind in ("nearest", "_nearest_exact", "nearest_exact"):
        define(f"upsample_{_kind}{d}d", resampled(d), mixing.over_space(d), apart=told_apart.places)
    define(f"avg_pool{d}d adaptive_avg_pool{d}d", mean_pool(d), mixing.over_space(d), apart=told_apart.places)
    define(
        f"max_pool{d}d adaptive_max_pool{d}d max_pool{d}d_with_indices",
        max_pool(d),
        by_entries,
        apart=told_apart.places,
    )
