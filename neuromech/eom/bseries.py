"""Rooted trees: vector fields that are built from a gradient field g, with rational coefficients, to any order.

A tree stands for an elementary differential: `()` for g, `(t1, .., tn)` for the n-th derivative of g in the directions
that its subtrees stand for, and `IDENTITY`, which is only ever a leaf, for theta itself (weight decay needs it).
A `Series` is a sum of trees. Grafting trees is differentiating fields (Hairer, Lubich, Wanner, ch. III and IX).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from neuromech.params import Params, combine

Tree = tuple[Any, ...]
Series = dict[Tree, Fraction]

GRADIENT: Tree = ()
IDENTITY: Tree = ("theta",)

# d^n g[v1, .., vn] at one point, with frozen directions; without directions g itself.
Derivative = Callable[..., Params]


def tree(*subtrees: Tree) -> Tree:
    """The tree with these subtrees, whose order does not matter: small ones come first."""
    return tuple(sorted(subtrees, key=lambda t: (size(t), repr(t))))


def size(t: Tree) -> int:
    """The number of nodes."""
    return 1 if t == IDENTITY else 1 + sum(map(size, t))


def add(*terms: tuple[Fraction | int, Mapping[Tree, Fraction]]) -> Series:
    """sum of coefficient * series."""
    total: Series = {}
    for coefficient, series in terms:
        for t, c in series.items():
            total[t] = total.get(t, Fraction(0)) + coefficient * c
    return {t: c for t, c in total.items() if c}


def lie(along: Mapping[Tree, Fraction], field: Mapping[Tree, Fraction]) -> Series:
    """The derivative of `field` in the direction of `along`: every tree of `along` grafted on every node of `field`."""
    total: Series = {}
    for a, ca in along.items():
        for b, cb in field.items():
            for t in _grafts(a, b):
                total[t] = total.get(t, Fraction(0)) + ca * cb
    return total


def _grafts(a: Tree, b: Tree) -> list[Tree]:
    if b == IDENTITY:
        return [a]
    inside = [tree(*b[:i], t, *b[i + 1 :]) for i, child in enumerate(b) for t in _grafts(a, child)]
    return [tree(*b, a), *inside]


def evaluate(series: Mapping[Tree, Fraction | float], derivative: Derivative, theta: Params) -> Params:
    """The field at the point theta to which `derivative` belongs.

    Trees that differ in their largest branch only share one derivative, which is linear in each direction.
    """
    known: dict[Tree, Params] = {IDENTITY: theta}

    def value(t: Tree) -> Params:
        if t not in known:
            known[t] = derivative(*map(value, t))
        return known[t]

    def total(series: Mapping[Tree, Fraction | float]) -> Params:
        terms = [(float(c), value(t)) for t, c in series.items() if t in (GRADIENT, IDENTITY)]
        branches: dict[tuple[Tree, ...], dict[Tree, Fraction | float]] = {}
        for t, c in series.items():
            if t not in (GRADIENT, IDENTITY):
                branches.setdefault(t[:-1], {})[t[-1]] = c
        for directions, last in branches.items():
            if len(last) == 1:
                ((t, c),) = last.items()
                terms.append((float(c), value((*directions, t))))
            else:
                terms.append((1.0, derivative(*map(value, directions), total(last))))
        return combine(terms)

    return total(series)
