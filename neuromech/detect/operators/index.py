"""Slices and concatenations: entries move to other places along one axis, which may cut it into segments.

Where nothing depends on the axis, it need not be cut: the result simply has another axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

from neuromech.detect import told_apart
from neuromech.detect.abstract import Abstract, Unsupported
from neuromech.detect.axes import Axis, Label, axis, count, leaves
from neuromech.detect.data import Data
from neuromech.detect.expr import Expr
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import movement as mixing
from neuromech.detect.operator import define
from neuromech.detect.refine import Regrouping, Renaming, assemble, intervals, joined, regroup, unify

T = TypeVar("T")
FEW = 8  # entries of an axis that are told one by one where that says more


def length(x: Abstract, dim: int) -> int:
    return count(x.axes[dim])


def put(axes: Sequence[T], dim: int, *new: T) -> tuple[T, ...]:
    """The axes (or their lengths) with others in the place of that at `dim`."""
    dim %= len(axes)
    return (*axes[:dim], *new, *axes[dim + 1 :])


def drop(x: Abstract, dim: int) -> Abstract:
    """Without an axis of length 1."""
    dim %= x.ndim
    return replace(x, axes=(*x.axes[:dim], *x.axes[dim + 1 :]))


def insert(x: Abstract, dim: int) -> Abstract:
    """With another axis of length 1."""
    dim %= x.ndim + 1
    return replace(x, axes=(*x.axes[:dim], (), *x.axes[dim:]))


def runs_of(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Start and stop of the runs of indices that stand side by side, in their order."""
    runs: list[list[int]] = []
    for i in indices:
        if runs and runs[-1][1] == i:
            runs[-1][1] += 1
        else:
            runs.append([i, i + 1])
    return [(a, b) for a, b in runs]


def varies(x: Abstract, dim: int) -> bool:
    """True if the exponent or the amount of a shift differs along an axis (the data that multiply a shift may)."""
    return x.varies_along(leaves(x.axes[dim]))


def repeats(x: Abstract, dim: int) -> bool:
    """True if it is known that some numbers stand at several places along an axis, or what they are."""
    along, mine = leaves(x.axes[dim]), leaves(x.data.labels)
    return any(q.under(along) for q, _ in x.data.pieces) or 0 < sum(q in mine for q in along) < len(along)


def equal_along(x: Abstract, dim: int) -> bool:
    """True if it is known that the same numbers stand at several places along an axis, or all along it."""
    return repeats(x, dim) or not set(leaves(x.axes[dim])) <= set(leaves(x.data.labels))


def relabelled(x: Abstract, dim: int, new: Axis, how: object, chosen_by: Iterable[Label] = ()) -> Abstract:
    """The tensor with other entries along an axis on which nothing depends but the data.

    Which entries these are may differ with the indices `chosen_by`.
    """
    moved = x.relabelled(how, leaves(x.axes[dim]), leaves([*new, *chosen_by]))
    return replace(moved, axes=put(x.axes, dim, new))


def take(s: Interpreter, x: Abstract, dim: int, places: Sequence[int]) -> Abstract:
    """The entries at constant places along an axis."""
    if places == range(length(x, dim)):
        return x
    if not places:
        raise Unsupported("it takes nothing")
    again = len(set(places)) < len(places) and length(x, dim) <= FEW
    if not (again or varies(x, dim) or repeats(x, dim)):
        how = places if isinstance(places, range) else tuple(places)
        return relabelled(x, dim, axis(len(places)), how)
    x = x.fresh()
    runs = runs_of(places)
    found = intervals(x.axes[dim], [c for run in runs for c in run])
    chosen = [p for a, b in runs for p in found if a <= p.start and p.start + p.n <= b]
    moved = assemble(leaves(x.axes[dim]), chosen)
    return x.rename(Renaming({}, (moved,)), put(x.axes, dim, moved.to))


