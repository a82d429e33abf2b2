"""Vectors over the parameters of a model, and how flat pieces of them are read: as they lie in memory if they can be.

A vector maps names of parameters to tensors of their shapes (weights, gradients, momentum buffers), or to what computes
one when it is read. None is ever made whole; a name that a vector lacks counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.compat import is_sharded
from neuromech.dynamics.forms import shards
from neuromech.dynamics.forms.chunks import Range, Read
from neuromech.dynamics.forms.shards import is_elsewhere
from neuromech.errors import InstrumentError
from neuromech.optimizers import Window


class Computed(NamedTuple):
    """An entry of a vector that is computed when it is read. `of(window)` gives the piece that the window shows;
    not `local`: what it computes mixes elements, so it is asked once, for the whole."""

    of: Callable[[Window], Tensor]
    local: bool = True


Values = Mapping[str, Tensor]
Vector = Mapping[str, Tensor | Computed]
Pair = tuple[Vector, Vector]


def blank(params: Values) -> dict[str, Tensor]:
    """Zeros with the shapes, dtypes and devices of `params`, in no memory."""
    return {name: torch.zeros((), dtype=p.dtype, device=p.device).expand(p.shape) for name, p in params.items()}


def shown(z: Tensor, r: Read) -> Tensor:
    """What `r` reads of the chunk `z`, in its shape."""
    n = r.stop - r.start
    return (z if n == z.numel() else z.narrow(0, r.start, n)).view(r.shape)


class Scratch:
    """Memory kept from one measurement to the next; each overwrites it. Sized by a chunk."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}
        self._shown: dict[tuple[int, tuple[int, ...], int], Tensor] = {}

    def vector(self, length: int, dtype: torch.dtype, device: torch.device, slot: int = 0) -> Tensor:
        """[length], of any content; what has another slot lies elsewhere."""
        kept = self._kept.get((slot, dtype, device))
        size = 0 if kept is None else kept.numel()
        if kept is None or size < length:
            kept, size = torch.empty(length, dtype=dtype, device=device), length
            self._kept[slot, dtype, device] = kept
            self._shown.clear()
        return kept if size == length else kept.narrow(0, 0, length)

    def shown(self, z: Tensor, r: Read) -> Tensor:
        """The same of a vector of ours: chunks are alike, so that most such views have been there before."""
        key = r.start, r.shape, z.data_ptr()
        view = self._shown.get(key)
        if view is None:
            view = self._shown[key] = shown(z, r)
        return view


class Cuts(NamedTuple):
    """The ranges into which a parameter is cut, in order: all of it."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]


def cuts_of(ranges: Iterable[Range], params: Values) -> dict[str, Cuts]:
    """The cuts of the parameters that `ranges` cover once."""
    by_name: dict[str, list[Range]] = {}
    for r in ranges:
        by_name.setdefault(r.name, []).append(r)
    return {
        name: Cuts(tuple(r.start for r in rs), tuple(r.stop - r.start for r in rs))
        for name, rs in by_name.items()
        if [0, *(r.stop for r in rs)] == [*(r.start for r in rs), params[name].numel()] and not any(r.shape for r in rs)
    }


def whole(vector: Vector, name: str) -> Tensor | None:
    """All of one entry of a vector, for what mixes its elements; None: it is zero."""
    entry = vector.get(name)
    if entry is None or is_elsewhere(name):
        return None

    def dense(t: Tensor) -> Tensor:
        if is_sharded(t):
            raise InstrumentError(f"the charges of matrices need all of {name}, which lies on several processes")
        return t if t.layout is torch.strided else t.to_dense()

    return dense(entry) if isinstance(entry, Tensor) else entry.of(dense)


class Reader:
    """Reads flat pieces of one vector. What does not lie in one piece, or is computed as a whole, is made once a
    parameter, not once a chunk: ranges of one parameter should be read in a row."""

    def __init__(self, vector: Vector, cuts: Mapping[str, Cuts]) -> None:
        self._vector = vector
        # Where they lie in one piece, parameters are cut at once into the ranges that will be asked for.
        self._cut = {
            (name, start): piece
            for name, x in vector.items()
            if name in cuts and isinstance(x, Tensor) and _in_one_piece(x) and not is_elsewhere(name)
            for start, piece in zip(cuts[name].starts, _pieces(x, cuts[name].lengths), strict=True)
        }
        self._name = ""
        self._made: dict[int, tuple[object, Tensor]] = {}

    def read(self, r: Range) -> Tensor | None:
        """The piece that `r` names; None: the vector has no entry for that parameter."""
        piece: Tensor | None = self._cut.get((r.name, r.start))
        if piece is not None:
            return piece
        entry = self._vector.get(r.name)
        if entry is None or is_elsewhere(r.name):
            return None
        if r.name != self._name:
            self._name, self._made = r.name, {}

        def window(t: Tensor) -> Tensor:
            if is_sharded(t):
                return r.of(shards.piece(t, r.start, r.stop))
            if _in_one_piece(t):
                return r.of(t.view(-1)[r.start : r.stop])
            dense = self._once(t, lambda: (t if t.layout is torch.strided else t.to_dense()).flatten())
            return r.of(dense[r.start : r.stop])

        if isinstance(entry, Tensor):
            return window(entry)
        if entry.local:
            return entry.of(window)
        if any(isinstance(x, Tensor) and is_sharded(x) for x in self._vector.values()):
            raise InstrumentError(f"the step of {r.name} mixes elements that lie on several processes")
        return r.of(self._once(entry, lambda: entry.of(lambda t: t).flatten())[r.start : r.stop])

    def _once(self, key: object, make: Callable[[], Tensor]) -> Tensor:
        made = self._made.get(id(key))
        if made is None:
            made = self._made[id(key)] = key, make()  # the key is kept, so that its id is not given away
        return made[1]


def _pieces(x: Tensor, lengths: tuple[int, ...]) -> Sequence[Tensor]:
    flat = x.view(-1)
    return (flat,) if len(lengths) == 1 else flat.split_with_sizes(lengths)


def _in_one_piece(x: Tensor) -> bool:
    return x.layout is torch.strided and not is_sharded(x) and x.is_contiguous()
