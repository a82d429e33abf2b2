"""Numbers that depend on the data: which tensor they are of, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import isfinite
from typing import NamedTuple

from neuromech.detect.axes import Label, by_parts, leaves
from neuromech.detect.refine import Regrouping, Renaming

LabelMap = Mapping[Label, Label]


def as_written(k: float) -> Fraction:
    """The number that was written down: 0.1 is 1/10, not the nearest binary fraction."""
    return Fraction(k) if isinstance(k, int) else Fraction(repr(float(k)))


class Data(NamedTuple):
    """A factor that depends on the data: which tensor, and on which indices. Equal `Data` are the same numbers.

    A tensor whose sum over some of its indices is known to be 1 (a softmax) or 0 (deviations from a mean) says so; one
    that was joined of others says which numbers stand in which segment.
    """

    key: tuple[object, ...]
    labels: tuple[Label, ...]
    sums: tuple[tuple[tuple[Label, ...], int], ...] = ()
    pieces: tuple[tuple[Label, Data], ...] = ()

    @classmethod
    def filled(cls, k: float, labels: Iterable[Label] = ()) -> Data:
        """The number k, everywhere."""
        return cls((("number", k),), tuple(labels))

    @property
    def number(self) -> Fraction | None:
        """The number that stands everywhere, if one does."""
        head = self.key[0]
        known = len(self.key) == 1 and isinstance(head, tuple) and head[0] == "number" and isfinite(head[1])
        return as_written(head[1]) if known else None  # type: ignore[index]

    def called(self, to: LabelMap) -> Data:
        sums = tuple((tuple(to.get(x, x) for x in leaves(over)), n) for over, n in self.sums)
        pieces = tuple((to.get(x, x), d.called(to)) for x, d in self.pieces)
        return Data(self.key, tuple(to.get(x, x) for x in leaves(self.labels)), sums, pieces)

    def derived(self, how: object, *more: Label, across: Iterable[Label] = ()) -> Data:
        """Other numbers made of these, with further indices; nested, so that products of data stay unambiguous.

        `across`: the indices along which entries take part in one another's.
        """
        tops = set(across)
        pieces = tuple((x, d.derived(how, *more)) for x, d in self.pieces if not x.under(tops))
        return Data(((how, *self.key),), (*self.labels, *more), pieces=pieces)

    @property
    def whole(self) -> tuple[object, ...]:
        """The key of the tensor that these numbers are of, all of them or some."""
        key = self.key
        while key and isinstance(key[0], str) and key[0] in _PARTS:
            key = key[_PARTS[key[0]] :]
        return key

    def within(self, segment: Label) -> Data:
        """The numbers in one segment of an index."""
        whole, now = segment.owner, leaves(self.labels)
        assert whole is not None
        if whole not in now:
            return self
        if (piece := next((d for x, d in self.pieces if x is segment), None)) is not None:
            return piece
        at = now.index(whole)
        start = count_before(segment)
        labels = (*now[:at], *segment.leaves(), *now[at + 1 :])
        return Data(self._named(("part", at, start, segment.n)), labels)

    def _named(self, what: tuple[object, ...]) -> tuple[object, ...]:
        """The key of some of these numbers, or of all in another order."""
        return self.key if self.number is not None else ((*what, *self.key),)

    def regrouped(self, how: Regrouping) -> Data:
        """The same numbers, some of whose indices are read in another way."""
        now, old = leaves(self.labels), leaves(how.of)
        if len(how.entries) == 1 and not how.entries[0].guards:
            entry = how.entries[0]
            out = self
            for guard in entry.interval.guards:
                out = out.within(guard)
            return renamed_data(out, entry.names)
        at = [now.index(x) for x in old if x in now]
        order = tuple((e.interval.start, e.interval.n) for e in how.entries)
        labels = [x for x in now if x not in old]
        where = at[0] if at else 0
        return Data(self._named(("regrouped", tuple(at), order)), (*labels[:where], *how.to, *labels[where:]))


_PARTS = {"part": 4, "regrouped": 3}  # how a key begins that is about some entries of a tensor, and how long that is


def count_before(segment: Label) -> int:
    """Where a segment starts in its sum."""
    assert segment.owner is not None
    siblings = segment.owner.segments
    return sum(s.n for s in siblings[: siblings.index(segment)])


def renamed_data(data: Data, how: Renaming) -> Data:
    for regrouping in how.regroupings:
        if not set(leaves(regrouping.of)).isdisjoint(leaves(data.labels)):
            data = data.regrouped(regrouping)
    return data.called(by_parts(how.same)) if how.same else data
