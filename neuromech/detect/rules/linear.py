"""Contractions: linear in each of two tensors, summed over shared indices.

If x scales with exponent s_x and w with s_w, every summand of y = sum_i w_i x_i scales with s_w + s_x, and y scales at
all only if the sum is the same for every i. To first order y shifts by w * (shift of x) + (shift of w) * x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from neuromech.detect.axes import Axis, Label, axis, unify
from neuromech.detect.expr import Expr, by_leaves
from neuromech.detect.interpret import Abstract, Interpreter, Unsupported


def contract(s: Interpreter, x: Abstract, w: Abstract, out: Sequence[Axis], over: Sequence[Label]) -> Abstract:
    """sum over the labels `over` of x * w, which share labels where they share indices."""
    scale = s.scaling.uniform(x.scale + w.scale, over)
    shift = w.shift.times(x.data) + x.shift.times(w.data)
    return s.result(out, scale, shift.summed(over))


def exact(k: float) -> Fraction:
    """The number that was written down: 0.1 is 1/10, not the nearest binary fraction."""
    if isinstance(k, complex) or not math.isfinite(k):
        raise Unsupported(f"it involves the number {k}")
    return Fraction(k) if isinstance(k, int) else Fraction(repr(float(k)))


def times(x: Abstract, k: float) -> Abstract:
    """k x for a number k."""
    return x if k == 1 else replace(x, data=x.data.derived(("times", k)), shift=x.shift * exact(k))


def plus(s: Interpreter, x: Abstract, y: Abstract, sign: int = 1) -> Abstract:
    """x + sign * y with broadcasting: both must scale alike, and shifts add up."""
    x, y = s.broadcast(x, y)
    return s.result(s.joint([x, y]), s.scaling.equal(x.scale, y.scale), x.shift + sign * y.shift)


def linear(s: Interpreter, x: Abstract, w: Abstract, b: Abstract | None = None) -> Abstract:
    """x @ w.T + b."""
    if w.ndim == 1:
        return matmul(s, x, w) if b is None else plus(s, matmul(s, x, w), b)
    w = w.fresh()
    w = w.rename(unify(x.axes[-1], w.axes[1]))
    y = contract(s, x, w, (*x.axes[:-1], w.axes[0]), w.along([1]))
    return y if b is None else plus(s, y, b)


def matmul(s: Interpreter, x: Abstract, y: Abstract) -> Abstract:
    """x @ y with NumPy's rules: a vector is a row on the left, a column on the right; leading axes broadcast."""
    left = x if x.ndim > 1 else replace(x, axes=((), *x.axes))
    right = (y if y.ndim > 1 else replace(y, axes=(*y.axes, ()))).fresh()
    rank = max(left.ndim, right.ndim)
    left, right = (replace(t, axes=((),) * (rank - t.ndim) + t.axes) for t in (left, right))
    batch: list[Axis] = []
    for d in range(rank - 2):
        batch.append(left.axes[d] or right.axes[d])
        if left.axes[d] and right.axes[d]:
            right = right.rename(unify(left.axes[d], right.axes[d]))
    right = right.rename(unify(left.axes[-1], right.axes[-2]))
    rows = () if x.ndim == 1 else (left.axes[-2],)
    columns = () if y.ndim == 1 else (right.axes[-1],)
    return contract(s, left, right, (*batch, *rows, *columns), left.along([-1]))


def addmm(s: Interpreter, b: Abstract, x: Abstract, w: Abstract, *, beta: float = 1, alpha: float = 1) -> Abstract:
    """beta b + alpha x @ w; b is not even read where beta is zero."""
    y = times(matmul(s, x, w), alpha)
    return plus(s, y, times(b, beta)) if beta else y


def conv(
    s: Interpreter,
    x: Abstract,
    w: Abstract,
    b: Abstract | None = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Abstract:
    """Convolution over the trailing axes; channels are (group, i) on the way in and (group, o) on the way out."""
    assert s.node is not None
    batched = x.ndim == w.ndim
    if not batched:
        x = replace(x, axes=((), *x.axes))
    w = w.fresh()
    group, rows = axis(groups), axis(math.prod(a.n for a in w.axes[0]) // groups)
    w = w.rename(unify((*group, *rows), w.axes[0]))
    same = by_leaves(unify((*group, *w.axes[1]), x.axes[1]))
    w = w.rename({mine: of_x for of_x, mine in same.items()})  # two convolutions of one x see the same indices
    shapes = tuple(tuple(math.prod(a.n for a in labels) for labels in t.axes[2:]) for t in (x, w))
    geometry = ("conv", str(stride), str(padding), str(dilation), *shapes)
    for d, tap in enumerate(s.shared_axes((x.data, geometry), shapes[1]), start=2):
        w = w.rename(unify(tap, w.axes[d]))  # ... and the same places within a patch of it
    channels, taps, space_in = w.along([1]), w.along(range(2, w.ndim)), x.along(range(2, x.ndim))
    space_out = tuple(axis(n) for n in s.node.outputs[0].shape[2 if batched else 1 :])
    where = [q for a in space_out for q in a]

    scale = s.scaling.uniform(s.scaling.uniform(x.scale, space_in) + w.scale, [*channels, *taps])
    # What the weight multiplies are patches of x: the same numbers for every weight of this geometry.
    patches = x.data.derived(geometry, *space_in, *taps, *where)
    local, constant = x.shift.split(space_in)
    # Zero padding makes a constant look different at the border: it is constant no longer.
    padded = any(padding) if isinstance(padding, (list, tuple)) else padding not in (0, "valid")
    kernel = w.data.derived(geometry, *space_in, *taps, *where)
    if padded:
        local, constant = x.shift, Expr()
    shift = (w.shift.times(patches) + local.times(kernel)).summed([*channels, *taps, *space_in])
    shift += constant.times(w.data).summed([*channels, *taps])
    y = s.result((x.axes[0], w.axes[0], *space_out), scale, shift)
    if b is not None:
        y = plus(s, y, replace(b, axes=(*b.axes, *((),) * len(space_out))))
    return y if batched else replace(y, axes=y.axes[1:])


TABLE: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "addmm": addmm,
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "mv": matmul,
    "dot": matmul,
    "conv1d": conv,
    "conv2d": conv,
    "conv3d": conv,
}
