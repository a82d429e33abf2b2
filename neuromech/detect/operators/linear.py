"""Contractions: linear in each of two tensors, summed over shared indices.

If x scales with exponent s_x and w with s_w, every summand of y = sum_i w_i x_i scales with s_w + s_x, and y scales at
all only if the sum is the same for every i. To first order y shifts by w * (shift of x) + (shift of w) * x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial, reduce

from neuromech.detect import told_apart, unread
from neuromech.detect.abstract import Abstract, Unsupported
from neuromech.detect.axes import Axis, Label, axis, count, leaves
from neuromech.detect.data import Data, as_written
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import products as mixing
from neuromech.detect.operator import define
from neuromech.detect.operators.index import FEW, cat, insert, length, relabelled, select, take
from neuromech.detect.operators.movement import reshaped
from neuromech.detect.refine import unify
from neuromech.detect.subscripts import parsed


def contract(s: Interpreter, x: Abstract, w: Abstract, out: Sequence[Axis], over: Sequence[Label]) -> Abstract:
    """sum over the labels `over` of x * w, which share labels where they share indices."""
    scale = s.scaling.uniform(x.scale + w.scale, over)
    shift = w.shift.times(x.data) + x.shift.times(w.data)
    return s.result(out, scale, shift.summed(over), of=(x, w), known=_nothing)


def _nothing(factors: Sequence[Data]) -> Data | None:
    """A product with zeros."""
    return Data.filled(0) if any(d.number == 0 for d in factors) else None


def _multiple(factors: Sequence[Data]) -> Data | None:
    """The product of two tensors, one of which holds a number everywhere."""
    one, other = factors
    k = other.number
    return one.times(k) if k is not None else None if one.number is None else other.times(one.number)


def exact(k: float) -> Fraction:
    """A finite number, as it was written down."""
    if isinstance(k, complex) or not math.isfinite(k):
        raise Unsupported(f"it involves the number {k}")
    return as_written(k)


def times(x: Abstract, k: float) -> Abstract:
    """k x for a number k."""
    return x if k == 1 else replace(x, data=x.data.times(exact(k)), shift=x.shift * exact(k))


def plus(s: Interpreter, x: Abstract, y: Abstract, sign: int = 1) -> Abstract:
    """x + sign * y with broadcasting: both must scale alike, and shifts add up."""
    x, y = s.broadcast(x, y)
    z = s.result(s.joint([x, y]), s.alike(x, y), x.shift + sign * y.shift, of=(x, y))
    over = lacking(x, y)
    return with_sum(z, over, 0) if y.data.same_as(x.data.reduced("mean", over).times(Fraction(-sign))) else z


def lacking(x: Abstract, y: Abstract) -> list[Label]:
    """The indices of x that y does not have, though the two are lined up."""
    return x.along(d for d in range(x.ndim) if not y.axes[d])


def with_sum(x: Abstract, over: Sequence[Label], n: int) -> Abstract:
    """x, of which it is known that it adds up to n over these indices."""
    return replace(x, data=x.data._replace(sums=(*x.data.sums, (tuple(over), n)))) if over else x


def product(s: Interpreter, x: Abstract, y: Abstract) -> Abstract:
    """x y with broadcasting: exponents add up; each factor's shift is multiplied by the other factor."""
    x, y = s.broadcast(x, y)
    axes, shift = s.joint([x, y]), x.shift.times(y.data) + y.shift.times(x.data)
    z = s.result(axes, x.scale + y.scale, shift)
    return replace(z, data=Data.made_of([q for a in axes for q in a], [x.data, y.data], "product", _multiple))


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
    return _added(s, b, matmul(s, x, w), beta, alpha)


def _added(s: Interpreter, b: Abstract, y: Abstract, beta: float, alpha: float) -> Abstract:
    y = times(y, alpha)
    return plus(s, y, times(b, beta)) if beta else y


def bilinear(s: Interpreter, x: Abstract, y: Abstract, w: Abstract, b: Abstract | None = None) -> Abstract:
    """x_i w_kij y_j + b_k."""
    twice = x.data.same_as(y.data)
    x, y = _same_batch(x, y.fresh())
    if twice and length(x, -1) <= FEW:
        z = _quadratic(s, x, w)
        return z if b is None else plus(s, z, b)
    w = w.fresh()
    w = w.rename(unify(x.axes[-1], w.axes[1]))
    t = contract(s, x, w, (*x.axes[:-1], w.axes[0], w.axes[2]), w.along([1]))
    y = y.rename(unify(t.axes[-1], y.axes[-1]))
    z = contract(s, t, y, t.axes[:-1], t.along([-1]))
    return z if b is None else plus(s, z, b)


def _quadratic(s: Interpreter, x: Abstract, w: Abstract) -> Abstract:
    """x_i w_kij x_j, pair by pair: w_kij and w_kji are multiplied by the same number."""
    n = length(x, -1)
    entries = [insert(select(s, x, -1, i), -1) for i in range(n)]
    rows = [select(s, w, 1, i) for i in range(n)]

    def pair(i: int, j: int) -> Abstract:
        here = select(s, rows[i], -1, j)
        both = here if i == j else plus(s, here, select(s, rows[j], -1, i))
        return product(s, product(s, entries[i], entries[j]), both)

    pairs = ((i, j) for i in range(n) for j in range(i, n))
    return reduce(partial(plus, s), (pair(i, j) for i, j in pairs))


