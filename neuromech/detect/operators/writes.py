"""Writes: some entries of a tensor give way to others (slices assigned, masks, scatter and its kin).

What is written has to scale as what it replaces, entry by entry, unless one of the two is zero. Where the place of an
entry is chosen by data, that is asked of all entries that it might replace.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from neuromech.detect.abstract import Abstract, Unsupported
from neuromech.detect.axes import axis, count, leaves
from neuromech.detect.data import Data
from neuromech.detect.graph import Geometry, Value
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import writes as mixing
from neuromech.detect.operator import define
from neuromech.detect.operators.index import cat, drop, insert, length, put, take, varies, zeros
from neuromech.detect.operators.linear import plus
from neuromech.detect.operators.movement import expand, permute
from neuromech.detect.operators.pointwise import where
from neuromech.detect.refine import unify
from neuromech.detect.regions import Region, region_of


def filled(s: Interpreter, x: Abstract, value: Abstract | float = 0.0) -> Abstract:
    """One number everywhere."""
    number = value if isinstance(value, Abstract) else s.number(value)
    if number.zero:
        return zeros(s, x.axes)
    return replace(s.result(x.axes, number.scale, number.shift), lowest=number.lowest)


def copied(s: Interpreter, x: Abstract, source: Abstract, non_blocking: bool = False) -> Abstract:
    """Other entries throughout."""
    return expand(s, source)


def partial_write(s: Interpreter, x: Abstract, written: Abstract, where_: Geometry, mine: Geometry) -> Abstract:
    """x, after some of its memory was written to through another view."""
    if written.empty:
        return x
    region = region_of(where_, mine)
    if isinstance(region, Region):
        return _placed(s, x, _lined_up(s, written, region), region.places)
    if isinstance(region := region_of(mine, where_), Region):  # all of x was written, and more
        y = written
        for d, places in enumerate(region.places):
            y = take(s, y, d, places)
        for d in sorted(set(range(written.ndim)) - set(region.axes), reverse=True):
            y = drop(y, d)
        kept = sorted(region.axes)
        return permute(s, y, [kept.index(d) for d in region.axes])
    raise Unsupported("it is written to through a view that overlaps it in part")


def _lined_up(s: Interpreter, written: Abstract, region: Region) -> Abstract:
    """What was written with its axes where those of the whole stand; others have length 1."""
    order = sorted(range(written.ndim), key=lambda k: region.axes[k])
    y = permute(s, written, order)
    for d in range(len(region.places)):
        if d not in region.axes:
            y = insert(y, d)
    return y


def _placed(s: Interpreter, x: Abstract, y: Abstract, places: Sequence[range]) -> Abstract:
    """x with y at the `places` of each axis."""
    partial = [d for d, p in enumerate(places) if p != range(length(x, d))]
    if not partial:
        return replace(y, axes=tuple(b or axis(count(a)) for a, b in zip(x.axes, y.axes, strict=True)))
    d = partial[0]
    if not any(varies(t, k) for t in (x, y) for k in partial):  # then it does not matter where y stands
        mask = _constant_like(s, x)
        thin = replace(y, axes=tuple(() if k in partial else a for k, a in enumerate(y.axes)))
        return where(s, mask, thin, x)
    n, here = length(x, d), places[d]
    rest = [i for i in range(n) if i not in here]
    inside = _placed(s, take(s, x, d, here), y, put(places, d, range(len(here))))
    whole = rest == list(range(rest[0], rest[-1] + 1))
    outside = take(s, x, d, range(rest[0], rest[-1] + 1) if whole else rest)
    if here == range(here.start, here.start + len(here)) and here.start in (0, n - len(here)):
        return cat(s, [inside, outside] if here.start == 0 else [outside, inside], d)
    now = [*here, *rest]
    return take(s, cat(s, [inside, outside], d), d, [now.index(i) for i in range(n)])


def _put_at(s: Interpreter, x: Abstract, y: Abstract, dim: int, places: Sequence[int]) -> Abstract:
    """x with the entries of y at constant places along one axis; of several for one place the last stays."""
    n = length(x, dim)
    last = {place: n + j for j, place in enumerate(places)}
    return take(s, cat(s, [x, y], dim), dim, [last.get(i, i) for i in range(n)])


def _added_at(s: Interpreter, x: Abstract, y: Abstract, dim: int, places: Sequence[int]) -> Abstract:
    """x with the entries of y added at constant places along one axis."""
    n, sources = length(x, dim), defaultdict[int, list[int]](list)
    for j, place in enumerate(places):
        sources[place].append(j)
    blank = zeros(s, put(y.axes, dim, axis(n)))
    for turn in range(max(map(len, sources.values()), default=0)):
        chosen = [sources[i][turn] if turn < len(sources[i]) else len(places) + i for i in range(n)]
        x = plus(s, x, take(s, cat(s, [y, blank], dim), dim, chosen))
    return x


def _spread(y: Abstract, shape: Sequence[int]) -> Abstract:
    """A tensor broadcast to a shape, its axes lined up from the right."""
    axes = ((),) * (len(shape) - y.ndim) + y.axes
    return replace(y, axes=tuple(a or axis(n) for a, n in zip(axes, shape, strict=True)))


def _places_along(index: Value, dim: int, n: int) -> list[int] | None:
    """The places of a constant index that is the same along all axes but one; None if it is not that."""
    known = index.content
    if known is None or known.is_meta or index.dtype is torch.bool or not known.numel() or known.ndim <= dim:
        return None
    rows = known.movedim(dim, 0).reshape(known.shape[dim], -1)
    return [int(i) % n for i in rows[:, 0]] if bool((rows == rows[:, :1]).all()) else None


def _constant_like(s: Interpreter, x: Abstract) -> Abstract:
    """A mask, of which nothing is known but that it is constant."""
    return s.result(x.axes)


def index_put(
    s: Interpreter, x: Abstract, places: Sequence[Abstract | None], values: Abstract, accumulate: bool = False, *_: Any
) -> Abstract:
    """x[places] = values."""
    assert s.node is not None
    at: list[int] = []
    dim = 0
    for value in s.node.args[1]:
        taken = len(value.shape) if value is not None and value.dtype is torch.bool else 1
        at += range(dim, dim + taken) if value is not None else ()
        dim += taken
    over = x.along(at)
    kept = [d for d in range(x.ndim) if d not in at]
    if len(at) == 1 and (known := _places_along(s.node.args[1][at[0]], 0, length(x, at[0]))) is not None:
        spread = _spread(values, put([count(a) for a in x.axes], at[0], len(known)))
        if varies(x, at[0]) or varies(spread, at[0]):
            return (_added_at if accumulate else _put_at)(s, x, spread, at[0], known)
    if values.zero:
        return x if accumulate else s.result(x.axes, x.scale, x.shift.times(Data((("kept", s.node),), tuple(over))))
    if at != list(range(at[0], at[-1] + 1)):
        raise Unsupported("its places are apart")
    behind = [d for d in kept if d > at[-1]]
    before = [d for d in kept if d < at[0]]
    if before:
        raise Unsupported("it keeps axes in front of those that it writes to")
    values = values.fresh()
    tail = values.ndim - len(behind)
    for k, d in enumerate(behind):
        if tail + k >= 0 and values.axes[tail + k]:
            values = values.rename(unify(x.axes[d], values.axes[tail + k]))
    index = [y for a in values.axes[: max(tail, 0)] for y in leaves(a)]
    scale = s.scaling.uniform(values.scale, index)
    if not x.zero:
        s.scaling.vanish(x.scale - scale)
    one_hot = Data((("placed", s.node),), (*index, *over))
    moved = values.shift.times(one_hot).summed(index)
    mask = Data((("kept", s.node),), tuple(over))
    return s.result(x.axes, scale, (x.shift if accumulate else x.shift.times(mask)) + moved)


def _sources(s: Interpreter, x: Abstract, dim: int, index: Abstract, source: Abstract) -> Abstract:
    """The entries that an index moves along one axis, under the labels of x along the others."""
    source = source.fresh()
    for d in range(x.ndim):
        n = length(index, d)
        if n < length(source, d):
            source = take(s, source, d, range(n))
        if d != dim:
            if n != length(x, d):
                raise Unsupported("it leaves part of an axis out")
            source = source.rename(unify(x.axes[d], source.axes[d]))
    return source


def scattered(reduce: str) -> Callable[..., Abstract]:
    """Entries of a source put (or added) to places along one axis, which an index of the source's shape says."""

    def rule(
        s: Interpreter, x: Abstract, dim: int, index: Abstract, source: Abstract | float | None = None,
        how: str = reduce, *, value: float | None = None, reduce: str | None = None, include_self: bool = True,
    ) -> Abstract:  # fmt: skip
        how = {"add": "sum", None: how}.get(reduce, reduce) or how
        if how not in ("put", "sum", "mean", "amax", "amin"):
            raise Unsupported(f"it reduces by {how}")
        assert s.node is not None
        dim %= x.ndim
        if not isinstance(source, Abstract):
            number = s.number(float(source if source is not None else value or 0))
            source = replace(number, axes=((),) * x.ndim)
        else:
            source = _sources(s, x, dim, index, source)
        places = _places_along(s.node.args[2], dim, length(x, dim)) if how in ("put", "sum") else None
        if places is not None and (varies(source, dim) or varies(x, dim)):
            spread = _spread(source, put([count(a) for a in x.axes], dim, len(places)))
            return (_put_at if how == "put" else _added_at)(s, x, spread, dim, places)
        over, now = leaves(source.axes[dim]), leaves(x.axes[dim])
        entries = replace(source, scale=source.scale if source.zero else s.scaling.uniform(source.scale, over))
        lined = replace(entries, axes=put(source.axes, dim, ()))
        if how in ("amax", "amin"):
            s.translation.vanish(source.shift)
            s.translation.vanish(x.shift)
        if not x.zero and not source.zero:
            s.scaling.vanish(x.scale, along=now)
            scale = s.scaling.equal(x.scale, lined.scale)
        else:
            scale = s.alike(x, lined)
        other = [y for y in leaves(index.data.labels) if not y.under(set(leaves(index.axes[dim])))]
        names = dict(zip([y for d in range(x.ndim) if d != dim for y in leaves(index.axes[d])],
                         [y for d in range(x.ndim) if d != dim for y in leaves(x.axes[d])], strict=False))  # fmt: skip
        chosen = [names.get(y, y) for y in other]
        amounts = Data((("scattered", s.node),), (*over, *now, *chosen))
        kept = x.shift.times(Data((("kept", s.node),), (*now, *chosen))) if how != "sum" else x.shift
        return s.result(x.axes, scale, kept + source.shift.times(amounts).summed(over))

    return rule


