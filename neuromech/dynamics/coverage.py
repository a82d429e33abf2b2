"""Which members of each family are measured: all of them, or a fixed random share.

The share is a run of neighbours, so that what is read of a weight is a block of it. A family of n members is cut into
runs of m = round(share n), and one is drawn, each as likely as the others; the last run ends with the last member, and
shares some with its neighbour where m does not divide n. Members are initialised alike, so neighbours differ as much as
any others, but where a model gives their order a meaning (heads, positions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from neuromech.symmetry import Symmetry

SEED = 0x0E37  # of a generator of our own: two runs of one model measure the same members


def drawn(symmetries: Sequence[Symmetry], share: float, seed: int = SEED) -> tuple[range, ...]:
    """The members of each family that are measured: `share` of them, in (0, 1], and at least one."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(_run(s.size, share, generator) for s in symmetries)


def share_of(symmetries: Sequence[Symmetry], members: Sequence[range]) -> float:
    """The share of all members that is measured; 1 where there are none."""
    return sum(map(len, members)) / max(1, sum(s.size for s in symmetries)) if symmetries else 1.0


def _run(size: int, share: float, generator: torch.Generator) -> range:
    many = min(size, max(1, round(share * size)))
    which = int(torch.randint(math.ceil(size / many), (), generator=generator))
    start = min(which * many, size - many)
    return range(start, start + many)
