"""Sums over the elements of each member, compiled: chunk by chunk, with no vector ever made whole.

    fill      chunks of the parameters, or their products, in scratch memory that is kept from step to step
    reduce    each chunk into the coarsest arrays ("pieces") from which the terms of its parameter can be read
    combine   one gather with weights, from the pieces to the members

A step is bound by memory and by the number of kernels, not by arithmetic. Hence the kept scratch; products and sums
within a chunk in float32 for parameters of float32 or less (PyTorch sums in cascades: an error of some 1e-7, against
1e-7 by which every update is rounded anyhow); and pieces that one chunk holds whole are summed in place. What several
chunks add to is added in float64, and so is everything from the pieces to the members.
"""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.forms.chunks import Chunk, Piece, Read, chunks, piece_of, places
from neuromech.dynamics.forms.vectors import Pair, Reader, Scratch, Values, Vector, cuts_of, shown
from neuromech.symmetry import Symmetry, Term

# Elements of a chunk. On a CPU what a thread has of it should stay in its cache, and the whole be a small part of the
# parameters; elsewhere launching kernels costs more than memory.
CHUNK_CPU, LEAST_CHUNK_CPU, CHUNK = 2**17, 2**16, 2**22
CHUNKS = 42  # of a model, at least, on a CPU

Flat = Mapping[int, Tensor | None]
"""A chunk of each vector, flattened, by the vector's number; None: all zero."""


class Block(NamedTuple):
    """Terms that are summed together: a family, or a part of one. What mixes elements is summed in products.py."""

    size: int
    linear: bool
    terms: tuple[Term, ...]
    members: range | None = None  # that are summed, of more than there are of them; None: all
    directions: int | None = None  # of a matrix family, 0: its members are entries; None: it is none
    lengths: bool = False  # of a matrix family: |x_a| |x_b| in place of entry (a, b), terms without their signs

    @classmethod
    def of(cls, s: Symmetry, members: range | None = None) -> Block:
        every = members is None or len(members) == s.size
        size, directions = s.size if members is None else len(members), s.directions if s.kind == "matrix" else None
        return cls(size, s.is_linear, s.terms, None if every else members, directions)

    @property
    def mixes(self) -> bool:
        return self.directions is not None

    def unsigned(self) -> Block:
        """What the charge is at most: the same with the absolute values of weights, quadratic if it was linear."""
        terms = tuple(replace(t, weight=abs(t.weight)) for t in self.terms)
        return self._replace(linear=False, terms=terms, lengths=self.mixes)

    def elements(self, params: Values) -> float:
        """How many elements stand behind each member, in the mean."""
        shapes = [(t, params[t.parameter].shape) for t in self.terms]
        rows = [t.view(shape)[t.along] if t.along is not None else 1 for t, shape in shapes]
        return sum(
            float(abs(t.weight)) * math.prod(shape) / (n * t.size(shape))
            for (t, shape), n in zip(shapes, rows, strict=True)
        )

    def places(self, t: Term, piece: Piece) -> Tensor:
        """See `chunks.places`: of the members that are summed."""
        found = places(t, piece)
        return found if self.members is None else found[self.members.start : self.members.stop]


class _Reads(NamedTuple):
    """What is read from a chunk into pieces that it holds whole, and what is added to pieces that others share."""

    whole: tuple[Read, ...]
    shared: tuple[Read, ...]

    def __bool__(self) -> bool:
        return bool(self.whole or self.shared)


class _Job(NamedTuple):
    """Row `row` of the pieces of a kind: of a * b, a or |a|, vectors by number. `asked`: 0 all pieces of products, 1
    all of values, 2 those of products that few blocks need."""

    row: int
    asked: int
    a: int
    b: int | None = None
    magnitude: bool = False

    @property
    def kind(self) -> int:
        return int(self.asked == 1)


