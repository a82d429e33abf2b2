"""Measuring charges: sums over the elements of each member, for all families at once and in few passes.

A charge is a bilinear form <a, D b> = sum_e w_e a_e b_e (scale, rescale) or a linear one <c, a> = sum_e w_e a_e
(translation), and every law needs a few of them a step. `Symmetry.charge` says what is summed; `Forms` compiles it:

    fill      the parameters that are read, or their products, in scratch memory that is kept from step to step
    reduce    each parameter to the coarsest arrays ("pieces") from which its terms can be read
    combine   one gather with weights, from the pieces to the members

A step is bound by memory, not by arithmetic, hence the kept scratch, and products and sums over single parameters in
float32 for parameters of float32 or less (PyTorch sums in cascades: an error of some 1e-7, against 1e-7 by which every
update is rounded anyhow); from pieces to members, and in all laws, in float64.

Shapes: `rows` are the members of all blocks, those of the quadratic blocks first; a measurement is [pairs, rows],
float64, on the device of the parameters. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.symmetry import Symmetry, Term

# Elements flattened together (one parameter may have more). On a CPU a vector should stay in the cache; elsewhere
# launching kernels costs more than memory.
BUCKET_CPU, BUCKET = 2**16, 2**22

Values = Mapping[str, Tensor]
Pair = tuple[Values, Values]


class Block(NamedTuple):
    """Terms that are summed together: a family, or a part of one."""

    size: int
    linear: bool
    terms: tuple[Term, ...]

    @classmethod
    def of(cls, s: Symmetry) -> Block:
        return cls(s.size, s.is_linear, s.terms)


class Scratch:
    """Memory kept from one measurement to the next; each overwrites it. Sized by a bucket or the largest parameter."""

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def vectors(self, n: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[n, length], of any content."""
        kept = self._kept.get((dtype, device))
        if kept is None or kept.numel() < n * length:
            kept = self._kept[dtype, device] = torch.empty(n * length, dtype=dtype, device=device)
        return kept[: n * length].view(n, length)


class Forms:
    """The bilinear and linear forms of `blocks`, over parameters that are like `params` (their values are not read)."""

    def __init__(self, blocks: Sequence[Block], params: Values, scratch: Scratch | None = None) -> None:
        scratch = scratch or Scratch()
        order = sorted(range(len(blocks)), key=lambda i: blocks[i].linear)
        stops = dict(zip(order, accumulate(blocks[i].size for i in order), strict=True))
        self.slices = tuple(slice(stops[i] - b.size, stops[i]) for i, b in enumerate(blocks))
        self._quadratic = _Sums([b for b in blocks if not b.linear], params, scratch)
        self._linear = _Sums([b for b in blocks if b.linear], params, scratch)
        self.rows = self._quadratic.rows, self._linear.rows  # (quadratic, linear)
        self.device = self._quadratic.device if self.rows[0] else self._linear.device

    def __call__(self, pairs: Sequence[Pair]) -> Tensor:
        """<a, D b> and <c, a> for every pair (a, b): [pairs, rows]. A name that a mapping lacks counts as zero."""
        return torch.cat((self.bilinear(pairs), self.linear([a for a, _ in pairs])), dim=1)

    @torch.no_grad()
    def bilinear(self, pairs: Sequence[Pair]) -> Tensor:
        """<a, D b> for every pair (a, b): [pairs, quadratic rows]."""
        return self._quadratic.combine(self._quadratic.products(pairs), self._quadratic.weights)

    @torch.no_grad()
    def linear(self, xs: Sequence[Values]) -> Tensor:
        """<c, x> for every x: [xs, linear rows]."""
        return self._linear.combine(self._linear.values(xs), self._linear.weights)

    @torch.no_grad()
    def charges(self, params: Values) -> tuple[Tensor, Tensor]:
        """(charge, scale), both [rows]. Scale is the same sum with absolute values: what a residual is divided by."""
        quadratic, linear = self._quadratic, self._linear
        squares = quadratic.products([(params, params)])
        signed, unsigned = linear.values([params], magnitudes=True).split(1)
        charge = quadratic.combine(squares, quadratic.weights), linear.combine(signed, linear.weights)
        scale = quadratic.combine(squares, quadratic.magnitudes), linear.combine(unsigned, linear.magnitudes)
        return torch.cat(charge, dim=1)[0], torch.cat(scale, dim=1)[0]


