"""Numbers that depend on the data: which tensor they are of, and what is known of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from math import isfinite, prod
from typing import Any, NamedTuple

from neuromech.detect.axes import Axis, Label, count, leaves
from neuromech.detect.refine import IntervalMap, Regrouping, Renaming

LabelMap = Mapping[Label, Label]
Number = int | Fraction
DataKey = tuple[object, ...]


def as_written(k: float) -> Fraction:
    """The number that was written down: 0.1 is 1/10, not the nearest binary fraction."""
    return Fraction(k) if isinstance(k, int) else Fraction(repr(float(k)))


class Stride(NamedTuple):
    """How a kernel walks along one axis: tap t stands at start + t * apart at first, and `step` further every time."""

    step: int
    start: int
    apart: int  # 0 for a single tap
    n: int

    def at(self, place: int) -> list[tuple[int, int]]:
        """Where each of its taps stands at one place, and which tap that is."""
        return [(place * self.step + self.start + t * self.apart, t) for t in range(self.n)]

    def part(self, first: int, n: int) -> Stride:
        """The walk of n of its taps."""
        return Stride(self.step, self.start + first * self.apart, self.apart if n > 1 else 0, n)

    def shared_with(self, other: Stride) -> tuple[range, range] | None:
        """Which run of taps always stands where a run of the other's does; None if there is none."""
        apart = self.apart or other.apart or 1
        ahead, rest = divmod(other.start - self.start, apart)
        mine = range(max(0, ahead), min(self.n, ahead + other.n))
        if rest or not mine or self.step != other.step or {self.apart, other.apart} - {0, apart}:
            return None
        return mine, range(mine.start - ahead, mine.stop - ahead)


class Share(NamedTuple):
    """Which entries, from `start` to `stop`, of the `total` along one index that add up to `value`: of the numbers that
    `whole` stands for. `over`: the index that runs over them, none for a single one."""

    whole: DataKey
    start: int
    stop: int
    total: int
    value: Number
    over: tuple[Label, ...]

    def called(self, to: LabelMap) -> Share:
        return self._replace(over=tuple([to.get(x, x) for x in leaves(self.over)]))


OnNumbers = Callable[[Sequence["Data"]], "Data | None"]  # what a function makes of numbers


