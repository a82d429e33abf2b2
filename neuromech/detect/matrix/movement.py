"""Movement and what is linear along axes of its own: entries change places, or are added up, the same for all else.

What becomes of the indices that a matrix may mix (see walk.py), operator by operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from neuromech.detect.abstract import Unsupported
from neuromech.detect.axes import axis, count, leaves
from neuromech.detect.matrix.walk import Indexed, Walk
from neuromech.detect.refine import regroup, unify
from neuromech.detect.subscripts import moved_axes

REARRANGED = "matrices are not followed along an axis that is cut, joined or rearranged"


def moved(m: Walk, x: Indexed, dims: Sequence[int], shape: Sequence[int]) -> Indexed:
    """Along `dims` everything may happen, as long as it is linear and the same for all other indices."""
    m.limit(x.along(dims), REARRANGED)
    m.separate(x.along(d for d in range(x.ndim) if d not in dims), x.along(dims))
    return Indexed(tuple(m.unrelated([shape[d]]).axes[0] if d in dims else a for d, a in enumerate(x.axes)))


def reduced(m: Walk, x: Indexed, dim: int | Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Indexed:
    """Sum and mean: linear, with the same weight for every entry."""
    every = dim is None or dim == []
    dims = set(range(x.ndim)) if every else {d % x.ndim for d in ([dim] if isinstance(dim, int) else dim or ())}
    m.fix(x.along(dims))
    return Indexed(tuple(() if d in dims else a for d, a in enumerate(x.axes) if keepdim or d not in dims))


def along_one(m: Walk, x: Indexed, dim: int, **_: Any) -> Indexed:
    """Linear along one axis, which keeps its length: sums of all entries up to each."""
    return moved(m, x, [dim % x.ndim], [count(a) for a in x.axes])


def transformed(m: Walk, x: Indexed, dim: Sequence[int], *_: Any, **__: Any) -> Indexed:
    """Fourier transforms: linear along some axes."""
    assert m.node is not None
    return moved(m, x, [d % x.ndim for d in dim], m.node.outputs[0].shape)


def over_space(spatial: int) -> Callable[..., Indexed]:
    """Pooling by means and resampling: linear over the last axes."""

    def rule(m: Walk, x: Indexed, *_: Any, **__: Any) -> Indexed:
        assert m.node is not None
        return moved(m, x, range(x.ndim - spatial, x.ndim), m.node.outputs[0].shape)

    return rule


def last_two(m: Walk, x: Indexed, *_: Any) -> Indexed:
    """Entries are put to zero, by where they stand along the last two axes."""
    m.fix(x.along([-2, -1]))
    return x


def view(m: Walk, x: Indexed, *how: object, **__: object) -> Indexed:
    assert m.node is not None
    if how and isinstance(how[0], torch.dtype):
        raise Unsupported("it reads the bits as numbers of another type")
    return Indexed(regroup(x.labels, m.node.outputs[0].shape, nested=True)[0])


def permute(m: Walk, x: Indexed, dims: Sequence[int]) -> Indexed:
    return Indexed(tuple(x.axes[d] for d in dims))


def transpose(m: Walk, x: Indexed, i: int, j: int) -> Indexed:
    dims = list(range(x.ndim))
    dims[i], dims[j] = dims[j], dims[i]
    return permute(m, x, dims)


def movedim(m: Walk, x: Indexed, source: int | Sequence[int], destination: int | Sequence[int]) -> Indexed:
    return permute(m, x, moved_axes(x.ndim, source, destination))


def reverse(m: Walk, x: Indexed) -> Indexed:
    return permute(m, x, range(x.ndim - 1, -1, -1))


def swap_last(m: Walk, x: Indexed) -> Indexed:
    return transpose(m, x, -2, -1)


def expand(m: Walk, x: Indexed, *_: object, **__: object) -> Indexed:
    """New indices, on which nothing depends."""
    assert m.node is not None
    shape = m.node.outputs[0].shape
    (old,) = m.align(x) if x.ndim == len(shape) else (Indexed(((),) * (len(shape) - x.ndim) + x.axes),)
    out = Indexed(tuple(a or m.unrelated([n]).axes[0] for a, n in zip(old.axes, shape, strict=True)))
    return replace(out, copied=x.copied | set(out.labels).difference(old.labels))


def broadcast_tensors(m: Walk, tensors: Sequence[Indexed]) -> list[Indexed]:
    m.broadcast(*tensors)
    return [expand(m, t) for t in tensors]


def repeated(m: Walk, x: Indexed, times: Sequence[int]) -> Indexed:
    """Copies behind one another: the number of the copy is the slow factor of the axis."""
    (x,) = m.align(x) if x.ndim == len(times) else (Indexed(((),) * (len(times) - x.ndim) + x.axes),)
    return Indexed(tuple((*m.unrelated([k]).axes[0], *a) for k, a in zip(times, x.axes, strict=True)))


def rolled(m: Walk, x: Indexed, shifts: Sequence[int], dims: Sequence[int] = ()) -> Indexed:
    if not dims:
        raise Unsupported("it rolls all entries in one row")
    return moved(m, x, [d % x.ndim for d in dims], [count(a) for a in x.axes])


def flipped(m: Walk, x: Indexed, dims: Sequence[int]) -> Indexed:
    return moved(m, x, [d % x.ndim for d in dims], [count(a) for a in x.axes])


def repeat_interleave(m: Walk, x: Indexed, repeats: Any, dim: int | None = None, **_: Any) -> Indexed:
    if not isinstance(repeats, int) or dim is None:
        raise Unsupported("it repeats entries unevenly")
    axes = list(x.axes)
    axes[dim] = (*leaves(axes[dim]), *m.unrelated([repeats]).axes[0])
    return Indexed(tuple(axes))


def select(m: Walk, x: Indexed, dim: int, index: int) -> Indexed:
    dim %= x.ndim
    n = count(x.axes[dim])
    m.fix(x.along([dim]))
    return m.block(x, x.axes[dim], index % n, [a for d, a in enumerate(x.axes) if d != dim])


def sliced(
    m: Walk, x: Indexed, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Indexed:
    """A block of an axis that is a whole number of such blocks; any other piece of an axis is a new axis."""
    assert m.node is not None
    dim %= x.ndim
    n, k = count(x.axes[dim]), m.node.outputs[0].shape[dim]
    first = min(max((start or 0) + (n if (start or 0) < 0 else 0), 0), n)
    return x if k == n else _cut(m, x, dim, first, k, step)


def _cut(m: Walk, x: Indexed, dim: int, first: int, k: int, step: int = 1) -> Indexed:
    n = count(x.axes[dim])
    if step != 1 or n % k or first % k:
        return moved(m, x, [dim], [k] * x.ndim)
    selector = axis(n // k)
    unify((*selector, *axis(k)), x.axes[dim], nested=True)
    whole, cut = leaves(x.axes[dim]), len(leaves(selector))
    m.fix(whole[:cut])
    axes = [tuple(whole[cut:]) if d == dim else a for d, a in enumerate(x.axes)]
    return m.block(x, tuple(whole[:cut]), first // k, axes)


def narrow(m: Walk, x: Indexed, dim: int, start: int, n: int) -> Indexed:
    return sliced(m, x, dim, start, start + n)


def shuffled(m: Walk, x: Indexed, view: Sequence[int], order: Sequence[int]) -> Indexed:
    """Read as `view`, its axes reordered, and read as the shape that was recorded: pixel and channel shuffles."""
    assert m.node is not None
    axes, _ = regroup(x.labels, view, nested=True)
    moved = permute(m, Indexed(axes), order)
    return Indexed(regroup(moved.labels, m.node.outputs[0].shape, nested=True)[0])


def pixel_shuffle(m: Walk, x: Indexed, r: int) -> Indexed:
    """(c r r, h, w) -> (c, h r, w r)."""
    *batch, c, h, w = map(count, x.axes)
    k = len(batch)
    return shuffled(m, x, [*batch, c // r**2, r, r, h, w], [*range(k + 1), k + 3, k + 1, k + 4, k + 2])


def pixel_unshuffle(m: Walk, x: Indexed, r: int) -> Indexed:
    """(c, h r, w r) -> (c r r, h, w)."""
    *batch, c, h, w = map(count, x.axes)
    k = len(batch)
    return shuffled(m, x, [*batch, c, h // r, r, w // r, r], [*range(k + 1), k + 2, k + 4, k + 1, k + 3])


def channel_shuffle(m: Walk, x: Indexed, groups: int) -> Indexed:
    """Channels (group, i) as (i, group)."""
    n, c, *space = map(count, x.axes)
    return shuffled(m, x, [n, groups, c // groups, *space], [0, 2, 1, *range(3, 3 + len(space))])


def split(m: Walk, x: Indexed, sizes: int | Sequence[int], dim: int = 0) -> list[Indexed]:
    """`split`, `chunk` and `unsafe_split` by the shapes of what they made."""
    assert m.node is not None
    dim, start, out = dim % x.ndim, 0, []
    for v in m.node.outputs:
        out.append(_cut(m, x, dim, start, v.shape[dim]) if v.shape[dim] < count(x.axes[dim]) else x)
        start += v.shape[dim]
    return out


def unbind(m: Walk, x: Indexed, dim: int = 0) -> list[Indexed]:
    assert m.node is not None
    return [select(m, x, dim, i) for i in range(len(m.node.outputs))]


def joined(m: Walk, tensors: Sequence[Indexed], dim: int = 0) -> Indexed:
    """Concatenation: along the other axes the parts are mixed alike, or not at all."""
    assert m.node is not None
    tensors = [t for t in tensors if count(t.axes[dim % t.ndim])]  # an empty cache, for example
    if len(tensors) == 1:
        return tensors[0]
    dim %= tensors[0].ndim
    rest = [Indexed(tuple(() if d == dim else a for d, a in enumerate(t.axes))) for t in tensors]
    out = m.broadcast(*([r for t, r in zip(tensors, rest, strict=True) if not m.is_zero(t)] or rest))
    for t in tensors:
        m.limit(t.along([dim]), REARRANGED)
        m.separate(t.along(d for d in range(t.ndim) if d != dim), t.along([dim]))
    new = m.unrelated([m.node.outputs[0].shape[dim]]).axes[0]
    return Indexed(tuple(new if d == dim else a for d, a in enumerate(out.axes)))


def stacked(m: Walk, tensors: Sequence[Indexed], dim: int = 0) -> Indexed:
    assert m.node is not None
    out = m.broadcast(*tensors)
    dim %= out.ndim + 1
    return Indexed((*out.axes[:dim], m.unrelated([len(tensors)]).axes[0], *out.axes[dim:]))


def padded(m: Walk, x: Indexed, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Indexed:
    assert m.node is not None
    if mode == "constant" and value:
        raise Unsupported("it pads with a number that is not zero")
    return moved(m, x, range(x.ndim - len(pad) // 2, x.ndim), m.node.outputs[0].shape)


def looked_up(m: Walk, weight: Indexed, index: Indexed, *_: Any, **__: Any) -> Indexed:
    """Rows of a table."""
    m.fix(weight.along([0]))
    m.separate(weight.along([1]), weight.along([0]))
    return Indexed((*index.axes, weight.axes[1]))


def index_select(m: Walk, x: Indexed, dim: int, index: Indexed) -> Indexed:
    return moved(m, x, [dim % x.ndim], [count(index.axes[0])] * x.ndim)


def index(m: Walk, x: Indexed, places: Sequence[Indexed | None]) -> Indexed:
    """Entries at places along some axes, which give way to those of the result."""
    assert m.node is not None
    dims = [d for d, p in enumerate(places) if p is not None]
    if any(v is not None and v.dtype is torch.bool and len(v.shape) > 1 for v in m.node.args[1]):
        raise Unsupported("a mask runs over several axes")
    shape = m.node.outputs[0].shape
    kept = [a for d, a in enumerate(x.axes) if d not in dims]
    where = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    new = m.unrelated(shape[where : where + len(shape) - len(kept)]).axes
    m.fix(x.along(dims))
    m.separate(leaves(x for a in kept for x in a), x.along(dims))
    return Indexed((*kept[:where], *new, *kept[where:]))


def index_add(m: Walk, x: Indexed, dim: int, index: Indexed, source: Indexed, *, alpha: float = 1) -> Indexed:
    """x, and entries of `source` at places along one axis."""
    return m.broadcast(x, moved(m, source, [dim % x.ndim], [count(a) for a in x.axes]))
