"""Parameters that lie in parts on several processes (DTensor): each adds up what it holds, and the sum is the charge.

A process sees a sharded vector as the whole one with zeros for what lies elsewhere. What every process holds alike
counts in one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

import torch
from torch import Tensor

from neuromech.compat import local, place_of
from neuromech.errors import InstrumentError

_elsewhere: ContextVar[frozenset[str]] = ContextVar("elsewhere", default=frozenset())


@contextmanager
def counted_elsewhere(names: Collection[str]) -> Iterator[None]:
    """Inside, the parameters called `names` count as zero: another process counts them."""
    before = _elsewhere.set(frozenset(names))
    try:
        yield
    finally:
        _elsewhere.reset(before)


def is_elsewhere(name: str) -> bool:
    return name in _elsewhere.get()


def piece(t: Any, start: int, stop: int) -> Tensor:
    """Elements `start` to `stop` of a sharded tensor, flattened, with zeros for those that lie elsewhere.

    Raises `InstrumentError` for a tensor whose parts are not added up yet.
    """
    if any(p.is_partial() for p in t.placements):
        raise InstrumentError("a gradient is spread over the processes as a sum that nobody has taken yet (Partial)")
    mine = local(t)
    out = torch.zeros(stop - start, dtype=mine.dtype, device=mine.device)
    here = t.device_mesh.get_coordinate() or ()
    copies = [c for c, p in zip(here, t.placements, strict=True) if p.is_replicate()]
    shape, offset = place_of(t)
    if any(copies) or not mine.numel():
        return out
    if shape[1:] == tuple(t.shape[1:]):
        first = offset[0] * prod(shape[1:]) if shape else 0
        low, high = max(start, first), min(stop, first + mine.numel())
        if low < high:
            out[low - start : high - start] = mine.reshape(-1)[low - first : high - first]
        return out
    whole = torch.zeros(t.shape, dtype=mine.dtype, device=mine.device)
    whole[tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))] = mine
    return whole.reshape(-1)[start:stop]
