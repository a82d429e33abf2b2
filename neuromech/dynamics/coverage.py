"""Which members of each family are measured: all of them, or a fixed random share.

The share is a run of neighbours, so that what is read of a weight is a block of it. A family of n members is cut into
runs of m = round(share n), and one is drawn, each as likely as the others; the last run ends with the last member, and
shares some with its neighbour where m does not divide n. Members are initialised alike, so neighbours differ as much as
any others, but where a model gives their order a meaning (heads, positions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from neuromech.errors import InstrumentError, RecordError
from neuromech.symmetry import Symmetry

SEED = 0x0E37  # of a generator of our own: two runs of one model measure the same members


def drawn(symmetries: Sequence[Symmetry], share: float, seed: int = SEED) -> tuple[range, ...]:
    """The members of each family that are measured: `share` of them, in (0, 1], and at least one."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(_run(s.size, share, generator) for s in symmetries)


def resumed(saved: Mapping[str, Any], share: float) -> list[range] | None:
    """The members that a saved measurement has measured; None: it is of an older version, and has all.

    Raises `RecordError` if the one that is to go on from it measures another share.
    """
    before = float(saved.get("coverage", 1.0))
    if before != share:
        raise RecordError(
            f"the saved state has measured with coverage={before:g}, this probe has coverage={share:g}: pass "
            f"instrument(..., coverage={before:g}) to go on"
        )
    return [range(*bounds) for bounds in saved["covered"]] if "covered" in saved else None


def check_share(share: Any) -> None:
    """Raise `InstrumentError` for what is not a share of the members."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise InstrumentError(
            f"coverage={share!r}: pass the share of the members of each family to measure, above 0 and at most 1 "
            "(0.1: a tenth)"
        )


def listed(
    found: Sequence[Symmetry], followed: Sequence[Symmetry], members: Sequence[range]
) -> list[tuple[Symmetry, dict[str, Any]]]:
    """For the records: every family that was found, those that are `followed` first and as they are, each with
    `measured` [first, stop), where that is not all, and `of` how many members there are behind directions."""
    rest = {(s.kind, s.name): s for s in found}
    out: list[tuple[Symmetry, dict[str, Any]]] = []
    for s, own in zip(followed, members, strict=True):
        behind = {"of": rest.pop((s.kind, s.name), s).size}
        part = {} if len(own) == s.size else {"measured": [own.start, own.stop]}
        out.append((s, (behind if s.directions else {}) | part))
    return [*out, *((s, {}) for s in rest.values())]


def share_of(symmetries: Sequence[Symmetry], members: Sequence[range]) -> float:
    """The share of all members that is measured; 1 where there are none."""
    return sum(map(len, members)) / max(1, sum(s.size for s in symmetries)) if symmetries else 1.0


def _run(size: int, share: float, generator: torch.Generator) -> range:
    many = min(size, max(1, round(share * size)))
    which = int(torch.randint(math.ceil(size / many), (), generator=generator))
    start = min(which * many, size - many)
    return range(start, start + many)
