"""Equations between unknown functions, and the equations between numbers that they stand for.

Equations are solved without ever looking at single indices. Each function is the sum of its components f_S, one for
every subset S of its indices, where f_S depends on S alone and averages to zero over each index in S (the ANOVA, or
Hoeffding, decomposition). An equation between functions holds if and only if it holds for every S, and since the
members of an atom are interchangeable, for one S it is a single equation between *numbers*: one unknown per function
and subset. Where an index is a sum of segments, the equation holds in every segment by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from math import prod
from typing import NamedTuple

from neuromech.detect.axes import Label, count, leaves
from neuromech.detect.data import Data, Number, Share
from neuromech.detect.effort import checkpoint
from neuromech.detect.expr import Expr, Factor, Unknown, expand

Component = tuple[Unknown, tuple[int, ...]]  # f_S: the function of one block, and the positions of S among its indices
Row = dict[Component, Number]  # component -> coefficient; zeros are left out


class Equation(NamedTuple):
    """`expr` vanishes (`along` None), or does not depend on the indices `along`."""

    expr: Expr
    along: tuple[Label, ...] | None


class _Term(NamedTuple):
    factor: Factor
    c: Number
    guards: frozenset[Label]  # those that have not been told apart yet

    def within(self, segment: Label) -> _Term | None:
        """The term in one segment of a sum; None if it lives in another."""
        if any(g.owner is segment.owner and g is not segment for g in self.guards):
            return None
        data = tuple(d.within(segment) for d in self.factor.data)
        return _Term(self.factor._replace(data=data), self.c, self.guards - {segment})


Key = tuple[tuple[Data, ...], frozenset[Label]]  # equations hold for every data, and every set of indices


class _Sum(NamedTuple):
    """The components on one set of indices that are multiplied by the same data."""

    row: Row
    orders: set[tuple[Label, ...]]

    def vanishes(self) -> Iterator[Row]:
        if self.ambiguous:
            for k in self.row:
                yield {k: 1}
        elif row := {k: c for k, c in self.row.items() if c}:
            yield row

    @property
    def ambiguous(self) -> bool:
        """f(i, j) against g(j, i), both over one atom: one number per component cannot tell g from its transpose.

        Then all of them vanish, which may miss a symmetry (f = -f^T) but never claims a false one.
        """
        some = next(iter(self.orders))
        return len(self.orders) > 1 and len({x.root for x in some}) < len(some)


def components(f: Factor) -> Iterator[tuple[frozenset[Label], Component]]:
    """The components of a factor of one block: for every set S of its labels, the positions of S in the function."""
    bound = [(i, x) for i, x in enumerate(leaves(f.labels)) if not x.mean]
    for k in range(len(bound) + 1):
        for chosen in combinations(bound, k):
            yield frozenset(x for _, x in chosen), (f.unknown, tuple(i for i, _ in chosen))


def rows(equation: Equation) -> Iterator[Row]:
    """The equations between numbers that an equation between functions stands for."""
    tops = set(equation.along or ())
    terms = [_Term(g, k, g.guards()) for f, c in equation.expr.terms.items() for g, k in expand(f, c)]
    for together in _independent(_taken_to_pieces(terms)):
        names = _Names(apart := list(_apart(together)))
        for case in _cases(apart, lambda x: not x.under(tops)):
            if equation.along is None:
                for total in _totals(case, names).values():
                    yield from total.vanishes()
            else:
                yield from _constant(case, tops, names)


def sole_functions(expr: Expr) -> list[Unknown]:
    """The functions that are zero wherever `expr` is: each alone is multiplied by certain data, which nothing is known
    of that could make them depend on others. (Not all of them: those that can be told without writing equations.)"""
    by_data: dict[object, list[Factor]] = {}
    for f in expr.terms:
        if any(d.sums or d.pieces or d.walks or d.share or d.number is not None for d in f.data):
            return []
        by_data.setdefault(frozenset(Counter(d.whole for d in f.data).items()), []).append(f)
    return [some[0].unknown for some in by_data.values() if len(some) == 1 and _is_whole(some[0])]


def _is_whole(f: Factor) -> bool:
    """True if the factor holds every component of its function, each under indices of its own."""
    bound, of_data = leaves(f.labels), f.indices_of_data()
    if f.where or len(set(bound)) < len(bound) or any(x.mean for x in bound):
        return False
    return all(x in of_data for x in bound if x.summed)


def _taken_to_pieces(terms: Iterable[_Term]) -> Iterator[_Term]:
    """A sum over data that were joined of others is one over each of these; over a number it is done."""
    for t in terms:
        checkpoint()
        joint = (x.owner for d in t.factor.data for x, _ in d.pieces if x.owner and x.owner.summed)
        if (whole := next(joint, None)) is None:
            yield from _without_numbers(t)
        else:
            yield from _taken_to_pieces(u for segment in whole.segments if (u := t.within(segment)))


def _apart(terms: list[_Term]) -> Iterator[_Term]:
    """A sum over an index that is itself a sum is one over each of its segments: every term within a single one."""
    cut = {g.owner for t in terms for g in t.guards if g.owner and g.owner.summed}
    todo = terms[::-1]
    while todo:
        checkpoint()
        t = todo.pop()
        of_data = t.factor.indices_of_data()
        own = {g.owner for g in t.guards if g.owner in cut}
        # In the order in which the data have them, so that equal parts of equal data are told in the same way.
        mine = dict.fromkeys([x for x in of_data if x in (own or cut)]) | dict.fromkeys(own)
        outer = next((x for x in mine if x and not any(g.owner in mine for g in x.chain())), None)
        if outer is None:
            yield t
        else:
            todo += filter(None, map(t.within, outer.segments))


def _without_numbers(t: _Term) -> Iterator[_Term]:
    """The term, with the numbers that it is multiplied by done; summed over what only they had for an index."""
    numbers = [d for d in t.factor.data if d.number is not None]
    if not numbers:
        yield t
        return
    f, c = t.factor._replace(data=tuple(d for d in t.factor.data if d.number is None)), t.c
    for d in numbers:
        c *= d.number or 0
    left = f.indices_of_data()
    over = {x for d in numbers for x in leaves(d.labels) if x.summed and x not in left}
    labels = tuple(Label(x.atom, mean=True) if x in over else x for x in leaves(f.labels))
    if c:
        yield _Term(f._replace(labels=labels), c * count(over), t.guards)


def _independent(terms: Iterable[_Term]) -> Iterable[list[_Term]]:
    """The terms, apart where they are multiplied by other data, so that the segments of one need not be told for all.

    Data that add up to one may be gone later, so they tell nothing apart.
    """
    terms = list(terms)
    every = (d for t in terms for d in t.factor.data)
    summed = {d.whole for d in every if d.share or any(all(x.summed for x in leaves(over)) for over, _ in d.sums)}
    out: dict[object, list[_Term]] = {}
    for t in terms:
        wholes = Counter(d.whole for d in t.factor.data if d.whole not in summed)
        out.setdefault(frozenset(wholes.items()), []).append(t)
    return out.values()


class _Names:
    """Names for the indices that sums go over: what they are called makes no difference, where they stand does."""

    def __init__(self, terms: Iterable[_Term]) -> None:
        every = [t.factor.data for t in terms]
        ones = {(d.key, tuple(leaves(d.labels))) for data in every for d in data}
        self._needed = len(ones) > len({key for key, _ in ones}) or any(len(data) > 1 for data in every)
        self._ranks: dict[object, int] = {}
        self._labels: dict[object, Label] = {}

    def canonical(self, f: Factor) -> Factor:
        """The factor with its data in a fixed order, and one name for every index that is summed over in one way."""
        if not (f.data and self._needed):
            return f
        data = sorted(f.data, key=lambda d: self._ranks.setdefault(d.key, len(self._ranks)))
        places: dict[Label, list[tuple[int, int]]] = {}
        for i, d in enumerate(data):
            for j, x in enumerate(leaves(d.labels)):
                if x.summed:
                    places.setdefault(x, []).append((i, j))
        ranks = tuple(self._ranks[d.key] for d in data)
        to = {x: self._labels.setdefault((ranks, tuple(where), x.root), x) for x, where in places.items()}
        return Factor(f.unknown, f.labels, tuple(data), f.where).called(to)


def _constant(case: list[_Term], tops: set[Label], names: _Names) -> Iterator[Row]:
    """The terms do not depend on indices under `tops`, and have one value in all segments of these."""
    first: dict[Key, _Sum] | None = None
    for alternative in _cases(case, lambda x: True):
        totals = _totals(alternative, names)
        moving = {key for key in totals if any(x.under(tops) for x in key[1]) or _varies(key[0], tops)}
        for key in moving:
            yield from totals.pop(key).vanishes()
        if first is None:
            first = totals
            continue
        for key in first.keys() | totals.keys():
            difference = _Sum({}, set())
            for total, sign in ((first.get(key), 1), (totals.get(key), -1)):
                if total is not None:
                    difference.orders.update(total.orders)
                    for k, c in total.row.items():
                        difference.row[k] = difference.row.get(k, 0) + sign * c
            yield from difference.vanishes()


def _varies(data: tuple[Data, ...], tops: set[Label]) -> bool:
    return any(x.under(tops) for d in data for x in d.labels)


def _cases(terms: list[_Term], wanted: Callable[[Label], bool]) -> Iterator[list[_Term]]:
    """The terms that live together, for every choice of segments that tells some of them apart."""
    guards = dict.fromkeys(g for t in terms for g in t.guards if wanted(g))
    outer = next((g for g in guards if not any(h in guards for h in g.chain()[1:])), None)
    if outer is None:
        yield terms
        return
    assert outer.owner is not None
    everywhere: list[_Term] = []
    living: dict[Label, list[_Term]] = {segment: [] for segment in outer.owner.segments}
    for t in terms:
        living.get(next((g for g in t.guards if g.owner is outer.owner), outer.owner), everywhere).append(t)
    for segment, some in living.items():
        checkpoint()
        yield from _cases([u for t in (*everywhere, *some) if (u := t.within(segment))], wanted)


def _totals(terms: Iterable[_Term], names: _Names) -> dict[Key, _Sum]:
    """The equations between numbers, by data and set of indices."""
    out: dict[Key, _Sum] = {}
    shares: dict[tuple[Key, object], list[tuple[Share, Key]]] = {}
    for t in terms:
        f = names.canonical(t.factor)
        c = t.c * prod(d.multiple for d in f.data)
        bound = leaves(f.labels)
        always = None if any(d.sums for d in f.data) else _reduced(f.data, frozenset())
        for subset, component in components(f):
            data, times = always or _reduced(f.data, subset)
            if times:
                if (key := (data, subset)) not in out:
                    for share, rest, alike in _shares(data, subset):
                        shares.setdefault((rest, alike), []).append((share, key))
                total = out.setdefault(key, _Sum({}, set()))
                total.row[component] = total.row.get(component, 0) + times * c
                total.orders.add(tuple(x for x in bound if x in subset))
    for (rest, _), some in shares.items():
        _settled_last(out, rest, sorted(some, key=lambda known: known[0][1:3]))
    return out


def _shares(data: tuple[Data, ...], subset: frozenset[Label]) -> Iterator[tuple[Share, Key, object]]:
    """Data that add up to something together with others, summed over what nothing else depends on; what is left
    without them; and what these others have in common: the tensor and its other indices."""
    for i, d in enumerate(data):
        if (share := d.share) is not None:
            now, others = leaves(share.over), (*data[:i], *data[i + 1 :])
            if times := _counted(d, now, others, subset):
                alike = (share.whole, tuple(x for x in leaves(d.labels) if x not in now))
                yield share._replace(value=share.value * times), (others, subset), alike


def _settled_last(out: dict[Key, _Sum], rest: Key, shares: list[tuple[Share, Key]]) -> None:
    """Where a sum of all shares is known, the last is what the others leave of it: what it is multiplied by comes off
    theirs."""
    ends = [0, *(share.stop for share, _ in shares)]
    if [share.start for share, _ in shares] != ends[:-1] or ends[-1] != shares[-1][0].total:
        return
    if any(key not in out for _, key in shares):
        return
    last = out.pop(shares[-1][1])
    for key, times in (*((key, -1) for _, key in shares[:-1]), (rest, shares[-1][0].value)):
        total = out.setdefault(key, _Sum({}, set()))
        total.orders.update(last.orders)
        for component, c in last.row.items():
            total.row[component] = total.row.get(component, 0) + times * c


def _reduced(data: tuple[Data, ...], subset: frozenset[Label]) -> tuple[tuple[Data, ...], Number]:
    """The data, without those that add up to one over indices that nothing else depends on, and how often what is left
    is counted: zero times, where they add up to zero."""
    for i, d in enumerate(data):
        for over, value in d.sums:
            others = (*data[:i], *data[i + 1 :])
            if (times := _counted(d, leaves(over), others, subset)) is not None:
                left, often = _reduced(others, subset)
                return left, value * times * often
    return tuple(Data(d.key, tuple(leaves(d.labels)), share=d.share) for d in data), 1


def _counted(d: Data, over: list[Label], others: tuple[Data, ...], subset: frozenset[Label]) -> int | None:
    """How many sums of d over some indices there are, each for itself, if nothing else depends on these; else None.

    One for every value of the other indices that are summed over: where nothing else depends on them, they only count.
    """
    elsewhere = subset.union(leaves(x for e in others for x in e.labels))
    if not all(x.summed for x in over) or not elsewhere.isdisjoint(over):
        return None
    rest = {x for x in leaves(d.labels) if x.summed and x not in over}
    return count(rest - elsewhere)