def blank(params: Values) -> dict[str, Tensor]:
    """Zeros with the shapes, dtypes and devices of `params`, in no memory."""
    return {name: torch.zeros((), dtype=p.dtype, device=p.device).expand(p.shape) for name, p in params.items()}


class _Read(NamedTuple):
    """One piece of a parameter: read as `shape`, summed over the axes `sums` one after the other."""

    shape: tuple[int, ...]
    sums: tuple[int, ...]


class _Bucket(NamedTuple):
    """Parameters flattened together; `sizes` cuts the vector into what the pieces of each entry of `reads` read."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    reads: tuple[tuple[_Read, ...], ...]


class _Sums:
    """The compiled sums of blocks of one kind."""

    def __init__(self, blocks: Sequence[Block], params: Values, scratch: Scratch) -> None:
        places = {t: _place(t, params) for b in blocks for t in b.terms}
        read = {p.parameter: params[p.parameter] for p in places.values()}
        self._zeros = blank(read)
        self._scattered = len({p.device for p in read.values()}) > 1
        self.device = next((p.device for p in read.values()), torch.device("cpu"))
        self.rows = sum(b.size for b in blocks)

        pieces = list(dict.fromkeys(places.values()))
        count = Counter(p.parameter for p in pieces)
        whole = {p.parameter for p in pieces if count[p.parameter] == 1 and len(p.kept) == len(p.view)}
        order = {name: i for i, name in enumerate(read)}
        pieces.sort(key=lambda p: (p.parameter in whole, order[p.parameter], p.view))
        stops = accumulate(p.size for p in pieces)
        starts = {p: stop - p.size for p, stop in zip(pieces, stops, strict=True)}
        self._buckets = _buckets(pieces, whole, BUCKET_CPU if self.device.type == "cpu" else BUCKET)
        self._index, self.weights = (x.to(self.device) for x in _weave(blocks, places, starts, self.rows))
        self.magnitudes = self.weights.abs()
        self._dtype = torch.float64 if any(p.dtype.itemsize > 4 for p in read.values()) else torch.float32
        self._scratch = scratch

    def products(self, pairs: Sequence[Pair]) -> Tensor:
        """The pieces of a * b for every pair: [pairs, pieces]."""
        distinct = {id(x): x for pair in pairs for x in pair}

        def fill(bucket: _Bucket, out: Tensor, spare: Tensor) -> None:
            flat = {k: self._flat(x, bucket, row) for (k, x), row in zip(distinct.items(), spare, strict=True)}
            for (a, b), z in zip(pairs, out, strict=True):
                torch.mul(flat[id(a)], flat[id(b)], out=z)

        return self._reduce(fill, len(pairs), len(distinct))

    def values(self, xs: Sequence[Values], magnitudes: bool = False) -> Tensor:
        """The pieces of every x, followed by those of every |x| if asked for: [xs, pieces]."""

        def fill(bucket: _Bucket, out: Tensor, spare: Tensor) -> None:
            for x, row in zip(xs, out, strict=False):
                row.copy_(self._flat(x, bucket, row))
            if magnitudes:
                torch.abs(out[: len(xs)], out=out[len(xs) :])

        return self._reduce(fill, len(xs) * (1 + magnitudes), 0)

    def combine(self, pieces: Tensor, weights: Tensor) -> Tensor:
        """From pieces [pairs, pieces] to members [pairs, rows]."""
        if not self.rows:
            return pieces
        return (pieces.index_select(1, self._index).view(len(pieces), *weights.shape) * weights).sum(1)

    def _flat(self, x: Values, bucket: _Bucket, out: Tensor) -> Tensor:
        """The parameters of a bucket as one vector of the scratch's dtype: itself if it is one already, else `out`."""
        found = [x[name] if name in x else self._zeros[name] for name in bucket.names]
        parts = [(v if v.layout is torch.strided else v.to_dense()).flatten() for v in found]
        if self._scattered:
            parts = [v.to(self.device, non_blocking=True) for v in parts]
        if len(parts) > 1:
            return torch.cat(parts, out=out)
        return parts[0] if parts[0].dtype == out.dtype else out.copy_(parts[0])

    def _reduce(self, fill: Callable[[_Bucket, Tensor, Tensor], None], n: int, spare: int) -> Tensor:
        """The pieces of `n` vectors, float64: `fill(bucket, vectors, spare vectors)` writes them bucket by bucket."""
        pieces = []
        for bucket in self._buckets:
            memory = self._scratch.vectors(n + spare, sum(bucket.sizes), self._dtype, self.device)
            vectors, rest = memory.split((n, spare))
            fill(bucket, vectors, rest)
            for z, reads in zip(vectors.split(bucket.sizes, dim=1), bucket.reads, strict=True):
                for shape, sums in reads:
                    x = z.view(n, *shape)
                    for axis in sums:
                        x = x.sum(axis)
                    pieces.append(x.reshape(n, -1) if sums else x.clone())  # the scratch is used again
        return torch.cat(pieces, dim=1).double() if pieces else self.weights.new_empty(n, 0)


