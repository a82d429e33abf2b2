"""How parameters are read chunk by chunk: which flat ranges make a chunk, and how each is summed into pieces.

A `Piece` is the coarsest array from which some terms can be read: a parameter summed over all axes that they do not
tell apart. All pieces of one parameter are read in one pass over it. Plain geometry: nothing here sees a number of a
parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.symmetry import Part, Term

JOINED = 2**14  # what is copied together, to be read at once, has at most so many elements


class Piece(NamedTuple):
    """An array that terms are read from: the `view` of a parameter, summed over all axes but those `kept`.

    With a `box`, a range of indices (first, stop) for every axis, nothing else of the parameter is read. `kind`: 0 of
    products, 1 of values."""

    parameter: str
    view: tuple[int, ...]
    kept: tuple[int, ...]
    box: tuple[tuple[int, int], ...] = ()
    kind: int = 0

    @property
    def extent(self) -> tuple[int, ...]:
        """The shape of what is read."""
        return tuple(stop - first for first, stop in self.box) or self.view

    @property
    def size(self) -> int:
        extent = self.extent
        return math.prod(extent[a] for a in self.kept)

    def boxed(self, needed: Tensor) -> Piece:
        """The smallest one that has the places `needed`, of those of a piece without a box."""
        if not self.kept:
            return self
        index = torch.unravel_index(needed.unique(), [self.view[a] for a in self.kept])
        bounds = {a: (int(i.min()), int(i.max()) + 1) for a, i in zip(self.kept, index, strict=True)}
        return self._replace(box=tuple(bounds.get(a, (0, n)) for a, n in enumerate(self.view)))

    def within(self, place: Tensor) -> Tensor:
        """Where in this piece stands what stood at `place` in the one without a box."""
        if not self.box:
            return place
        at = torch.zeros([self.view[a] for a in self.kept], dtype=torch.long)
        at[tuple(slice(*self.box[a]) for a in self.kept)] = torch.arange(self.size).reshape(
            [self.extent[a] for a in self.kept]
        )
        return at.reshape(-1)[place]


class Range(NamedTuple):
    """A flat piece of a parameter; with a `shape`, those elements of it that stand at `start` + the `stride`s."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        return math.prod(self.shape) if self.shape else self.stop - self.start

    def of(self, x: Tensor) -> Tensor:
        """The elements, flattened, from those between `start` and `stop`."""
        return x.as_strided(self.shape, self.stride, x.storage_offset()).reshape(-1) if self.shape else x


class Read(NamedTuple):
    """What is read from a chunk: elements `start` to `stop`, seen as `shape` and summed over the axes `sums` one after
    the other, are added to the pieces of a `kind` at `offset`, with `size` and `stride` of what is left."""

    start: int
    stop: int
    shape: tuple[int, ...]
    sums: tuple[int, ...]
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    kind: int


class Chunk(NamedTuple):
    """Ranges, flattened to one vector of `length`."""

    ranges: tuple[Range, ...]
    length: int
    reads: tuple[Read, ...]


def piece_of(t: Term, shape: Sequence[int]) -> Piece:
    """The piece from which a term of a parameter of `shape` is read."""
    t.size(shape)  # raises if the term does not fit
    if t.part is not None and t.part.strides is not None:
        return _piece_of_block(t, t.part, shape)
    selected = tuple(a for a, _ in t.part.select) if t.part else ()
    view = tuple(t.part.shape) if t.part else tuple(shape)
    return Piece(t.parameter, view, tuple(sorted((*t.axes, *selected))))


def places(t: Term, piece: Piece) -> Tensor:
    """Where in the piece, without a box, stands what makes up each member of the term: [members, places that are
    added up]."""
    if t.part is not None and t.part.strides is not None:
        return _places_of_block(t, t.part, piece)
    place = torch.arange(math.prod(piece.view[a] for a in piece.kept)).reshape([piece.view[a] for a in piece.kept])
    left = list(piece.kept)
    for axis, i in t.part.select if t.part else ():
        place = place.select(left.index(axis), i)
        left.remove(axis)
    return place.permute([left.index(a) for a in t.axes]).reshape(-1, 1)


