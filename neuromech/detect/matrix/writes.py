"""Writes to part of a tensor: indices along which nothing is cut go on to be mixed (see walk.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuromech.detect.abstract import Unsupported
from neuromech.detect.axes import Axis, count
from neuromech.detect.graph import Geometry
from neuromech.detect.matrix.movement import REARRANGED, expand
from neuromech.detect.matrix.products import by_entries as by_entries
from neuromech.detect.matrix.walk import Indexed, Walk
from neuromech.detect.regions import Region, region_of


def filled(m: Walk, x: Indexed, value: Indexed | float = 0.0) -> Indexed:
    """One number everywhere."""
    assert m.node is not None
    if m.is_zero(value):
        return Indexed(tuple(m.free(count(a)) for a in x.axes))
    return m.unrelated([count(a) for a in x.axes])


def copied(m: Walk, x: Indexed, source: Indexed, non_blocking: bool = False) -> Indexed:
    return expand(m, source)


def partial_write(m: Walk, x: Indexed, written: Indexed, where: Geometry, mine: Geometry) -> Indexed:
    if 0 in where[0]:
        return x
    region = region_of(where, mine)
    if not isinstance(region, Region):
        raise Unsupported("it is written to through a view that overlaps it in part")
    axes: list[Axis] = []
    for d, (a, places) in enumerate(zip(x.axes, region.places, strict=True)):
        b: Axis = written.axes[region.axes.index(d)] if d in region.axes else ()
        if places == range(count(a)):
            if not m.is_zero(x) and not m.is_zero(written):
                m.alike(a, b)
            axes.append(b if m.is_zero(x) else a)
        else:
            m.limit([*Indexed((a,)).labels, *Indexed((b,)).labels], REARRANGED)
            axes.append(m.unrelated([count(a)]).axes[0])
    return Indexed(tuple(axes))


def index_put(
    m: Walk, x: Indexed, places: Sequence[Indexed | None], values: Indexed, accumulate: bool = False, *_: Any
) -> Indexed:
    if not m.is_zero(values):
        raise Unsupported("it writes more than zeros")
    at = [d for d, p in enumerate(places) if p is not None]
    dims = range(at[0], at[0] + sum(p.ndim for p in places if p is not None) or 1)
    m.limit(x.along(d for d in dims if d < x.ndim), REARRANGED)
    return x