class _Piece(NamedTuple):
    """An array that terms are read from: the `view` of a parameter, summed over all axes but those `kept`."""

    parameter: str
    view: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.view[a] for a in self.kept)


def _place(t: Term, params: Values) -> _Piece:
    shape = tuple(params[t.parameter].shape)
    t.size(shape)  # raises if the term does not fit
    selected = tuple(a for a, _ in t.part.select) if t.part else ()
    return _Piece(t.parameter, tuple(t.part.shape) if t.part else shape, tuple(sorted((*t.axes, *selected))))


def _members(t: Term, piece: _Piece) -> Tensor:
    """Where in the piece the members of the term stand, in their order."""
    place = torch.arange(piece.size).reshape([piece.view[a] for a in piece.kept])
    left = list(piece.kept)
    for axis, i in t.part.select if t.part else ():
        place = place.select(left.index(axis), i)
        left.remove(axis)
    return place.permute([left.index(a) for a in t.axes]).reshape(-1)


def _weave(
    blocks: Sequence[Block], places: Mapping[Term, _Piece], starts: Mapping[_Piece, int], rows: int
) -> tuple[Tensor, Tensor]:
    """For the i-th term of every row, where it stands among the pieces and its weight: both [terms, rows]."""
    depth = max((len(b.terms) for b in blocks), default=0)
    index = torch.zeros(depth, rows, dtype=torch.long)
    weights = torch.zeros(depth, rows, dtype=torch.float64)
    stop = 0
    for b in blocks:
        here = slice(stop, stop := stop + b.size)
        for i, t in enumerate(b.terms):
            index[i, here] = starts[places[t]] + _members(t, places[t])
            weights[i, here] = float(t.weight)
        index[len(b.terms) :, here] = index[0, here]  # padding, of weight 0
    return index.flatten(), weights


def _buckets(pieces: Sequence[_Piece], whole: set[str], limit: int) -> list[_Bucket]:
    """Buckets of at most `limit` elements (or one parameter), in the order of the pieces.

    The parameters in `whole` are pieces as they are: those of a bucket are cut out of the flat vector together.
    """
    kept: dict[str, dict[tuple[int, ...], list[tuple[int, ...]]]] = {}
    for p in pieces:
        kept.setdefault(p.parameter, {}).setdefault(p.view, []).append(p.kept)
    buckets: list[_Bucket] = []
    for name, views in kept.items():
        size = math.prod(next(iter(views)))
        if not buckets or sum(buckets[-1].sizes) + size > limit:
            buckets.append(_Bucket((), (), ()))
        names, sizes, reads = buckets[-1]
        if name in whole and reads and reads[-1] == (_Read((sizes[-1],), ()),):
            size, sizes, reads = size + sizes[-1], sizes[:-1], reads[:-1]
        as_it_is = (_Read((size,), ()),)
        read = as_it_is if name in whole else tuple(_read(view, k) for view, ks in views.items() for k in ks)
        buckets[-1] = _Bucket((*names, name), (*sizes, size), (*reads, read))
    return buckets


def _read(view: Sequence[int], kept: Sequence[int]) -> _Read:
    """How to sum over all axes but those kept: neighbours at once, from the slowest axis to the fastest.

    Axes count from 1: axis 0 is that of the vectors.
    """
    shape: list[int] = []
    sums: list[int] = []
    for is_kept, run in groupby(range(len(view)), key=lambda a: a in kept):
        shape.append(math.prod(view[a] for a in run))
        if not is_kept:
            sums.append(len(shape) - len(sums))
    return _Read(tuple(shape), tuple(sums))
