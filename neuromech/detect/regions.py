"""Where one view of a memory lies in another: the entries, axis by axis."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from neuromech.detect.graph import Geometry


@dataclass(frozen=True)
class Region:
    """The entries of a view within a whole: `places` along every axis of the whole, and which of these its axes are."""

    places: tuple[range, ...]
    axes: tuple[int, ...]


def region_of(part: Geometry, whole: Geometry) -> Region | None:
    """The region of `whole` that `part` is; None if it is not one, or not wholly inside."""
    shape, strides, start = whole
    own = sorted((d for d, n in enumerate(shape) if n > 1), key=lambda d: -strides[d])
    if any(strides[a] < strides[b] * shape[b] for a, b in pairwise(own)) or 0 in shape:
        return None  # entries overlap, or are interleaved
    left = part[2] - start
    first = dict.fromkeys(range(len(shape)), 0)
    for d in own:
        first[d], left = divmod(left, strides[d])
    if left:
        return None
    places = {d: range(k, k + 1) for d, k in first.items()}
    axes: list[int] = []
    for n, stride in zip(part[0], part[1], strict=True):
        if n == 1:
            free = next((d for d in range(len(shape)) if shape[d] == 1 and d not in axes), None)
            at = free if free is not None else next((d for d in own if stride == strides[d] and d not in axes), None)
            if at is None:
                return None
            axes.append(at)
            continue
        at = next(
            (d for d in own if d not in axes and stride % strides[d] == 0 and stride < strides[d] * shape[d]), None
        )
        if at is None:
            return None
        step = stride // strides[at]
        places[at] = range(first[at], first[at] + step * (n - 1) + 1, step)
        axes.append(at)
    inside = all(p.start >= 0 and p[-1] < shape[d] for d, p in places.items())
    return Region(tuple(places[d] for d in range(len(shape))), tuple(axes)) if inside else None