def index_copy(s: Interpreter, x: Abstract, dim: int, index: Abstract, source: Abstract) -> Abstract:
    """x with slices put to places along one axis."""
    dim %= x.ndim
    new = replace(index, axes=tuple(index.axes[0] if d == dim else axis(length(source, d)) for d in range(x.ndim)))
    return scattered("put")(s, x, dim, new, source)


def index_fill(s: Interpreter, x: Abstract, dim: int, index: Abstract, value: Abstract | float) -> Abstract:
    """x with one number at places along one axis."""
    number = value if isinstance(value, Abstract) else s.number(value)
    mask = Abstract(put(((),) * x.ndim, dim % x.ndim, x.axes[dim]), Data((s.node,), tuple(x.along([dim]))))
    return where(s, mask, number, x)


def _told_apart(x: Abstract, mask: Abstract) -> int:
    """How many of the first axes a mask tells entries apart along; along the others it is the same."""
    known = set(leaves(mask.data.labels))
    return max((d + 1 for d in range(mask.ndim) if not known.isdisjoint(leaves(mask.axes[d]))), default=0)


def masked_select(s: Interpreter, x: Abstract, mask: Abstract) -> Abstract:
    """The entries that a mask lets through, in one row: those that it tells apart scale alike, and must not shift."""
    assert s.node is not None
    s.pin(mask)
    mask, x = s.broadcast(mask, x)  # the mask keeps its labels
    first = _told_apart(x, mask)
    over, behind = x.along(range(first)), x.along(range(first, x.ndim))
    s.translation.vanish(x.shift)
    row = (*axis(s.node.outputs[0].shape[0] // count(behind)), *behind)
    return s.result([row], s.scaling.uniform(x.scale, over))


def masked_scatter(s: Interpreter, x: Abstract, mask: Abstract, source: Abstract) -> Abstract:
    """x, with the entries of a source in the places of a mask, one after the other."""
    s.pin(mask)
    mask, x = s.broadcast(mask, x)
    first = _told_apart(x, mask)
    behind = [count(a) for a in x.axes[first:]]
    source = source.fresh()
    if first == x.ndim or [count(a) for a in source.axes[source.ndim - len(behind) :]] != behind:
        behind, first = [], x.ndim
    for k in range(1, len(behind) + 1):
        source = source.rename(unify(x.axes[-k], source.axes[-k]))
    s.translation.vanish(x.shift)
    s.translation.vanish(source.shift)
    scale = s.scaling.uniform(source.scale, source.along(range(source.ndim - len(behind))))
    if not x.zero:
        s.scaling.vanish(x.scale - scale)
    return s.result(x.axes, scale)


def select_scatter(s: Interpreter, x: Abstract, y: Abstract, dim: int, index: int) -> Abstract:
    dim, n = dim % x.ndim, length(x, dim)
    places = [range(count(a)) for a in x.axes]
    return _placed(s, x, insert(y, dim), put(places, dim, range(index % n, index % n + 1)))


def slice_scatter(
    s: Interpreter, x: Abstract, y: Abstract, dim: int = 0, start: int | None = None, end: int | None = None,
    step: int = 1,
) -> Abstract:  # fmt: skip
    places = [range(count(a)) for a in x.axes]
    here = range(*slice(start, end, step).indices(length(x, dim)))
    return _placed(s, x, y, put(places, dim % x.ndim, here))


define("fill zero", filled, mixing.filled, for_complex=True)
define("copy", copied, mixing.copied, for_complex=True)
define("neuromech.partial_write", partial_write, mixing.partial_write, with_empty=True, for_complex=True)
define("index_put _index_put_impl", index_put, mixing.index_put)
define("scatter", scattered("put"))
define("scatter_add", scattered("sum"))
define("scatter_reduce", scattered("sum"))
define("index_copy", index_copy)
define("index_fill", index_fill)
define("masked_select", masked_select, mixing.by_entries)
define("masked_scatter", masked_scatter, mixing.by_entries)
define("select_scatter", select_scatter)
define("slice_scatter", slice_scatter)
