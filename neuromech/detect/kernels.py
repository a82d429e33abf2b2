"""Kernels that walk over one tensor: taps that stand at the same places read the same numbers.

So a 3 x 3 kernel and a 1 x 1 kernel whose results are added trade the tap in the middle. Where two kernels share some
of their taps, both are cut at the ends of what they share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neuromech.detect.abstract import Abstract
from neuromech.detect.axes import Axis, Label, leaves
from neuromech.detect.data import Data, Stride
from neuromech.detect.refine import Interval, intervals, unify


class Kernels:
    """The kernels that have walked over each tensor so far."""

    def __init__(self) -> None:
        self._known: dict[object, list[tuple[list[Label], list[Stride], list[Axis]]]] = {}

    def lined_up(
        self, of: tuple[Data, object], strides: Sequence[Stride], w: Abstract, dims: Sequence[int]
    ) -> Abstract:
        """The kernel w, which walks with `strides` along its axes `dims` over some data, with its taps made to agree
        with those of the kernels before; of these, only the ones with the same second key are compared."""
        data, key = of
        known = self._known.setdefault((data.key, key), [])
        for labels, theirs, axes in known:
            shared = [a.shared_with(b) for a, b in zip(theirs, strides, strict=True)]
            if leaves(labels) == leaves(data.labels) and all(shared):
                for d, axis, (one, other) in zip(dims, axes, filter(None, shared), strict=True):
                    if len(one) == theirs[dims.index(d)].n and len(other) == strides[dims.index(d)].n:
                        w = w.rename(unify(axis, w.axes[d]))
                    else:
                        _agree(axis, one, w.axes[d], other)
        known.append((list(data.labels), list(strides), [w.axes[d] for d in dims]))
        return w


def _agree(f: Axis, mine: range, g: Axis, other: range) -> None:
    """Make a run of one axis and a run of another the same indices."""
    cuts: set[int] = {0, len(mine)}
    while True:
        one, two = _within(f, mine, cuts), _within(g, other, cuts)
        starts = [{p.start - run.start for p in some} for some, run in ((one, mine), (two, other))]
        if starts[0] == starts[1]:
            break
        cuts |= starts[0] | starts[1]
    for p, q in zip(one, two, strict=True):
        unify(p.labels, q.labels)


def _within(labels: Axis, run: range, cuts: Iterable[int]) -> list[Interval]:
    """The pieces of a run of an axis, which is cut at some of its indices."""
    return [p for p in intervals(labels, [run.start + c for c in cuts]) if p.start in run]
