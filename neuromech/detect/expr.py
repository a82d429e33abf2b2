"""Linear expressions in unknown functions of indices, and the equations between them.

Every parameter gets one unknown function f of its indices: the exponent that each element scales with, or the amount
that each element shifts by. What a tensor of the graph carries is a linear expression in these functions. An operator
adds equations, and the solutions of all equations are the symmetries.

Equations are solved without ever looking at single indices. Each function is the sum of its components f_S, one for
every subset S of its indices, where f_S depends on S alone and averages to zero over each index in S (the ANOVA, or
Hoeffding, decomposition). An equation between functions holds if and only if it holds for every S, and since the
members of an atom are interchangeable, for one S it is a single equation between *numbers*: one unknown per function
and subset.

For shifts an expression also has factors that depend on the data: moving W by S moves W x by S x. A term then carries
the `Data` it is multiplied by. Different data are linearly independent, so equations hold separately for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

from neuromech.detect.axes import Label, leaves


@dataclass(eq=False)
class Unknown:
    """A function of the indices of one parameter; `name` is None for an auxiliary function that names an expression."""

    labels: tuple[Label, ...]
    name: str | None = None


class Data(NamedTuple):
    """A factor that depends on the data: which tensor, and on which indices. Equal `Data` are the same numbers."""

    key: tuple[object, ...]
    labels: tuple[Label, ...]

    def rename(self, to: Mapping[Label, Label]) -> Data:
        return Data(self.key, _renamed(self.labels, to))

    def derived(self, how: object, *more: Label) -> Data:
        """Other numbers made of these, with further indices; nested, so that products of data stay unambiguous."""
        return Data(((how, *self.key),), (*self.labels, *more))


def _renamed(labels: Iterable[Label], to: Mapping[Label, Label]) -> tuple[Label, ...]:
    return tuple(to.get(x, x) for x in leaves(labels))


def by_leaves(same: Mapping[Label, Label]) -> dict[Label, Label]:
    """A renaming of labels as a renaming of their leaves."""
    return {p: q for old, new in same.items() for p, q in zip(old.leaves(), new.leaves(), strict=True)}


class Factor(NamedTuple):
    """An unknown function with its indices bound to `labels`, times `data`."""

    unknown: Unknown
    labels: tuple[Label, ...]
    data: Data | None = None

    def rename(self, to: Mapping[Label, Label]) -> Factor:
        """The factor with its indices called by other labels; `to` maps leaves to leaves."""
        return Factor(self.unknown, _renamed(self.labels, to), self.data and self.data.rename(to))


Component = tuple[Unknown, tuple[int, ...]]  # f_S: the unknown, and the positions of S among its (split) labels
Row = dict[Component, Fraction]


class Expr:
    """A linear combination of factors. The empty one is zero."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[Factor, Fraction] | None = None) -> None:
        self.terms = dict(terms or {})

    @classmethod
    def of(cls, unknown: Unknown) -> Expr:
        return cls({Factor(unknown, unknown.labels): Fraction(1)})

    @classmethod
    def sum(cls, terms: Iterable[tuple[Factor, Fraction]]) -> Expr:
        out: dict[Factor, Fraction] = {}
        for f, c in terms:
            out[f] = out.get(f, Fraction(0)) + c
        return cls({f: c for f, c in out.items() if c})

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __add__(self, other: Expr) -> Expr:
        return Expr.sum([*self.terms.items(), *other.terms.items()])

    def __mul__(self, k: Fraction | int) -> Expr:
        return Expr({f: c * k for f, c in self.terms.items()} if k else {})

    __rmul__ = __mul__

    def __neg__(self) -> Expr:
        return self * -1

    def __sub__(self, other: Expr) -> Expr:
        return self + -other

    def rename(self, same: Mapping[Label, Label]) -> Expr:
        """The expression with indices called by other labels."""
        if not (same and self.terms):
            return self
        to = by_leaves(same)
        return Expr.sum((f.rename(to), c) for f, c in self.terms.items())

    def averaged(self, over: Iterable[Label]) -> Expr:
        """The mean over some indices; only for terms whose data does not depend on them."""
        gone = {x for x in leaves(over) if not x.mean}
        return self.rename({x: Label(x.atom, mean=True) for x in gone})

    def times(self, data: Data) -> Expr:
        """The product with a tensor of data."""

        def factor(f: Factor) -> Factor:
            old = f.data or Data((), ())
            return f._replace(data=Data((*old.key, *data.key), (*old.labels, *data.labels)))

        return Expr.sum((factor(f), c) for f, c in self.terms.items())

    def summed(self, over: Iterable[Label]) -> Expr:
        """The sum over some indices.

        Where the data vary along an index the sum cannot be done: the index stays in the term, as a twin that no tensor
        has for an index. Where they do not, the sum is the mean of the function times the number of entries.
        """
        over = list(dict.fromkeys(leaves(over)))

        def sum_of(f: Factor, c: Fraction) -> tuple[Factor, Fraction]:
            varying = set(leaves(f.data.labels)) if f.data else set()
            used = varying.union(leaves(f.labels))
            same = {}
            for x in over:
                if x in varying:
                    same[x] = x.twin
                    while same[x] in used:
                        same[x] = same[x].twin
                else:
                    same[x] = Label(x.atom, mean=True)
                    c = c * x.n
            return f.rename(same), c

        return Expr.sum(sum_of(f, c) for f, c in self.terms.items())

    def split(self, along: Iterable[Label]) -> tuple[Expr, Expr]:
        """The terms that depend on one of these indices, and the others."""
        touched = set(leaves(along))

        def depends(f: Factor) -> bool:
            return not touched.isdisjoint(leaves((*f.labels, *(f.data.labels if f.data else ()))))

        inside = {f for f in self.terms if depends(f)}
        outside = self.terms.keys() - inside
        return Expr({f: self.terms[f] for f in inside}), Expr({f: self.terms[f] for f in outside})

    def by_data(self) -> dict[Data | None, Expr]:
        """The terms sorted by the data that they are multiplied by."""
        out: dict[Data | None, dict[Factor, Fraction]] = {}
        for f, c in self.terms.items():
            data = f.data and Data(f.data.key, tuple(leaves(f.data.labels)))
            out.setdefault(data, {})[f] = c
        return {data: Expr(terms) for data, terms in out.items()}

    def labels(self) -> list[Label]:
        """The indices that the functions of the expression are bound to, each once."""
        return list(dict.fromkeys(x for f in self.terms for x in leaves(f.labels) if not x.mean))


