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

SAMPLED = 128  # elements a tensor, at most


class Sample:
    """Which elements to read of the tensors of `shapes`."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._strides = {name: _stride(shape) for name, shape in self._shapes.items()}
        self._index: dict[str, tuple[Tensor, ...]] = {}

    def read(self, names: Sequence[str], tensors: Mapping[str, Tensor]) -> Tensor:
        """The sampled elements of `tensors` under `names`, end to end: float64; one that is missing reads as zeros."""
        parts = [self._elements(name, tensors[name]) if name in tensors else self._zeros(name) for name in names]
        if len({p.device for p in parts}) > 1:
            parts = [p.to(parts[0].device, non_blocking=True) for p in parts]
        return torch.cat([p.double() for p in parts]) if parts else torch.zeros(0, dtype=torch.float64)

    def counts(self, names: Sequence[str]) -> list[int]:
        """How many elements are read of each."""
        return [len(range(0, math.prod(self._shapes[name]), self._strides[name])) for name in names]

    def _elements(self, name: str, t: Tensor) -> Tensor:
        t = t.detach()
        if t.layout is not torch.strided:
            t = t.to_dense()
        if t.is_contiguous():
            return t.view(-1)[:: self._strides[name]]
        if name not in self._index:
            flat = torch.arange(0, t.numel(), self._strides[name])
            self._index[name] = torch.unravel_index(flat, self._shapes[name])
        return t[tuple(i.to(t.device) for i in self._index[name])]

    def _zeros(self, name: str) -> Tensor:
        return torch.zeros(self.counts([name])[0], dtype=torch.float64)


def _stride(shape: Sequence[int]) -> int:
    n, last = math.prod(shape), shape[-1] if len(shape) else 1
    stride = max(1, -(-n // SAMPLED))
    while math.gcd(stride, last) > 1 and stride > 1:
        stride += 1
    return stride