class Sums:
    """The compiled sums of blocks, of products and of values, in one pass over the parameters.

    `quadratic` blocks are sums of products, `linear` ones of values; of the quadratic those numbered `few` can be asked
    for alone.
    """

    def __init__(
        self,
        quadratic: Sequence[Block],
        linear: Sequence[Block],
        params: Values,
        scratch: Scratch,
        few: Collection[int] = (),
    ) -> None:
        kinds = quadratic, linear
        self.rows = tuple(sum(b.size for b in blocks) for blocks in kinds)
        read_from = [
            _boxed(b, {t: piece_of(t, params[t.parameter].shape)._replace(kind=k) for x in b for t in x.terms}, params)
            for k, b in enumerate(kinds)
        ]
        pieces = _in_order(p for found in read_from for p in found.values())
        read = {p.parameter: params[p.parameter] for p in pieces}
        self._scattered = len({p.device for p in read.values()}) > 1
        self.device = next((p.device for p in read.values()), torch.device("cpu"))
        self._dtype = torch.float64 if any(p.dtype.itemsize > 4 for p in read.values()) else torch.float32
        self._scratch = scratch

        limit = _chunk_size(params, self.device)
        shared = _shared(pieces, limit)
        of_kinds = [[p for p in pieces if p.kind == k] for k in range(len(kinds))]
        places = [_offsets(own, key=lambda p: p not in shared) for own in of_kinds]
        self._sizes = [sum(p.size for p in own) for own in of_kinds]
        self._shared = [sum(p.size for p in own if p in shared) for own in of_kinds]
        self._chunks = chunks({p: places[p.kind][p] for p in pieces}, limit)
        self._cuts = cuts_of((r for chunk in self._chunks for r in chunk.ranges), params)
        wanted = torch.zeros(self._sizes[0], dtype=torch.bool)
        for p in {read_from[0][t] for i in few for t in quadratic[i].terms}:
            wanted[places[0][p] : places[0][p] + p.size] = True
        self._reads = []
        for chunk in self._chunks:
            products, values = ([r for r in chunk.reads if r.kind == k] for k in range(len(kinds)))
            some = [r for r in products if wanted.as_strided(*_place(r)).any()]
            self._reads.append(tuple(map(self._divided, (products, values, some))))
        weaves = [_weave(*one) for one in zip(kinds, read_from, places, strict=True)]
        self._weave = [tuple(x.to(self.device) for x in weave) for weave in weaves]

    def __call__(
        self,
        pairs: Sequence[Pair],
        xs: Sequence[Vector] = (),
        few: Collection[int] = (),
        magnitudes: Sequence[Vector] = (),
    ) -> list[Tensor]:
        """The pieces of a * b for every pair: [pairs, pieces]; and of every x, followed by those of |x| for every one
        of `magnitudes`: [values, pieces]. Of pairs numbered `few`, only what few blocks need."""
        jobs = [_Job(i, 2 if i in few else 0, id(a), id(b)) for i, (a, b) in enumerate(pairs)]
        jobs += [_Job(i, 1, id(x)) for i, x in enumerate(xs)]
        jobs += [_Job(i, 1, id(x), magnitude=True) for i, x in enumerate(magnitudes, len(xs))]
        return self._reduce([*(x for pair in pairs for x in pair), *xs, *magnitudes], jobs)

    def combine(self, pieces: Tensor, kind: int, signed: Sequence[int], magnitudes: Sequence[int] = ()) -> Tensor:
        """From pieces [jobs, pieces] of a kind to members [signed and magnitudes, rows]: of the jobs numbered `signed`;
        behind them of those numbered `magnitudes`, with the absolute weights."""
        rows, index, weight = self._weave[kind]
        out = pieces.new_zeros(len(signed) + len(magnitudes), self.rows[kind])
        for i, job in enumerate((*signed, *magnitudes) if self.rows[kind] else ()):
            w = weight if i < len(signed) else weight.abs()
            out[i].index_add_(0, rows, pieces[job].index_select(0, index).mul_(w))
        return out

    def _reduce(self, vectors: Iterable[Vector], jobs: Sequence[_Job]) -> list[Tensor]:
        """The pieces of each kind that the jobs make, in each chunk anew: [jobs, pieces], float64."""
        many = [sum(job.kind == k for job in jobs) for k in range(len(self._sizes))]
        held = [size - shared for size, shared in zip(self._sizes, self._shared, strict=True)]

        def zeros(sizes: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
            return [torch.zeros(n * m, dtype=dtype, device=self.device) for n, m in zip(many, sizes, strict=True)]

        shared, whole = zeros(self._shared, torch.float64), zeros(held, self._dtype)
        readers = {key: Reader(x, self._cuts) for key, x in {id(x): x for x in vectors}.items()}
        slots = {key: slot for slot, key in enumerate(readers, 1)}
        partial, name = _Partial(shared), ""
        for chunk, reads in zip(self._chunks, self._reads, strict=True):
            if chunk.ranges[0].name != name:
                name = chunk.ranges[0].name
                partial.flush()
            asked = [job for job in jobs if reads[job.asked]]
            needed = dict.fromkeys(key for job in asked for key in (job.a, job.b) if key is not None)
            flat = {key: self._flat(readers[key], chunk, slots[key]) for key in needed}
            out = self._scratch.vector(chunk.length, self._dtype, self.device)
            for job in asked:
                z = _made(flat, job, out)
                if z is None:
                    continue
                k, look = job.kind, self._scratch.shown if z is out else shown
                for r in reads[job.asked].whole:
                    to = whole[k].as_strided(r.size, r.stride, job.row * held[k] + r.offset - self._shared[k])
                    x = look(z, r)
                    for axis in r.sums[:-1]:
                        x = x.sum(axis)
                    torch.sum(x, r.sums[-1], out=to) if r.sums else to.copy_(x)
                for r in reads[job.asked].shared:
                    x = look(z, r)
                    for axis in r.sums:
                        x = x.sum(axis)
                    partial.add(x, r, job.row * self._shared[k] + r.offset)
        partial.flush()
        return [
            torch.cat((a.view(n, -1), b.view(n, -1).double()), dim=1) if a.numel() else b.view(n, size).double()
            for n, a, b, size in zip(many, shared, whole, held, strict=True)
        ]

    def _flat(self, reader: Reader, chunk: Chunk, slot: int) -> Tensor | None:
        """The ranges of a chunk as one vector of our dtype, in the scratch if it is none already; None: all zero."""
        if len(chunk.ranges) == 1 and not self._scattered:
            only = reader.read(chunk.ranges[0])
            if only is None or only.dtype is self._dtype:
                return only
            return self._scratch.vector(chunk.length, self._dtype, self.device, slot).copy_(only)
        found = [reader.read(r) for r in chunk.ranges]
        if all(v is None for v in found):
            return None
        parts = [
            torch.zeros(r.length, dtype=self._dtype, device=self.device) if v is None else v
            for v, r in zip(found, chunk.ranges, strict=True)
        ]
        if self._scattered:
            parts = [v.to(self.device, non_blocking=True) for v in parts]
        out = self._scratch.vector(chunk.length, self._dtype, self.device, slot)
        return torch.cat(parts, out=out)

    def _divided(self, reads: Iterable[Read]) -> _Reads:
        whole: list[Read] = []
        shared: list[Read] = []
        for r in reads:
            (shared if r.offset < self._shared[r.kind] else whole).append(r)
        return _Reads(tuple(whole), tuple(shared))


def _made(flat: Flat, job: _Job, out: Tensor) -> Tensor | None:
    """What a job reads its pieces from; None: all zero."""
    x = flat[job.a]
    if x is None or job.b is None:
        return torch.abs(x, out=out) if x is not None and job.magnitude else x
    y = flat[job.b]
    return None if y is None else torch.mul(x, y, out=out)


class _Partial:
    """What chunks add to the same places of the `out` of a kind: those of one parameter are added up together."""

    def __init__(self, out: Sequence[Tensor]) -> None:
        self._out = out
        self._waiting: dict[tuple[int, tuple[int, ...], tuple[int, ...], int], list[Tensor]] = {}

    def add(self, x: Tensor, r: Read, offset: int) -> None:
        if r.sums:
            self._waiting.setdefault((r.kind, r.size, r.stride, offset), []).append(x)
        else:  # a view of what will be written to
            self._out[r.kind].as_strided(r.size, r.stride, offset).add_(x)

    def flush(self) -> None:
        for (kind, size, stride, offset), xs in self._waiting.items():
            x = torch.stack(xs).sum(0, dtype=torch.float64) if xs[1:] else xs[0]
            self._out[kind].as_strided(size, stride, offset).add_(x)
        self._waiting.clear()


def _place(r: Read) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    return r.size, r.stride, r.offset


def _shared(pieces: Sequence[Piece], limit: int) -> set[Piece]:
    """The pieces that more than one read adds to."""
    offsets = _offsets(pieces)
    count = torch.zeros(sum(p.size for p in pieces), dtype=torch.int32)
    for chunk in chunks(offsets, limit):
        for r in chunk.reads:
            count.as_strided(*_place(r)).add_(1)
    return {p for p in pieces if (count[offsets[p] : offsets[p] + p.size] > 1).any()}


def _offsets(pieces: Sequence[Piece], key: Callable[[Piece], bool] = lambda p: False) -> dict[Piece, int]:
    """Where each piece lies: those for which `key` is true behind all others."""
    placed = sorted(pieces, key=key)
    stops = accumulate(p.size for p in placed)
    at = {p: stop - p.size for p, stop in zip(placed, stops, strict=True)}
    return {p: at[p] for p in pieces}


def _boxed(blocks: Sequence[Block], pieces: Mapping[Term, Piece], params: Values) -> Mapping[Term, Piece]:
    """Pieces of what is needed only: where not all members are summed, and if that is less to read than all once."""
    if all(b.members is None for b in blocks):
        return pieces
    needed: dict[Piece, list[Tensor]] = {}
    for b in blocks:
        for t in b.terms:
            needed.setdefault(pieces[t], []).append(b.places(t, pieces[t]).reshape(-1))
    boxes = {p: p.boxed(torch.cat(found)) for p, found in needed.items()}
    elements: Counter[str] = Counter()
    for p, box in boxes.items():
        elements[p.parameter] += math.prod(box.extent)
    small = {name for name, n in elements.items() if n < params[name].numel()}
    return {t: boxes[p] if p.parameter in small else p for t, p in pieces.items()}


def _in_order(pieces: Iterable[Piece]) -> list[Piece]:
    """Each piece once, by parameter; last the parameters that are read as they are, which neighbours then share."""
    by_parameter: dict[str, list[Piece]] = {}
    for p in dict.fromkeys(pieces):
        by_parameter.setdefault(p.parameter, []).append(p)
    as_it_is = [
        len({p.kind for p in ps}) == len(ps) and all(len(p.kept) == len(p.view) for p in ps)
        for ps in by_parameter.values()
    ]
    order = sorted(zip(as_it_is, by_parameter.values(), strict=True), key=lambda x: x[0])
    return [p for _, ps in order for p in ps]


def _chunk_size(params: Values, device: torch.device) -> int:
    if device.type != "cpu":
        return CHUNK
    return min(
        CHUNK_CPU * torch.get_num_threads(), max(LEAST_CHUNK_CPU, sum(p.numel() for p in params.values()) // CHUNKS)
    )


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
            found = pieces[t].within(b.places(t, pieces[t]))
            rows.append(torch.arange(start, start + b.size, dtype=torch.int32).repeat_interleave(found.shape[1]))
            index.append((offsets[pieces[t]] + found.reshape(-1)).int())
            weights.append(torch.full((found.numel(),), float(t.weight), dtype=dtype))
        start += b.size
    return torch.cat(rows), torch.cat(index), torch.cat([torch.zeros(0, dtype=dtype), *weights])