def _piece_of_block(t: Term, part: Part, shape: Sequence[int]) -> Piece:
    """A block is read from the view in which each of its axes is a range of one axis; only those that it covers whole,
    and that the term does not tell apart, are summed. If there is no such view, nothing is summed."""
    assert part.strides is not None
    numel, fixed = math.prod(shape), dict(part.select)
    first = part.start + sum(i * part.strides[a] for a, i in fixed.items())
    axes = {part.strides[a]: a for a, n in enumerate(part.shape) if n > 1 and a not in fixed}
    tails = sorted({numel, 1, *axes}, reverse=True)
    many = sum(n > 1 and a not in fixed for a, n in enumerate(part.shape))
    if len(axes) != many or any(x % y for x, y in pairwise(tails)):
        return Piece(t.parameter, (numel,), (0,))
    view, kept = tuple(x // y for x, y in pairwise(tails)) or (1,), []
    for v, tail in enumerate(tails[1:]):
        a, begin = axes.get(tail), first // tail % view[v]
        if a is not None and begin + part.shape[a] > view[v]:
            return Piece(t.parameter, (numel,), (0,))
        if a is None or a in t.axes or part.shape[a] != view[v]:
            kept.append(v)
    return Piece(t.parameter, view, tuple(kept))


def _places_of_block(t: Term, part: Part, piece: Piece) -> Tensor:
    assert part.strides is not None
    fixed = dict(part.select)
    tails = [math.prod(piece.view[v + 1 :]) for v in range(len(piece.view))]
    summed = {tails[v] for v in range(len(piece.view)) if v not in piece.kept}
    flat = torch.tensor(part.start)
    for a, (n, stride) in enumerate(zip(part.shape, part.strides, strict=True)):
        once = n > 1 and a not in fixed and stride in summed  # the piece holds the sum over this axis
        along = torch.tensor([fixed[a]]) if a in fixed else torch.arange(1 if once else n)
        flat = flat[..., None] + stride * along
    place = torch.zeros_like(flat)
    for v in piece.kept:
        place = place * piece.view[v] + flat // tails[v] % piece.view[v]
    rest = [a for a in range(len(part.shape)) if a not in t.axes]
    return place.permute([*t.axes, *rest]).reshape(math.prod(part.shape[a] for a in t.axes), -1)


def chunks(offsets: Mapping[Piece, int], limit: int) -> list[Chunk]:
    """Chunks of at most `limit` elements (or one row of a parameter), for pieces that lie at `offsets`. What is small
    is joined. Pieces of one parameter stand side by side.
    """
    out: list[Chunk] = []
    for name, same in groupby(offsets, key=lambda p: p.parameter):
        for shape, box, kept in _refined([(p, offsets[p]) for p in same]):
            for here, reads in _ranges(name, shape, box, kept, limit):
                if not out or out[-1].length + here.length > min(limit, JOINED):
                    out.append(Chunk((), 0, ()))
                ranges, length, so_far = out[-1]
                moved = [r._replace(start=r.start + length, stop=r.stop + length) for r in reads]
                out[-1] = Chunk((*ranges, here), length + here.length, _joined(so_far, moved))
    return out


_Box = tuple[tuple[int, int], ...]
_Kept = tuple[tuple[int, ...], int, int]  # axes that are kept; where the piece lies, and its kind


def _refined(pieces: Sequence[tuple[Piece, int]]) -> list[tuple[tuple[int, ...], _Box, list[_Kept]]]:
    """The pieces of one parameter over one shape that refines all their views, so that it is read once.

    (12, 4) and (3, 4, 4) are both read as (3, 4, 4). Views without a common refinement, and boxes, are read one by one.
    """
    tails = sorted({math.prod(p.view[a:]) for p, _ in pieces for a in range(len(p.view) + 1)}, reverse=True)
    if 0 in tails or any(p.box for p, _ in pieces) or any(a % b for a, b in pairwise(tails)):
        return [(p.view, p.box or _whole(p.view), [(p.kept, offset, p.kind)]) for p, offset in pieces]
    shape = tuple(a // b for a, b in pairwise(tails)) or (1,)
    at = {tail: i for i, tail in enumerate(tails)}

    def axes(p: Piece) -> tuple[int, ...]:
        return tuple(a for k in p.kept for a in range(at[math.prod(p.view[k:])], at[math.prod(p.view[k + 1 :])]))

    return [(shape, _whole(shape), [(axes(p), offset, p.kind) for p, offset in pieces])]


def _whole(shape: Sequence[int]) -> _Box:
    return tuple((0, n) for n in shape)


def _ranges(
    name: str, whole: tuple[int, ...], box: _Box, kept: Sequence[_Kept], limit: int
) -> Iterator[tuple[Range, list[Read]]]:
    """The box of a parameter in ranges of at most `limit` elements (or one row), and what to read from each.

    Axis k is cut, at every index of the axes before it; `row` is what one index of it holds.
    """
    shape = tuple(stop - first for first, stop in box)
    tails = [math.prod(whole[a + 1 :]) for a in range(len(whole))]
    k = 0
    while k < len(shape) - 1 and math.prod(shape[k + 1 :]) > limit:
        k += 1
    row = math.prod(shape[k + 1 :])
    parts = math.ceil(shape[k] / max(1, limit // max(row, 1))) or 1
    many = math.ceil(shape[k] / parts)  # of even length: a short rest would cost as much as a whole range
    strides = [{a: math.prod(shape[b] for b in axes if b > a) for a in axes} for axes, _, _ in kept]
    solid = shape[k + 1 :] == whole[k + 1 :]
    for outer in product(*map(range, shape[:k])):
        for first in range(0, shape[k], many):
            n = min(many, shape[k] - first)
            corner = (*outer, first)
            slab = (n, *shape[k + 1 :])
            reads = [
                _read(slab, k, stride, offset + sum(corner[a] * stride[a] for a in stride if a <= k), kind)
                for (_, offset, kind), stride in zip(kept, strides, strict=True)
            ]
            at = [low + i for (low, _), i in zip(box, (*corner, *[0] * (len(shape) - k - 1)), strict=True)]
            start = sum(i * tail for i, tail in zip(at, tails, strict=True))
            if solid:
                yield Range(name, start, start + n * row), reads
            else:
                last = start + sum((m - 1) * tail for m, tail in zip(slab, tails[k:], strict=True))
                yield Range(name, start, last + 1, slab, tuple(tails[k:])), reads


def _read(slab: tuple[int, ...], first: int, stride: Mapping[int, int], offset: int, kind: int) -> Read:
    """How to sum a slab, whose axes count from `first`, over all axes without a stride: neighbours at once, from the
    slowest axis to the fastest."""
    shape: list[int] = []
    sums: list[int] = []
    left: list[tuple[int, int]] = []
    for is_kept, run in groupby(range(len(slab)), key=lambda a: a + first in stride):
        axes = list(run)
        shape.append(math.prod(slab[a] for a in axes))
        if is_kept:
            left.append((shape[-1], stride[axes[-1] + first]))
        else:
            sums.append(len(shape) - 1 - len(sums))
    size, steps = tuple(n for n, _ in left), tuple(step for _, step in left)
    return Read(0, math.prod(slab), tuple(shape), tuple(sums), offset, size, steps, kind)


def _joined(reads: tuple[Read, ...], more: Sequence[Read]) -> tuple[Read, ...]:
    """The reads and those of one more range; two neighbours of a kind that are pieces as they are make one."""
    out, last = list(reads), {r.kind: i for i, r in enumerate(reads)}
    alone = len({r.kind for r in more}) == len(more)
    for new in more:
        at = last.get(new.kind) if alone else None
        both = None if at is None else _one(out[at], new)
        if at is None or both is None:
            out.append(new)
        else:
            out[at] = both
    return tuple(out)


def _one(a: Read, b: Read) -> Read | None:
    """Two reads as one, if they are neighbours and pieces as they are."""
    plain = all(len(r.shape) == 1 and r.size == r.shape and r.stride == (1,) for r in (a, b))
    n = a.stop - a.start
    if not plain or a.stop != b.start or a.offset + n != b.offset:
        return None
    n += b.stop - b.start
    return a._replace(stop=b.stop, shape=(n,), size=(n,))