def _same_batch(x: Abstract, y: Abstract) -> tuple[Abstract, Abstract]:
    for d in range(x.ndim - 1):
        y = y.rename(unify(x.axes[d], y.axes[d]))
    return x, y


def grouped(
    s: Interpreter, x: Abstract, w: Abstract, ends: Abstract | None = None, bias: Abstract | None = None,
    out_dtype: object = None,
) -> Abstract:  # fmt: skip
    """Blocks of rows with a matrix each, [n, k] x [e, k, m], which end where the data say.

    Which rows meet which matrix makes no difference to what is claimed, as rows that data have sorted are alike: the
    rows are read as (matrix, row), with what is left over given to the first. All that is sorted alike is read alike.
    """
    if ends is None:
        return matmul(s, x, w)
    n, experts = count(x.axes[0]), count(w.axes[0])
    if x.ndim != 2 or w.ndim != 3 or bias is not None or n < experts:
        raise Unsupported("its blocks are not of rows, one matrix each")
    known = s.sorted_rows.setdefault(ends.data.key, [])
    if [y.root for y in leaves(x.axes[0])] not in [[y.root for y in leaves(a)] for a in known]:
        over = x.along([0])
        x = replace(x, scale=s.scaling.uniform(x.scale, over))
        s.translation.vanish(x.shift.split(over)[0])
        x = relabelled(replace(x, shift=x.shift.split(over)[1]), 0, axis(n), ("sorted", s.node))
    each = n // experts
    most = reshaped(take(s, x, 0, range(experts * each)), (experts, each, count(x.axes[1])))
    y = matmul(s, most, w)
    y = replace(y, axes=((*y.axes[0], *y.axes[1]), y.axes[2]))
    if n % experts:
        y = cat(s, [y, matmul(s, take(s, x, 0, range(experts * each, n)), select(s, w, 0, 0))])
    known.append(y.axes[0])
    return y


def outer(s: Interpreter, x: Abstract, y: Abstract) -> Abstract:
    y = y.fresh()
    return contract(s, x, y, (*x.axes, *y.axes), [])


def inner(s: Interpreter, x: Abstract, y: Abstract) -> Abstract:
    """x_.. y_.. summed over the last axis of both."""
    return matmul(s, x, y if y.ndim < 2 else replace(y, axes=(*y.axes[:-2], y.axes[-1], y.axes[-2])))


def addr(s: Interpreter, b: Abstract, x: Abstract, y: Abstract, *, beta: float = 1, alpha: float = 1) -> Abstract:
    """beta b + alpha x y^T, of vectors."""
    return _added(s, b, outer(s, x, y), beta, alpha)


def einsum(s: Interpreter, equation: str, tensors: Sequence[Abstract], *, path: object = None) -> Abstract:
    """Products of tensors whose axes are named by letters; letters that the result lacks are summed over."""
    names, right = parsed(equation, [t.ndim for t in tensors])
    x, at = tensors[0].fresh(), names[0]
    for k in range(1, len(tensors) + 1):
        y, its = (tensors[k].fresh(), names[k]) if k < len(tensors) else (None, "")
        later = set(right).union(*names[k + 1 :])
        if y is not None:
            for c in its:
                if c in at and x.axes[at.index(c)] and y.axes[its.index(c)]:
                    y = y.rename(unify(x.axes[at.index(c)], y.axes[its.index(c)]))
            axes = dict(zip(its, y.axes, strict=True)) | {
                c: a for c, a in zip(at, x.axes, strict=True) if a or c not in its
            }
        else:
            axes = dict(zip(at, x.axes, strict=True))
        kept = [c for c in axes if c in later]
        over = [q for c, a in axes.items() if c not in later for q in leaves(a)]
        out = [axes[c] for c in kept]
        if y is None:
            x = (
                s.result(out, s.scaling.uniform(x.scale, over), x.shift.summed(over))
                if over
                else replace(x, axes=tuple(out))
            )
        else:
            x = contract(s, x, y, out, over)
        at = "".join(kept)
    return replace(x, axes=tuple(x.axes[at.index(c)] for c in right))


define("linear", linear, mixing.linear, for_complex=True, apart=told_apart.nothing, rows=unread.last)
define(
    "matmul mm bmm mv dot vdot",
    matmul,
    mixing.matmul,
    for_complex=True,
    apart=told_apart.nothing,
    rows=unread.product,
)
define("_grouped_mm", grouped, mixing.grouped)
define("addmm baddbmm addmv", addmm, mixing.addmm, for_complex=True, apart=told_apart.nothing)
define("addr", addr, mixing.addr, for_complex=True, apart=told_apart.nothing)
define("inner", inner, mixing.inner, apart=told_apart.nothing)
define("outer ger", outer, mixing.outer, apart=told_apart.nothing)
define("bilinear", bilinear, mixing.bilinear, apart=told_apart.nothing)
define("einsum", einsum, mixing.einsum, for_complex=True, apart=told_apart.nothing)