class Data(NamedTuple):
    """A factor that depends on the data: which tensor, and on which indices. Equal `Data` are the same numbers.

    A tensor whose sum over some of its indices is known to be 1 (a softmax) or 0 (deviations from a mean) says so; one
    that was joined of others says which numbers stand in which segment; patches of one say by which of their indices
    and how a kernel walks (as a place in `how`, see `walked`).
    """

    key: DataKey
    labels: tuple[Label, ...]
    sums: tuple[tuple[tuple[Label, ...], Number], ...] = ()
    pieces: tuple[tuple[Label, Data], ...] = ()
    walks: tuple[tuple[Label, int], ...] = ()
    multiple: Number = 1  # how many times the numbers that the key stands for
    share: Share | None = None  # where they are some of numbers that add up to something

    @classmethod
    def filled(cls, k: float, labels: Iterable[Label] = ()) -> Data:
        """The number k, everywhere."""
        return cls((("number", k),), tuple(labels))

    @classmethod
    def made_of(
        cls, labels: Sequence[Label], sources: Sequence[Data], how: object = None, known: OnNumbers | None = None
    ) -> Data:
        """New numbers that one function makes of others, for all values of the indices that they share alike: where
        the sources repeat, they do. Of no sources nothing is known. `how`: the name of a function that takes its
        sources in any order, and makes the same of them wherever it is used. `known`: what it makes of numbers, where
        that can be said."""
        theirs = {x for d in sources for x in leaves(d.labels)} if sources else set(leaves(labels))
        mine, name = [x for x in leaves(labels) if x in theirs], how or object()
        made = partial(_made_of_parts, name, known)
        found: dict[Label, list[Data]] = {}
        for segment, d in (p for source in sources for p in source.pieces):
            if segment.owner in mine:
                found.setdefault(segment.owner, []).append(d)

        pieces = tuple(
            (segment, made([y for x in mine for y in (segment.leaves() if x is whole else [x])], parts))
            for whole, some in found.items()
            if len({d.key for d in some}) < len(some) or any(d.number is not None for d in some)
            for segment in whole.segments
            for parts in [[d.within(segment) for d in sources]]
        )
        if sources and (how is not None or (known and known(sources))):
            all_of_them = made(mine, sources)
            return all_of_them._replace(pieces=pieces) if all_of_them.number is None else all_of_them
        return cls((name,), tuple(mine), pieces=pieces)

    @classmethod
    def product(cls, parts: Sequence[Data], over: Collection[Label]) -> Data:
        """The product of some data, summed `over` some of their indices."""
        labels = dict.fromkeys(x for d in parts for x in leaves(d.labels))
        left = [x for x in labels if x not in over]
        made = _made_of_parts(f"product along {len(left)}", None, left, [d._replace(multiple=1) for d in parts])
        # What adds up to zero along indices of its own still does.
        sums = tuple(
            (own, n)
            for i, d in enumerate(parts)
            for own, n in d.sums
            if n == 0 and not any(x in leaves(e.labels) for e in (*parts[:i], *parts[i + 1 :]) for x in leaves(own))
        )
        return made._replace(sums=sums, multiple=prod(d.multiple for d in parts))

    @property
    def number(self) -> Number | None:
        """The number that stands everywhere, if one does."""
        head = self.key[0]
        known = len(self.key) == 1 and isinstance(head, tuple) and head[0] == "number" and isfinite(head[1])
        return self.multiple * as_written(head[1]) if known else None  # type: ignore[index,operator]

    def has_part_of(self, labels: Iterable[Label]) -> bool:
        """True if it depends on some of these indices and not on others."""
        mine = leaves(self.labels)
        return len({x in mine for x in labels}) > 1

    def times(self, k: Number) -> Data:
        """k times these numbers."""
        if k == 0:
            return Data.filled(0, self.labels)
        pieces = tuple((x, d.times(k)) for x, d in self.pieces)
        return self._replace(pieces=pieces, multiple=k * self.multiple)

    def called(self, to: LabelMap) -> Data:
        labels = tuple([to.get(x, x) for x in leaves(self.labels)])
        share = self.share and self.share.called(to)
        if not (self.sums or self.pieces or self.walks):
            return Data(self.key, labels, multiple=self.multiple, share=share)
        sums = tuple((tuple(to.get(x, x) for x in leaves(over)), n) for over, n in self.sums)
        pieces = tuple((to.get(x, x), d.called(to)) for x, d in self.pieces)
        walks = tuple((to.get(x, x), i) for x, i in self.walks)
        return Data(self.key, labels, sums, pieces, walks, self.multiple, share)

    def derived(self, how: object, *more: Label, across: Iterable[Label] = ()) -> Data:
        """Other numbers made of these, with further indices; nested, so that products of data stay unambiguous.

        `across`: the indices along which entries take part in one another's.
        """
        tops = set(across)
        pieces = tuple((x, d.derived(how, *more)) for x, d in self.pieces if not x.under(tops))
        how = how if self.multiple == 1 else (how, self.multiple)
        return Data(((how, *self.key),), (*self.labels, *more), pieces=pieces)

    def reduced(self, how: str, over: Sequence[Label]) -> Data:
        """The sum (or the mean) of these numbers over some of their indices."""
        now, gone = leaves(self.labels), leaves(over)
        at = tuple(now.index(x) if x in now else -1 for x in gone)
        key = ((how, at, tuple(x.n for x in gone), *self.key),)
        return Data(key, tuple(x for x in now if x not in gone), multiple=self.multiple)

    def walked(
        self, how: DataKey, more: Sequence[Label], taps: Sequence[tuple[Stride, Axis]], across: Sequence[Label],
        padded: bool = True,
    ) -> Data:  # fmt: skip
        """Patches of these numbers, with an index for every axis of a kernel; otherwise as `derived`.

        Where they add up to zero over channels, so do patches; to one they may not, as there may be zeros around
        (`padded`). Patches of a piece that holds one number everywhere hold that number: zero always, others unless
        there are zeros around.
        """
        strides = (stride for stride, _ in taps)
        one = self._replace(multiple=1)
        new = one.derived((*how, *strides), *more, *(x for _, a in taps for x in a), across=across)
        tops = set(across)

        def patches(d: Data) -> Data:
            if d.number is None or (padded and d.number):
                return d.walked(how, more, taps, across, padded)
            own = [x for x in leaves((*d.labels, *more)) if not x.under(tops)]
            return d._replace(labels=(*own, *(x for _, a in taps for x in a)), pieces=())

        pieces = tuple((x, patches(d)) for x, d in self.pieces if not x.under(tops))
        walks = tuple((x, len(how) + d) for d, (_, a) in enumerate(taps) for x in a if leaves(a) == [x])
        sums = tuple((over, n) for over, n in self.sums if n == 0 and not any(x.under(tops) for x in over))
        return new._replace(sums=sums, pieces=pieces, walks=walks, multiple=self.multiple)

    def same_as(self, other: Data) -> bool:
        """True if these are known to be the same numbers."""
        return (self.key, self.multiple) == (other.key, other.multiple) and leaves(self.labels) == leaves(other.labels)

    @property
    def whole(self) -> DataKey:
        """The key of the tensor that these numbers are of, all of them or some."""
        return _whole(self.key)

    def within(self, segment: Label) -> Data:
        """The numbers in one segment of an index."""
        whole, now = segment.owner, leaves(self.labels)
        assert whole is not None
        others = tuple((x, d) for x, d in self.pieces if x.owner is not whole)
        if whole not in now:
            return self._replace(pieces=others)
        if (piece := next((d for x, d in self.pieces if x is segment), None)) is not None:
            return piece
        at = now.index(whole)
        start = count_before(segment)
        labels = (*now[:at], *segment.leaves(), *now[at + 1 :])
        pieces = tuple((x, d.within(segment)) for x, d in others)
        walks = tuple((segment if x is whole else x, i) for x, i in self.walks)
        i = next((i for x, i in self.walks if x is whole), None)
        key = self._named(("part", at, start, segment.n)) if i is None else _of_taps(self.key, i, start, segment.n)
        share = self.share_of(range(start, start + segment.n), [whole], segment.leaves())
        return Data(key, labels, (), pieces, walks, self.multiple, share)

    def share_of(self, places: range, old: Sequence[Label], new: Sequence[Label]) -> Share | None:
        """What is known of the sum of the entries at some places along the index `old`, which is `new` from then on."""
        known = next((n for over, n in self.sums if leaves(over) == leaves(old)), None)
        if known is None or len(leaves(old)) != 1 or len(leaves(new)) > 1 or places.step != 1:
            return None
        at = leaves(self.labels).index(leaves(old)[0])
        return Share((at, *self.key), places.start, places.stop, count(old), known, tuple(leaves(new)))

    def taken(self, how: object, old: Sequence[Label], new: Sequence[Label]) -> Data:
        """Some of these numbers, which `how` says, with other indices in place of the `old`."""
        now = leaves(self.labels)
        at = tuple(now.index(x) for x in old if x in now)
        if not at:
            return self
        left = [x for x in now if x not in old]
        key, labels = (("taken", how, at, *self.key),), (*left[: at[0]], *new, *left[at[0] :])
        share = self.share_of(how, old, new) if isinstance(how, range) else None
        return Data(key, labels, walks=self.walks, multiple=self.multiple, share=share)

    def _named(self, what: DataKey) -> DataKey:
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
        key = self._named(("regrouped", tuple(at), order))
        labels = [*labels[:where], *how.to, *labels[where:]]
        again = len({start for start, _ in order}) < len(order)
        repeated = again or len(at) < len(old) or any(x.under(set(how.of)) for x, _ in self.pieces)
        pieces = tuple(p for entry in how.entries for p in self.placed(entry)) if repeated else ()
        return Data(key, tuple(labels), pieces=pieces, walks=self.walks, multiple=self.multiple)

    def placed(self, entry: IntervalMap) -> Iterator[tuple[Label, Data]]:
        """The numbers of one interval, by the segment that they come to stand in."""
        here = self
        for guard in entry.interval.guards:
            here = here.within(guard)
        for segment in entry.guards if len(entry.guards) == 1 else ():
            yield segment, renamed_data(here, entry.names)


