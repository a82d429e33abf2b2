"""Linear expressions in unknown functions of indices.

Every parameter gets one unknown function f of its indices: the exponent that each element scales with, or the amount
that each element shifts by. What a tensor of the graph carries is a linear expression in these functions. An operator
adds equations between expressions (see `equations`), and the solutions of all equations are the symmetries.

Where an axis is a sum of segments, a function of its index is one function for every segment, each of them zero
outside: such a factor is *guarded* by the segments that it lives in.

For shifts an expression also has factors that depend on the data: moving W by S moves W x by S x. A term then carries
the `Data` it is multiplied by. Different data are taken as linearly independent, which misses a symmetry where they are
not, but never makes one up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

from neuromech.detect.axes import Atom, Label, by_parts, count, leaves
from neuromech.detect.data import Data, LabelMap, Number
from neuromech.detect.effort import checkpoint
from neuromech.detect.refine import Interval, Regrouping, Renaming

BlockId = tuple[
    str | None, int, tuple[tuple[int, int], ...]
]  # parameter, first element, (length, stride) of each index


class Unknown:
    """A function of the indices of one parameter, or of a block of it; `name` is None for an auxiliary function.

    The block is that of a strided view: index (i, j ..) stands for element `start` + i * stride_i + j * stride_j + ...
    """

    __slots__ = ("_along", "_at", "_indices", "_parts", "labels", "name", "start", "strides")

    def __init__(
        self, labels: Iterable[Label], name: str | None = None, strides: Iterable[int] | None = None, start: int = 0
    ) -> None:
        self.labels = tuple(labels)
        self.name = name
        contiguous = (count(self.labels[k + 1 :]) for k in range(len(self.labels)))
        self.strides = tuple(contiguous if strides is None else strides)
        self.start = start
        self._indices: list[tuple[Label, int]] = []
        self._at = -1  # the state of atoms that the indices were read off
        self._along: Label | None = None
        self._parts: tuple[Unknown, ...] = ()

    def indices(self) -> list[tuple[Label, int]]:
        """The labels that its own are made of by now, each with its stride."""
        if self._at != Atom.changes:
            self._indices = []
            for label, stride in zip(self.labels, self.strides, strict=True):
                parts = label.leaves()
                self._indices += [(x, stride * count(parts[k + 1 :])) for k, x in enumerate(parts)]
            self._at = Atom.changes
        return self._indices

    @property
    def block(self) -> BlockId:
        """Which elements of which parameter the function is about."""
        return self.name, self.start, tuple((x.n, k) for x, k in self.indices())

    def parts(self) -> tuple[int, tuple[Unknown, ...]]:
        """The position of an index that is a sum, and the functions of its segments; none if there is no such index."""
        now = self.indices()
        if self._along is None:
            self._along = next((x for x, _ in now if x.segments), None)
            if self._along is None:
                return 0, ()
        position = next(i for i, (x, _) in enumerate(now) if x is self._along)
        if not self._parts:
            made, start = [], self.start
            for segment in self._along.segments:
                here = [*now[:position], (segment, now[position][1]), *now[position + 1 :]]
                made.append(Unknown((x for x, _ in here), self.name, (k for _, k in here), start))
                start += segment.n * now[position][1]
            self._parts = tuple(made)
        return position, self._parts

    def blocks(self) -> list[Unknown]:
        """The functions of single blocks, none of whose indices is a sum."""
        _, parts = self.parts()
        return [b for p in parts for b in p.blocks()] if parts else [self]


class Factor(NamedTuple):
    """An unknown function with its indices bound to `labels`, times `data`; zero outside the segments `where`."""

    unknown: Unknown
    labels: tuple[Label, ...]
    data: tuple[Data, ...] = ()
    where: frozenset[Label] = frozenset()

    def called(self, to: LabelMap) -> Factor:
        """The factor with its indices called by other labels, part by part."""
        labels = tuple([to.get(x, x) for x in leaves(self.labels)])
        data = tuple([d.called(to) for d in self.data])
        return Factor(self.unknown, labels, data, frozenset([to.get(x, x) for x in self.where]))

    def indices_of_data(self) -> list[Label]:
        return [x for d in self.data for x in leaves(d.labels)]

    def multiplied_out(self, labels: Iterable[Label]) -> Factor:
        """The factor with a product of data in place of those that have some of these indices only, and of those that
        are summed over together with them."""
        split = [d for d in self.data if d.has_part_of(labels)]
        mine = {x for y in (*self.labels, *self.where) for x in (*leaves([y]), *y.chain())}
        others = [d for d in self.data if d not in split]
        while True:
            gone = {x for d in split for x in leaves(d.labels) if x.summed and x not in mine}
            if not (more := [d for d in others if not gone.isdisjoint(leaves(d.labels))]):
                return self._replace(data=(*others, Data.product(split, gone))) if split else self
            split += more
            others = [d for d in others if d not in more]

    def guards(self) -> frozenset[Label]:
        """All segments that it lives in, the outer ones included."""
        return frozenset(g for w in self.where for g in w.chain())

    def touches(self, tops: set[Label]) -> bool:
        """True if it depends on one of these indices, or on part of one."""
        mine = (*leaves(self.labels), *self.where, *self.indices_of_data())
        return any(x.under(tops) for x in mine)


def expand(f: Factor, c: Number = 1) -> Iterator[tuple[Factor, Number]]:
    """The factor as a sum of factors none of which has a sum for an index."""
    checkpoint()
    position, parts = f.unknown.parts()
    if not parts:
        yield f, c
        return
    bound = leaves(f.labels)
    whole = bound[position]
    for part, segment in zip(parts, whole.segments, strict=True):
        labels = (*bound[:position], segment, *bound[position + 1 :])
        if whole.mean:  # the mean over all is the mean of the segments' means, each as heavy as it is long
            yield from expand(Factor(part, labels, f.data, f.where), c * Fraction(segment.n, whole.n))
        elif not any(g.owner is whole and g is not segment for g in f.where):
            yield from expand(Factor(part, labels, f.data, f.where | {segment}), c)


class Expr:
    """A linear combination of factors. The empty one is zero."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Factor, Number] | None = None) -> None:
        self.terms = dict(terms or {})

    @classmethod
    def of(cls, unknown: Unknown) -> Expr:
        return cls({Factor(unknown, unknown.labels): 1})

    @classmethod
    def sum(cls, terms: Iterable[tuple[Factor, Number]]) -> Expr:
        out: dict[Factor, Number] = {}
        for f, c in terms:
            out[f] = out.get(f, 0) + c
        return cls({f: c for f, c in out.items() if c})

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __add__(self, other: Expr) -> Expr:
        return Expr.sum([*self.terms.items(), *other.terms.items()])

    def __mul__(self, k: Number) -> Expr:
        return Expr({f: c * k for f, c in self.terms.items()} if k else {})

    __rmul__ = __mul__

    def __neg__(self) -> Expr:
        return self * -1

    def __sub__(self, other: Expr) -> Expr:
        return self + -other

    def rename(self, how: Renaming | LabelMap) -> Expr:
        """The expression with indices called by other labels."""
        how = how if isinstance(how, Renaming) else Renaming(how)
        if not (how and self.terms):
            return self
        out = self
        for regrouping in how.regroupings:
            out = Expr.sum(x for f, c in out.terms.items() for x in _regrouped(f, c, regrouping))
        if how.same:
            to = how.by_parts()
            out = Expr.sum((f.called(to), c) for f, c in out.terms.items())
        return out

    def within(self, *segments: Label) -> Expr:
        """The expression where an index lies in these segments, and zero elsewhere."""
        return Expr.sum((f._replace(where=f.where | set(segments)), c) for f, c in self.terms.items())

    def averaged(self, over: Iterable[Label]) -> Expr:
        """The value at any of the indices `over`, on which the expression is known not to depend."""
        tops = set(over)

        def value(f: Factor, c: Number) -> Iterator[tuple[Factor, Number]]:
            for g, k in expand(f, c):
                guards = [x for x in g.guards() if x.under(tops)]
                if all(x.owner and x is x.owner.segments[0] for x in guards):  # one segment is as good as another
                    to = {x: Label(x.atom, mean=True) for x in leaves(g.labels) if x.under(tops) and not x.mean}
                    labels = tuple(to.get(x, x) for x in leaves(g.labels))
                    yield g._replace(labels=labels, where=frozenset(w for w in g.where if not w.under(tops))), k

        return Expr.sum(x for f, c in self.terms.items() for x in value(f, c))

    def times(self, data: Data) -> Expr:
        """The product with a tensor of data."""
        if (k := data.number) is not None:
            return self * k
        return Expr.sum((f._replace(data=(*f.data, data)), c) for f, c in self.terms.items())

    def summed(self, over: Iterable[Label]) -> Expr:
        """The sum over some indices.

        Where the data vary along an index the sum cannot be done: the index stays in the term, as a twin that no tensor
        has for an index. Where they do not, the sum is the mean of the function times the number of entries.
        """
        out = self
        for x in dict.fromkeys(leaves(over)):
            out = Expr.sum(t for f, c in out.terms.items() for t in _summed(f, c, x))
        return out

    def split(self, along: Iterable[Label]) -> tuple[Expr, Expr]:
        """The terms that depend on one of these indices, and the others."""
        tops = set(along)
        inside = {f for f in self.terms if f.touches(tops)}
        return Expr({f: self.terms[f] for f in inside}), Expr({f: c for f, c in self.terms.items() if f not in inside})

    def labels(self) -> list[Label]:
        """The indices that the functions of the expression are bound to, each once; a sum as a whole."""
        out: dict[Label, None] = {}
        for f in self.terms:
            for x in (*leaves(f.labels), *f.where):
                if not x.mean:
                    chain = x.chain()
                    whole = chain[-1].owner if chain else x
                    assert whole is not None
                    out[whole] = None
        return [x for x in out if not any(y is not x and x.under({y}) for y in out)]


