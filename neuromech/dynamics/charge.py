"""Measuring charges: sums over the elements of each member, for all families at once and in few passes.

A charge is a bilinear form <a, D b> = sum_e w_e a_e b_e (scale, rescale) or a linear one <c, a> = sum_e w_e a_e
(translation), and every law needs a few of them a step. `Symmetry.charge` says what is summed; `Forms` compiles it:

    fill      chunks of the parameters, or their products, in scratch memory that is kept from step to step
    reduce    each chunk into the coarsest arrays ("pieces") from which the terms of its parameter can be read
    combine   one gather with weights, from the pieces to the members

A step is bound by memory, not by arithmetic, hence the kept scratch, and products and sums within a chunk in float32
for parameters of float32 or less (PyTorch sums in cascades: an error of some 1e-7, against 1e-7 by which every update
is rounded anyhow); from chunks to members, and in all laws, in float64. No vector is ever made whole: besides the
weights themselves, a measurement holds a chunk of each.

Shapes: `rows` are the members of all blocks, those of the quadratic blocks first; a measurement is [pairs, rows],
float64, on the device of the parameters. Nothing here waits for the device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.chunks import Chunk, Piece, Range, chunks, piece_of, places
from neuromech.symmetry import Symmetry, Term

# Elements of a chunk. On a CPU a chunk should stay in the cache, and be about a hundredth of the parameters at most;
# elsewhere launching kernels costs more than memory.
CHUNK_CPU, LEAST_CHUNK_CPU, CHUNK = 2**17, 2**12, 2**22
CHUNKS = 85  # of a model, at least, on a CPU

Window = Callable[[Tensor], Tensor]
"""Takes a tensor of a parameter's shape to a flat piece of it: the same piece for every tensor."""


class Computed(NamedTuple):
    """An entry of a vector that is computed when it is read. `of(window)` gives the piece that the window shows;
    not `local`: what it computes mixes elements, so it is asked once, for the whole."""

    of: Callable[[Window], Tensor]
    local: bool = True


Values = Mapping[str, Tensor]
Vector = Mapping[str, Tensor | Computed]
Pair = tuple[Vector, Vector]


class Block(NamedTuple):
    """Terms that are summed together: a family, or a part of one."""

    size: int
    linear: bool
    terms: tuple[Term, ...]

    @classmethod
    def of(cls, s: Symmetry) -> Block:
        return cls(s.size, s.is_linear, s.terms)