_PARTS = {
    "part": 4,
    "regrouped": 3,
    "taken": 3,
}  # how a key begins that is about some entries of a tensor, and how long that is


def _whole(key: DataKey) -> DataKey:
    """The key without what says which of the entries it is about."""
    head: Any = key[0] if key else None
    if not isinstance(head, tuple) or not head:
        return key
    how, *of = head
    if how in _PARTS:
        return _whole(head[_PARTS[how] :])
    if isinstance(how, tuple) and any(isinstance(h, Stride) for h in how):  # whatever taps they were read by
        return ((tuple(h for h in how if not isinstance(h, Stride)), *of), *key[1:])
    return key


def _of_taps(key: DataKey, i: int, start: int, n: int) -> DataKey:
    """The key of the patches that some taps meet, along the axis whose walk is at place i."""
    head: Any = key[0]
    how, *of = head
    if how in _PARTS:
        k = _PARTS[how]
        return ((*head[:k], *_of_taps(head[k:], i, start, n)), *key[1:])
    return (((*how[:i], how[i].part(start, n), *how[i + 1 :]), *of), *key[1:])


def _made_of_parts(name: object, known: OnNumbers | None, labels: Sequence[Label], parts: Sequence[Data]) -> Data:
    """What the function `name` makes of these numbers: which ones they are, and where their indices stand."""
    if known and (said := known(parts)) is not None:
        return said if said.number is None else said._replace(labels=tuple(labels))
    at = {x: i for i, x in enumerate(labels)}
    which = [(d.key, d.multiple, tuple(at.setdefault(x, len(at)) for x in leaves(d.labels))) for d in parts]
    if isinstance(name, str):
        return Data(((name, frozenset(Counter(which).items())),), tuple(labels))
    return Data(((name, *which),), tuple(labels))


def count_before(segment: Label) -> int:
    """Where a segment starts in its sum."""
    assert segment.owner is not None
    siblings = segment.owner.segments
    return sum(s.n for s in siblings[: siblings.index(segment)])


def renamed_data(data: Data, how: Renaming) -> Data:
    for regrouping in how.regroupings:
        if not set(leaves(regrouping.of)).isdisjoint(leaves(data.labels)):
            data = data.regrouped(regrouping)
    return data.called(how.by_parts()) if how.same else data
