"""Measuring charges: sums over the elements of each member, for all families at once and in few passes.

A charge is a bilinear form <a, D b> = sum_e w_e a_e b_e (scale, rescale) or a linear one <c, a> = sum_e w_e a_e
(translation), and every law needs a few of them a step. `Symmetry.charge` says what is summed; `Forms` compiles it:

    flatten   the parameters that are read into one float64 vector (in buckets, which bound the scratch memory)
    reduce    each parameter once, to the coarsest arrays ("pieces") from which all of its terms can be read
    combine   one gather with weights, from the pieces to the members

Shapes: `rows` are the members of all blocks, those of the quadratic blocks first; a measurement is [pairs, rows],
float64, on the device of the parameters. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.symmetry import Symmetry, Term

# Elements flattened together (one parameter may have more). On a CPU a vector should stay in the cache, and be small
# enough for the allocator to keep its memory; elsewhere launching kernels costs more than memory.
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


class Forms:
    """The bilinear and linear forms of `blocks`, over parameters that are like `params` (their values are not read)."""

    def __init__(self, blocks: Sequence[Block], params: Values) -> None:
        order = sorted(range(len(blocks)), key=lambda i: blocks[i].linear)
        stops = dict(zip(order, accumulate(blocks[i].size for i in order), strict=True))
        self.slices = tuple(slice(stops[i] - b.size, stops[i]) for i, b in enumerate(blocks))
        self._quadratic = _Sums([b for b in blocks if not b.linear], params)
        self._linear = _Sums([b for b in blocks if b.linear], params)
        self.rows = self._quadratic.rows, self._linear.rows  # (quadratic, linear)
        self.device = self._quadratic.device if self.rows[0] else self._linear.device

    @torch.no_grad()
    def __call__(self, pairs: Sequence[Pair]) -> Tensor:
        """<a, D b> and <c, a> for every pair (a, b): [pairs, rows]. A name that a mapping lacks counts as zero."""
        quadratic, linear = self._quadratic, self._linear
        bilinear = quadratic.combine(quadratic.products(pairs), quadratic.weights)
        plain = linear.combine(linear.values([a for a, _ in pairs]), linear.weights)
        return torch.cat((bilinear, plain), dim=1)

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
    """One view of a parameter: sum over the axes `inner`, then over each of `outer`, which gives one piece each."""

    shape: tuple[int, ...]
    inner: tuple[int, ...]
    outer: tuple[tuple[int, ...], ...]


class _Bucket(NamedTuple):
    """Parameters flattened together; `sizes` cuts the vector into what each entry of `reads` reads (none: a piece)."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    reads: tuple[tuple[_Read, ...], ...]


class _Sums:
    """The compiled sums of blocks of one kind."""

    def __init__(self, blocks: Sequence[Block], params: Values) -> None:
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

    def products(self, pairs: Sequence[Pair]) -> Tensor:
        """The pieces of a * b for every pair: [pairs, pieces]."""
        distinct = {id(x): x for pair in pairs for x in pair}

        def rows(bucket: _Bucket) -> Tensor:
            flat = {key: self._flatten(x, bucket) for key, x in distinct.items()}
            out = torch.empty(len(pairs), sum(bucket.sizes), dtype=torch.float64, device=self.device)
            for (a, b), z in zip(pairs, out, strict=True):
                torch.mul(flat[id(a)], flat[id(b)], out=z)
            return out

        return self._reduce(rows, len(pairs))

    def values(self, xs: Sequence[Values], magnitudes: bool = False) -> Tensor:
        """The pieces of every x, followed by those of every |x| if asked for: [xs, pieces]."""

        def rows(bucket: _Bucket) -> Tensor:
            flat = [self._flatten(x, bucket) for x in xs]
            return torch.stack(flat + [x.abs() for x in flat] if magnitudes else flat)

        return self._reduce(rows, len(xs) * (1 + magnitudes))

    def combine(self, pieces: Tensor, weights: Tensor) -> Tensor:
        """From pieces [pairs, pieces] to members [pairs, rows]."""
        if not self.rows:
            return pieces
        return (pieces.index_select(1, self._index).view(len(pieces), *weights.shape) * weights).sum(1)

    def _flatten(self, x: Values, bucket: _Bucket) -> Tensor:
        found = [x[name] if name in x else self._zeros[name] for name in bucket.names]
        parts = [(v if v.layout is torch.strided else v.to_dense()).flatten() for v in found]
        if self._scattered:
            parts = [v.to(self.device, non_blocking=True) for v in parts]
        return torch.cat(parts).double()

    def _reduce(self, rows: Callable[[_Bucket], Tensor], n: int) -> Tensor:
        pieces = []
        for bucket in self._buckets:
            for z, reads in zip(rows(bucket).split(bucket.sizes, dim=1), bucket.reads, strict=True):
                if not reads:
                    pieces.append(z)
                for shape, inner, outer in reads:
                    x = z.view(n, *shape)
                    x = x.sum(inner) if inner else x
                    pieces += [(x.sum(axes) if axes else x).reshape(n, -1) for axes in outer]
        return torch.cat(pieces, dim=1) if pieces else torch.empty(n, 0, dtype=torch.float64, device=self.device)


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
        if name in whole and reads and not reads[-1]:
            sizes, reads = (*sizes[:-1], sizes[-1] + size), reads[:-1]
        else:
            sizes = (*sizes, size)
        read = () if name in whole else tuple(_read(view, k) for view, k in views.items())
        buckets[-1] = _Bucket((*names, name), sizes, (*reads, read))
    return buckets


def _read(view: tuple[int, ...], kepts: Sequence[tuple[int, ...]]) -> _Read:
    """Axes count from 1: axis 0 is that of the pairs."""
    union = sorted(set().union(*kepts))
    inner = tuple(1 + a for a in range(len(view)) if a not in union)
    return _Read(view, inner, tuple(tuple(1 + i for i, a in enumerate(union) if a not in kept) for kept in kepts))