class Scratch:
    """Memory kept from one measurement to the next; each overwrites it. Sized by a chunk."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def vector(self, length: int, dtype: torch.dtype, device: torch.device, slot: int = 0) -> Tensor:
        """[length], of any content; what has another slot lies elsewhere."""
        kept = self._kept.get((slot, dtype, device))
        if kept is None or kept.numel() < length:
            kept = self._kept[slot, dtype, device] = torch.empty(length, dtype=dtype, device=device)
        return kept[:length]


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
        """<a, D b> and <c, a> for every pair (a, b): [pairs, rows]. A name that a vector lacks counts as zero."""
        return torch.cat((self.bilinear(pairs), self.linear([a for a, _ in pairs])), dim=1)

    @torch.no_grad()
    def bilinear(self, pairs: Sequence[Pair]) -> Tensor:
        """<a, D b> for every pair (a, b): [pairs, quadratic rows]."""
        return self._quadratic.combine(self._quadratic.products(pairs))

    @torch.no_grad()
    def linear(self, xs: Sequence[Vector]) -> Tensor:
        """<c, x> for every x: [xs, linear rows]."""
        return self._linear.combine(self._linear.values(xs))

    @torch.no_grad()
    def charges(self, params: Values, moved: Vector | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """(charge, scale, torque), [rows], [rows] and [2, rows].

        Scale is the same sum with absolute values: what a residual is divided by. Torque, with the vector `moved`, are
        <moved, D params> and <moved, D moved>, or <c, moved> and 0, from the same pass over the parameters.
        """
        quadratic, linear = self._quadratic, self._linear
        also, vectors = ([], [params]) if moved is None else ([(moved, params), (moved, moved)], [params, moved])
        products = quadratic.products([(params, params), *also])
        signed, unsigned = linear.values(vectors, magnitudes=True).split(len(vectors))
        scale = quadratic.combine(products[:1], magnitudes=True), linear.combine(unsigned[:1], magnitudes=True)
        forms, sums = quadratic.combine(products), linear.combine(signed)
        charge = torch.cat((forms[0], sums[0]))
        if moved is None:
            return charge, torch.cat(scale, dim=1)[0], None
        torque = torch.cat((forms[1:], torch.stack((sums[1], torch.zeros_like(sums[1])))), dim=1)
        return charge, torch.cat(scale, dim=1)[0], torque


def blank(params: Values) -> dict[str, Tensor]:
    """Zeros with the shapes, dtypes and devices of `params`, in no memory."""
    return {name: torch.zeros((), dtype=p.dtype, device=p.device).expand(p.shape) for name, p in params.items()}


class _Sums:
    """The compiled sums of blocks of one kind."""

    def __init__(self, blocks: Sequence[Block], params: Values, scratch: Scratch) -> None:
        read_from = {t: piece_of(t, params[t.parameter].shape) for b in blocks for t in b.terms}
        read = {p.parameter: params[p.parameter] for p in read_from.values()}
        self._scattered = len({p.device for p in read.values()}) > 1
        self.device = next((p.device for p in read.values()), torch.device("cpu"))
        self.rows = sum(b.size for b in blocks)

        pieces = _in_order(read_from.values())
        stops = accumulate(p.size for p in pieces)
        offsets = {p: stop - p.size for p, stop in zip(pieces, stops, strict=True)}
        self._pieces = sum(p.size for p in pieces)
        self._chunks = chunks(offsets, _chunk_size(params, self.device))
        self._row, self._index, self._weight = (x.to(self.device) for x in _weave(blocks, read_from, offsets))
        self._dtype = torch.float64 if any(p.dtype.itemsize > 4 for p in read.values()) else torch.float32
        self._scratch = scratch

    def products(self, pairs: Sequence[Pair]) -> Tensor:
        """The pieces of a * b for every pair: [pairs, pieces]."""
        distinct = {id(x): x for pair in pairs for x in pair}
        keys = [(id(a), id(b)) for a, b in pairs]

        def made(flat: dict[int, Tensor | None], out: Tensor) -> Iterator[Tensor | None]:
            for a, b in keys:
                x, y = flat[a], flat[b]
                yield None if x is None or y is None else torch.mul(x, y, out=out)

        return self._reduce(distinct, made, len(pairs))

    def values(self, xs: Sequence[Vector], magnitudes: bool = False) -> Tensor:
        """The pieces of every x, followed by those of every |x| if asked for: [xs, pieces]."""

        def made(flat: dict[int, Tensor | None], out: Tensor) -> Iterator[Tensor | None]:
            yield from (flat[id(x)] for x in xs)
            if magnitudes:
                yield from (None if v is None else torch.abs(v, out=out) for v in (flat[id(x)] for x in xs))

        return self._reduce({id(x): x for x in xs}, made, len(xs) * (1 + magnitudes))

    def combine(self, pieces: Tensor, magnitudes: bool = False) -> Tensor:
        """From pieces [pairs, pieces] to members [pairs, rows]; `magnitudes`: with the absolute values of weights."""
        weight = self._weight.abs() if magnitudes else self._weight
        out = pieces.new_zeros(len(pieces), self.rows)
        for z, row in zip(pieces, out, strict=True):
            row.index_add_(0, self._row, z.index_select(0, self._index) * weight)
        return out

    def _flat(self, reader: _Reader, x: Vector, chunk: Chunk, slot: int) -> Tensor | None:
        """The ranges of a chunk as one vector of our dtype, in the scratch if it is none already; None: all zero."""
        found = [reader.read(x, r) for r in chunk.ranges]
        if all(v is None for v in found):
            return None
        parts = [
            torch.zeros(r.stop - r.start, dtype=self._dtype, device=self.device) if v is None else v
            for v, r in zip(found, chunk.ranges, strict=True)
        ]
        if self._scattered:
            parts = [v.to(self.device, non_blocking=True) for v in parts]
        if len(parts) == 1 and parts[0].dtype == self._dtype:
            return parts[0]
        out = self._scratch.vector(chunk.length, self._dtype, self.device, slot)
        return torch.cat(parts, out=out) if len(parts) > 1 else out.copy_(parts[0])

    def _reduce(
        self,
        vectors: Mapping[int, Vector],
        made: Callable[[dict[int, Tensor | None], Tensor], Iterator[Tensor | None]],
        n: int,
    ) -> Tensor:
        """The pieces of the `n` vectors that `made(flat vectors, scratch)` makes one after the other, in each chunk
        anew: [n, pieces], float64. A vector of None is zero."""
        total = torch.zeros(n * self._pieces, dtype=torch.float64, device=self.device)
        reader = _Reader()
        for chunk in self._chunks:
            flat = {k: self._flat(reader, x, chunk, slot) for slot, (k, x) in enumerate(vectors.items(), 1)}
            out = self._scratch.vector(chunk.length, self._dtype, self.device)
            for i, z in enumerate(made(flat, out)):
                if z is None:
                    continue
                for start, stop, shape, sums, offset, size, stride in chunk.reads:
                    x = z[start:stop].view(shape)
                    for axis in sums:
                        x = x.sum(axis)
                    total.as_strided(size, stride, i * self._pieces + offset).add_(x)
        return total.view(n, self._pieces)


class _Reader:
    """Reads flat pieces of the entries of vectors. What does not lie in one piece, or is computed as a whole, is made
    once a parameter, not once a chunk."""

    def __init__(self) -> None:
        self._name = ""
        self._made: dict[int, tuple[object, Tensor]] = {}

    def read(self, x: Vector, r: Range) -> Tensor | None:
        """The piece of x that `r` names; None: x has no entry for that parameter."""
        entry = x.get(r.name)
        if entry is None:
            return None
        if r.name != self._name:
            self._name, self._made = r.name, {}

        def window(t: Tensor) -> Tensor:
            return self._once(t, lambda: (t if t.layout is torch.strided else t.to_dense()).flatten())[r.start : r.stop]

        if isinstance(entry, Tensor):
            return window(entry)
        if entry.local:
            return entry.of(window)
        return self._once(entry, lambda: entry.of(lambda t: t).flatten())[r.start : r.stop]

    def _once(self, key: object, make: Callable[[], Tensor]) -> Tensor:
        made = self._made.get(id(key))
        if made is None:
            made = self._made[id(key)] = key, make()  # the key is kept, so that its id is not given away
        return made[1]


def _in_order(pieces: Iterable[Piece]) -> list[Piece]:
    """Each piece once, by parameter; last the parameters that are read as they are, which neighbours then share."""
    by_parameter: dict[str, list[Piece]] = {}
    for p in dict.fromkeys(pieces):
        by_parameter.setdefault(p.parameter, []).append(p)
    as_it_is = [len(ps) == 1 and len(ps[0].kept) == len(ps[0].view) for ps in by_parameter.values()]
    order = sorted(zip(as_it_is, by_parameter.values(), strict=True), key=lambda x: x[0])
    return [p for _, ps in order for p in ps]


def _chunk_size(params: Values, device: torch.device) -> int:
    if device.type != "cpu":
        return CHUNK
    return min(CHUNK_CPU, max(LEAST_CHUNK_CPU, sum(p.numel() for p in params.values()) // CHUNKS))


def _weave(
    blocks: Sequence[Block], pieces: Mapping[Term, Piece], offsets: Mapping[Piece, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """What is added up: (to which row, from where among the pieces, with which weight), of one length."""
    rows: list[Tensor] = [torch.zeros(0, dtype=torch.int32)]
    index: list[Tensor] = [torch.zeros(0, dtype=torch.int32)]
    weights: list[Tensor] = []
    # Weights are small whole numbers, or nearly always.
    short = all(ctypes.c_float(w).value == w for b in blocks for t in b.terms for w in [float(t.weight)])
    dtype = torch.float32 if short else torch.float64
    start = 0
    for b in blocks:
        for t in b.terms:
            found = places(t, pieces[t])
            rows.append(torch.arange(start, start + b.size, dtype=torch.int32).repeat_interleave(found.shape[1]))
            index.append((offsets[pieces[t]] + found.reshape(-1)).int())
            weights.append(torch.full((found.numel(),), float(t.weight), dtype=dtype))
        start += b.size
    return torch.cat(rows), torch.cat(index), torch.cat([torch.zeros(0, dtype=dtype), *weights])