def _summed(f: Factor, c: Number, x: Label) -> Iterator[tuple[Factor, Number]]:
    tops = {x}
    if any(y.under(tops) for y in f.indices_of_data()):
        twin = x.twin
        used = {y for y in (*leaves(f.labels), *f.where, *f.indices_of_data()) if not y.under(tops)}
        while any(y.under({twin}) for y in used):
            twin = twin.twin
        yield f.called(by_parts({x: twin})), c
        return
    if not f.touches(tops):
        yield f, c * x.n
        return
    for g, k in expand(f, c):
        entries: Number = x.n
        for guard in (y for y in g.guards() if y.under(tops)):
            assert guard.owner is not None
            entries *= Fraction(guard.n, guard.owner.n)
        to = {y: Label(y.atom, mean=True) for y in leaves(g.labels) if y.under(tops) and not y.mean}
        labels = tuple(to.get(y, y) for y in leaves(g.labels))
        yield g._replace(labels=labels, where=frozenset(w for w in g.where if not w.under(tops))), k * entries


def _regrouped(f: Factor, c: Number, how: Regrouping) -> Iterator[tuple[Factor, Number]]:
    """A factor some of whose indices are read in another way, piece by piece."""
    tops = set(leaves(how.of))
    if not f.touches(tops):
        yield f, c
        return
    for g, k in expand(f, c):
        for entry in how.within(g.guards()):
            if (part := _restricted(g, entry.interval, tops)) is not None:
                whole = Expr({part._replace(where=part.where | set(entry.guards)): k})
                yield from whole.rename(entry.names).terms.items()


def _restricted(f: Factor, interval: Interval, tops: set[Label]) -> Factor | None:
    """The factor on one interval of an axis; None if it is zero there."""
    mine, wanted = f.guards(), {g for guard in interval.guards for g in guard.chain()}
    for g in wanted:
        if any(h.owner is g.owner and h is not g for h in mine):
            return None
    data = f.data
    for guard in interval.guards:
        data = tuple(d.within(guard) for d in data)
    # What the interval stands for is known from now on; finer guards inside it stay.
    return f._replace(data=data, where=frozenset(w for w in f.where if w not in wanted))
