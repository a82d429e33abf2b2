"""A fixed sample of the elements of every tensor: what a step did to them is worked out element by element.

Conservation laws see every element and say *that* a step was wrong; a sample says *what* it did instead. The elements
are evenly spread over each tensor, in a stride that shares no factor with its last axis, so that they lie in many rows
and columns. No random numbers are drawn: those of the training run are not ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from neuromech.compat import is_sharded, local

SAMPLED = 128  # elements a tensor, at most


class Sample:
    """Which elements to read of the tensors of `shapes`: of sharded ones, the shapes and elements that lie here."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._strides = {name: _stride(shape) for name, shape in self._shapes.items()}
        self._index: dict[str, tuple[Tensor, ...]] = {}
        self._counts = {name: len(range(0, math.prod(s), self._strides[name])) for name, s in self._shapes.items()}
        self._views: dict[str, Tensor] = {}

    @torch.no_grad()
    def read(self, names: Sequence[str], tensors: Mapping[str, Tensor]) -> Tensor:
        """The sampled elements of `tensors` under `names`, end to end: float64; one that is missing reads as zeros."""
        return joined([self._elements(n, tensors[n]) if n in tensors else self._zeros(n) for n in names])

    @torch.no_grad()
    def read_kept(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The same of tensors that stay where they are, all of them: views of their elements are kept."""
        return joined([self._view(name, t) for name, t in tensors.items()])

    def _view(self, name: str, t: Tensor) -> Tensor:
        if is_sharded(t):
            return self._elements(name, t)
        kept = self._views.get(name)
        # A kept view keeps its memory: what lies at the same place is the same.
        if kept is None or kept.data_ptr() != t.data_ptr() or not t.is_contiguous():
            kept = self._views[name] = self._elements(name, t)
            if kept.data_ptr() != t.data_ptr() or not t.is_contiguous():
                del self._views[name]  # a copy
        return kept

    def counts(self, names: Sequence[str]) -> list[int]:
        """How many elements are read of each."""
        return [self._counts[name] for name in names]

    def _elements(self, name: str, t: Tensor) -> Tensor:
        if is_sharded(t):
            t = local(t)
        if t.layout is not torch.strided:
            t = t.to_dense()
        if t.is_contiguous():
            return t.as_strided((self._counts[name],), (self._strides[name],))
        t = t.detach()
        if name not in self._index:
            flat = torch.arange(0, t.numel(), self._strides[name])
            self._index[name] = torch.unravel_index(flat, self._shapes[name])
        return t[tuple(i.to(t.device) for i in self._index[name])]

    def _zeros(self, name: str) -> Tensor:
        return torch.zeros(self._counts[name], dtype=torch.float64)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """End to end, float64, on the device of the first."""
    if len({p.device for p in parts}) > 1:
        parts = [p.to(parts[0].device, non_blocking=True) for p in parts]
    if len({p.dtype for p in parts}) > 1:
        parts = [p.double() for p in parts]
    return torch.cat(list(parts)).double() if parts else torch.zeros(0, dtype=torch.float64)


def differing(names: Sequence[str], counts: Sequence[int], before: Tensor, now: Tensor) -> list[str]:
    """Those of `names` whose elements, end to end in both, are not the same; NaN is the same as NaN."""
    if torch.equal(before, now):
        return []
    off = (before != now) & ~(before.isnan() & now.isnan())
    return [name for name, part in zip(names, off.split(list(counts)), strict=True) if bool(part.any())]


def _stride(shape: Sequence[int]) -> int:
    n, last = math.prod(shape), shape[-1] if len(shape) else 1
    stride = max(1, -(-n // SAMPLED))
    while math.gcd(stride, last) > 1 and stride > 1:
        stride += 1
    return stride