class Equation(NamedTuple):
    """Components f_S of `expr` vanish for every S (`along` None), or for every S that meets `along`.

    All terms of `expr` carry the same data.
    """

    expr: Expr
    along: tuple[Label, ...] | None


def components(f: Factor) -> Iterable[tuple[frozenset[Label], Component]]:
    """The components of a factor: for every set S of its labels, the positions of S in the function."""
    bound = [(i, x) for i, x in enumerate(leaves(f.labels)) if not x.mean]
    for k in range(len(bound) + 1):
        for chosen in combinations(bound, k):
            yield frozenset(x for _, x in chosen), (f.unknown, tuple(i for i, _ in chosen))


def rows(equation: Equation) -> Iterable[tuple[frozenset[Label], Row]]:
    """The equations between numbers that an equation between functions stands for, one for every S."""
    along = None if equation.along is None else set(leaves(equation.along))
    by_subset: dict[frozenset[Label], Row] = {}
    orders: dict[frozenset[Label], set[tuple[Label, ...]]] = {}
    for f, c in equation.expr.terms.items():
        for subset, component in components(f):
            if along is None or along & subset:
                row = by_subset.setdefault(subset, {})
                row[component] = row.get(component, Fraction(0)) + c
                orders.setdefault(subset, set()).add(tuple(x for x in leaves(f.labels) if x in subset))
    for subset, row in by_subset.items():
        if len(orders[subset]) > 1 and len({x.root for x in subset}) < len(subset):
            # f(i, j) against g(j, i), both over one atom: one number per component cannot tell g from its transpose.
            # All of them vanish, which may miss a symmetry (f = -f^T) but never claims a false one.
            yield from ((subset, {k: Fraction(1)}) for k in row)
        elif row := {k: c for k, c in row.items() if c}:
            yield subset, row
