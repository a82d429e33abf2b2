"""Checksums of tensors in exact integer arithmetic: what nobody may write to must not change by a single bit.

The elements are read as integers of their own width and added modulo 2^32 (2^64 for eight bytes). Integers add exactly
and in any order, so equal memory gives equal sums on every device: there is no tolerance. One flipped bit k changes the
sum by 2^k, up or down, which is how it is told from an edit: of all changes of many elements a fraction of 2^-25 looks
like that. Signs are the highest bit: an even number of them that turn round leaves the sum as it was, so that a sample
of the elements has to be compared as well. Reading is bound by memory, at the speed of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neuromech.compat import is_sharded, local

_READ_AS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def checksums(tensors: Sequence[Tensor]) -> Tensor:
    """One integer a tensor: [n] int64, on the device of the first; nothing waits for the device."""
    if not tensors:
        return torch.zeros(0, dtype=torch.int64)
    sums = [_sum(_bits(t)) for t in tensors]
    # Joining what is small before it is read saves nothing: a copy takes as many calls.
    if len({s.device for s in sums}) > 1:
        sums = [s.to(sums[0].device, non_blocking=True) for s in sums]
    return torch.stack(sums).long()


def _bits(t: Tensor) -> Tensor:
    if is_sharded(t):
        t = local(t)  # what lies here
    t = t if t.layout is torch.strided else t.coalesce().values()
    t = torch.view_as_real(t) if t.dtype.is_complex else t
    if t.dtype is torch.bool:
        t = t.to(torch.int8)
    return t.view(_READ_AS[t.dtype.itemsize])


def _sum(bits: Tensor) -> Tensor:
    return bits.sum(dtype=torch.int64 if bits.dtype is torch.int64 else torch.int32)


def flipped_bit(before: int, after: int, itemsize: int) -> int | None:
    """The bit (0: the lowest) whose flip in one element of `itemsize` bytes explains the change of a checksum."""
    modulus = 1 << (64 if itemsize == 8 else 32)
    change = (after - before) % modulus
    for size in (change, modulus - change):
        if size and size & (size - 1) == 0 and (bit := size.bit_length() - 1) < 8 * itemsize:
            return bit
    return None
