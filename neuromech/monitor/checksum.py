"""Checksums of tensors in exact integer arithmetic: what nobody may write to must not change by a single bit.

The elements are read as integers of their own width and added modulo 2^32 (2^64 for eight bytes). Integers add exactly
and in any order, so equal memory gives equal sums on every device: there is no tolerance. One flipped bit k changes the
sum by 2^k, up or down, which is how it is told from an edit: of all changes of many elements a fraction of 2^-25 looks
like that. Signs are the highest bit: an even number of them that turn round leaves the sum as it was, so that a sample
of the elements has to be compared as well. Reading is bound by memory, at the speed of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from neuromech.compat import is_sharded, local

_READ_AS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Tensors of fewer elements are copied together and read at once, if there are some: kernels cost more than memory.
JOINED, FEW = 2**12, 12


@torch.no_grad()
def checksums(tensors: Sequence[Tensor]) -> Tensor:
    """One integer a tensor: [n] int64, on the device of the first; nothing waits for the device."""
    bits = [_bits(t) for t in tensors]
    if len({b.device for b in bits}) > 1:
        first = bits[0].device
        return torch.cat([_sum(b).view(1).to(first, non_blocking=True) for b in bits]).long()
    small = [i for i, b in enumerate(bits) if b.numel() < JOINED and b.dtype is torch.int32]
    if len(small) < FEW:
        return torch.cat([_sum(b).view(1) for b in bits]).long() if bits else torch.zeros(0, dtype=torch.int64)
    joined = set(small)
    large = [i for i in range(len(bits)) if i not in joined]
    sums = [_sums([bits[i].reshape(-1) for i in small]), *(_sum(bits[i]).view(1) for i in large)]
    place = {i: k for k, i in enumerate([*small, *large])}
    return torch.cat(sums).long()[[place[i] for i in range(len(bits))]]


def _bits(t: Tensor) -> Tensor:
    if is_sharded(t):
        t = local(t)  # what lies here
    t = t if t.layout is torch.strided else t.coalesce().values()
    t = torch.view_as_real(t) if t.is_complex() else t
    if t.dtype is torch.bool:
        t = t.to(torch.int8)
    return t.view(_READ_AS[t.element_size()])


def _sum(bits: Tensor) -> Tensor:
    return bits.sum(dtype=torch.int64 if bits.dtype is torch.int64 else torch.int32)


def _sums(vectors: Sequence[Tensor]) -> Tensor:
    """Of each, modulo 2^32 as of one by itself: differences of a running sum, which is exact."""
    running = torch.nn.functional.pad(torch.cat(list(vectors)).cumsum(0, dtype=torch.int64), (1, 0))
    stops = [0, *accumulate(len(v) for v in vectors)]
    return running[stops].diff().int()


def flipped_bit(before: int, after: int, itemsize: int) -> int | None:
    """The bit (0: the lowest) whose flip in one element of `itemsize` bytes explains the change of a checksum."""
    modulus = 1 << (64 if itemsize == 8 else 32)
    change = (after - before) % modulus
    for size in (change, modulus - change):
        if size and size & (size - 1) == 0 and (bit := size.bit_length() - 1) < 8 * itemsize:
            return bit
    return None