def slice_(
    s: Interpreter, x: Abstract, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Abstract:
    n, dim = length(x, dim), dim % x.ndim
    places = range(*slice(start, end, step).indices(n))
    if step > 1 and n % step == 0 and len(places) == n // step and varies(x, dim):  # one index of a fast factor
        shape = [count(a) for a in x.axes]
        axes, names = regroup(x.labels, put(shape, dim, n // step, step))
        return select(s, x.rename(names, axes), dim + 1, places[0])
    return take(s, x, dim, places)


def select(s: Interpreter, x: Abstract, dim: int, index: int) -> Abstract:
    index %= length(x, dim)
    return drop(take(s, x, dim, range(index, index + 1)), dim)


def narrow(s: Interpreter, x: Abstract, dim: int, start: int, n: int) -> Abstract:
    return take(s, x, dim, range(start, start + n))


def cut(s: Interpreter, x: Abstract, dim: int, sizes: Sequence[int]) -> list[Abstract]:
    ends = [0]
    for n in sizes:
        ends.append(ends[-1] + n)
    return [take(s, x, dim, range(*run)) for run in pairwise(ends)]


def as_recorded(s: Interpreter, x: Abstract, _: object = None, dim: int = 0) -> list[Abstract]:
    """`split`, `chunk` and their kin, into the sizes that were recorded."""
    assert s.node is not None
    return cut(s, x, dim, [v.shape[dim] for v in s.node.outputs])


def unbind(s: Interpreter, x: Abstract, dim: int = 0) -> list[Abstract]:
    return [select(s, x, dim, i) for i in range(length(x, dim))]


def cat(s: Interpreter, tensors: Sequence[Abstract], dim: int = 0, *, told: bool = False) -> Abstract:
    """Side by side: the axis is the sum of those of the parts; empty ones are passed over. `told`: the numbers of the
    parts are of interest in any case."""
    tensors = [t.fresh() for t in tensors if not t.empty]
    if len(tensors) == 1:
        return tensors[0]
    dim %= tensors[0].ndim
    first, *others = tensors
    for d in (d for d in range(first.ndim) if d != dim):
        others = [t.rename(unify(first.axes[d], t.axes[d])) for t in others]
    tensors = [first, *others]
    if not (told or any(t.scale or t.shift for t in tensors) or _alike(tensors)):
        return s.result(put(first.axes, dim, axis(sum(length(t, dim) for t in tensors))))
    whole, names = joined([t.axes[dim] for t in tensors])
    pieces = tuple(p for t, name in zip(tensors, names, strict=True) for e in name.entries for p in t.data.placed(e))
    scale, shift = Expr(), Expr()
    for t, name in zip(tensors, names, strict=True):
        scale += _in_its_place(t.scale, name)
        shift += _in_its_place(t.shift, name)
    y = s.result(put(first.axes, dim, (whole,)), scale, shift)
    return replace(y, data=y.data._replace(pieces=pieces))


def _alike(tensors: Sequence[Abstract]) -> bool:
    """True if some of these numbers are known, or are the same: what multiplies them can be traded then."""
    return len({t.data.key for t in tensors}) < len(tensors) or any(t.data.number is not None for t in tensors)


def _in_its_place(expr: Expr, how: Regrouping) -> Expr:
    """What a part carries, in the whole: where it does not depend on the axis it is the same in all segments."""
    moving, constant = expr.split(how.of)
    out = moving.rename(Renaming({}, (how,)))
    for entry in how.entries if constant else ():
        out += constant.within(*entry.guards)
    return out


def stack(s: Interpreter, tensors: Sequence[Abstract], dim: int = 0) -> Abstract:
    dim %= tensors[0].ndim + 1
    return cat(s, [insert(t, dim) for t in tensors], dim)


def roll(s: Interpreter, x: Abstract, shifts: Sequence[int], dims: Sequence[int] = ()) -> Abstract:
    if not dims:
        raise Unsupported("it rolls all entries in one row")
    for shift, dim in zip(shifts, dims, strict=True):
        n = length(x, dim)
        k = -shift % n
        x = take(s, x, dim, [*range(k, n), *range(k)])
    return x


def flip(s: Interpreter, x: Abstract, dims: Sequence[int]) -> Abstract:
    for dim in dims:
        x = take(s, x, dim, range(length(x, dim) - 1, -1, -1))
    return x


def repeat(s: Interpreter, x: Abstract, times: Sequence[int]) -> Abstract:
    """Copies behind one another: the number of the copy is the slow factor of the axis."""
    x = replace(x, axes=((),) * (len(times) - x.ndim) + x.axes)
    return replace(x, axes=tuple((*axis(k), *a) for k, a in zip(times, x.axes, strict=True)))


def repeat_interleave(
    s: Interpreter, x: Abstract, times: int | Abstract, dim: int | None = None, *, output_size: int | None = None
) -> Abstract:
    """Every entry several times: the number of the copy is the fast factor of the axis."""
    if not isinstance(times, int):
        raise Unsupported("it repeats entries different numbers of times")
    if dim is None:
        axes, names = regroup(x.labels, [count(x.labels)])
        x, dim = x.rename(names, axes), 0
    return replace(x, axes=put(x.axes, dim, (*x.axes[dim], *axis(times))))


def pad(
    s: Interpreter, x: Abstract, widths: Sequence[int], mode: Any = "constant", value: float | None = None
) -> Abstract:
    """Entries added at the ends of the last axes: zeros, which scale with anything, or copies of others."""
    if not isinstance(mode, str):  # constant_pad_nd(x, widths, value)
        mode, value = "constant", mode
    for k, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        if before or after:
            x = _padded(s, x, x.ndim - 1 - k, before, after, mode, value or 0)
    return x


def _padded(s: Interpreter, x: Abstract, dim: int, before: int, after: int, mode: str, value: float) -> Abstract:
    n = length(x, dim)
    if mode == "constant" and (before < 0 or after < 0):
        x = take(s, x, dim, range(max(-before, 0), n - max(-after, 0)))
        return _padded(s, x, dim, max(before, 0), max(after, 0), mode, value)
    if mode != "constant":
        left = {"circular": lambda i: i % n, "replicate": lambda i: min(max(i, 0), n - 1)}
        place: Callable[[int], int] = left.get(mode, lambda i: n - 1 - abs(n - 1 - abs(i)))
        return take(s, x, dim, [place(i) for i in range(-before, n + after)])
    blank = [
        filled(s, put(x.axes, dim, axis(k)), value) if value else zeros(s, put(x.axes, dim, axis(k)))
        for k in (before, after)
    ]
    parts = [(blank[0], before), (x, n), (blank[1], after)]
    return cat(s, [t for t, k in parts if k], dim)


def filled(s: Interpreter, axes: Sequence[Axis], k: float) -> Abstract:
    """The number k everywhere."""
    x = s.result(axes)
    return replace(x, data=Data.filled(k, x.labels))


def zeros(s: Interpreter, axes: Sequence[Axis]) -> Abstract:
    """Zeros scale with any exponent: that of an unknown of their own."""
    x = s.result(axes)
    return replace(x, data=Data.filled(0, x.labels), scale=s.scaling.free(x.labels), zero=True)


def pixel_shuffle(s: Interpreter, x: Abstract, r: int) -> Abstract:
    """(c r r, h, w) -> (c, h r, w r)."""
    *batch, c, h, w = [count(a) for a in x.axes]
    axes, names = regroup(x.labels, [*batch, c // r**2, r, r, h, w])
    x = x.rename(names, axes)
    k = len(batch)
    *outer, c_, r1, r2, h_, w_ = x.axes
    assert len(outer) == k
    return replace(x, axes=(*outer, c_, (*h_, *r1), (*w_, *r2)))


def pixel_unshuffle(s: Interpreter, x: Abstract, r: int) -> Abstract:
    """(c, h r, w r) -> (c r r, h, w)."""
    *batch, c, h, w = [count(a) for a in x.axes]
    axes, names = regroup(x.labels, [*batch, c, h // r, r, w // r, r])
    x = x.rename(names, axes)
    *outer, c_, h_, r1, w_, r2 = x.axes
    return replace(x, axes=(*outer, (*c_, *r1, *r2), h_, w_))


def channel_shuffle(s: Interpreter, x: Abstract, groups: int) -> Abstract:
    """Channels (group, i) as (i, group)."""
    n, c, *space = [count(a) for a in x.axes]
    axes, names = regroup(x.labels, [n, groups, c // groups, *space])
    x = x.rename(names, axes)
    batch, group, inner, *rest = x.axes
    return replace(x, axes=(batch, (*inner, *group), *rest))


define("slice", slice_, mixing.sliced, for_complex=True, apart=told_apart.pieces)
define("select", select, mixing.select, for_complex=True, apart=told_apart.pieces)
define("narrow", narrow, mixing.narrow, for_complex=True, apart=told_apart.pieces)
define(
    "split_with_sizes",
    lambda s, x, sizes, dim=0: cut(s, x, dim, sizes),
    mixing.split,
    apart=told_apart.pieces,
)
define(
    "split chunk unsafe_split unsafe_chunk tensor_split",
    as_recorded,
    mixing.split,
    for_complex=True,
    apart=told_apart.pieces,
)
define("unbind", unbind, mixing.unbind, for_complex=True, apart=told_apart.pieces)
define(
    "cat concat concatenate",
    cat,
    mixing.joined,
    joins=True,
    with_empty=True,
    for_complex=True,
    apart=told_apart.pieces,
)
define("stack", stack, mixing.stacked, joins=True, for_complex=True, apart=told_apart.pieces)
define("roll", roll, mixing.rolled, for_complex=True)
define("flip", flip, mixing.flipped, for_complex=True)
define("repeat tile", repeat, mixing.repeated)
define("repeat_interleave", repeat_interleave, mixing.repeat_interleave)
define("pad constant_pad_nd", pad, mixing.padded, for_complex=True)
define("channel_shuffle", channel_shuffle, mixing.channel_shuffle)
define("pixel_shuffle", pixel_shuffle, mixing.pixel_shuffle)
define("pixel_unshuffle", pixel_unshuffle, mixing.pixel_unshuffle)
