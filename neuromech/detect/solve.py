"""Equations between unknown functions -> families of symmetries, in exact rational arithmetic.

Per subset of indices (see `expr`) the unknowns are numbers; their null space is found by sparse elimination, one
connected block at a time. A solution on the indices (a, b) stands for a whole family, one member for every pair, so it
holds on the subsets (a), (b) and () as well; only what those have beyond that makes families of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations
from math import gcd, prod

from neuromech.detect.axes import Atom, leaves
from neuromech.detect.effort import SOLVING, OutOfTime, effort, until
from neuromech.detect.equations import Component, Equation, Row, rows
from neuromech.detect.expr import BlockId, Unknown
from neuromech.detect.nullspace import beyond, echelon, integral, null_space, satisfied

IntegerRow = dict[Component, int]


@dataclass(frozen=True)
class SolutionFamily:
    """A solution: the coefficient with which each component follows one free function of the family's indices.

    Along `contrasts` the function has to sum to zero: what members there are stand for an index and the next one.
    """

    solution: Row
    at_rest: frozenset[BlockId] = frozenset()  # blocks of parameters that need not move
    contrasts: frozenset[Atom] = frozenset()

    @property
    def vector(self) -> Row:
        """The solution as far as it is about parameters that move; names for expressions are left out."""
        named = {c: w for c, w in self.solution.items() if c[0].name is not None}
        return {c: w for c, w in named.items() if c[0].block not in self.at_rest} if self.at_rest else named

    @property
    def indices(self) -> list[Atom]:
        unknown, positions = next(iter(self.solution))
        atoms = leaves(unknown.labels)
        return [atoms[i].root for i in positions]

    @property
    def size(self) -> int:
        return prod(a.n - (a in self.contrasts) for a in self.indices)

    def aligned(self, component: Component) -> tuple[int, ...]:
        """The positions of a component in the order of the family's indices."""
        unknown, positions = component
        atoms, left, out = leaves(unknown.labels), list(positions), []
        for index in self.indices:
            out.append(next(i for i in left if atoms[i].root is index))
            left.remove(out[-1])
        return tuple(out)

    @property
    def sole(self) -> BlockId | None:
        """The block of a parameter whose single elements are the members, if nothing else moves."""
        (unknown, positions), *others = self.vector
        alone = not others and not self.contrasts and len(positions) == len(unknown.indices())
        return unknown.block if alone else None

    def restrictions(self, degree: int) -> list[Row]:
        """The solutions on subsets of `degree` indices that the family contains: constant along the other indices."""
        out = []
        needed = {i for i, a in enumerate(self.indices) if a in self.contrasts}
        for kept in combinations(range(len(self.indices)), degree):
            if not needed.issubset(kept):
                continue
            vector: Row = {}
            for component, c in self.solution.items():
                positions = self.aligned(component)
                part = component[0], tuple(sorted(positions[j] for j in kept))
                vector[part] = vector.get(part, 0) + c
            if vector := {k: c for k, c in vector.items() if c}:
                out.append(vector)
        return out


def solve(
    unknowns: Sequence[Unknown], equations: Iterable[Equation], auxiliary: Sequence[Unknown]
) -> list[SolutionFamily]:
    """A sparse basis of all solutions, in the order of `unknowns` (auxiliary ones are eliminated).

    Of those that the time suffices for, where it is limited: a block that is not settled by then has none.
    """
    system: dict[int, list[IntegerRow]] = {}
    effort().now("writing equations")
    for row in {frozenset(row.items()): row for e in equations for row in map(integral, _rows_in_time(e))}.values():
        system.setdefault(len(next(iter(row))[1]), []).append(row)
    touching: dict[Component, list[IntegerRow]] = {}
    for row in (r for rs in system.values() for r in rs):
        for component in row:
            touching.setdefault(component, []).append(row)
    # Auxiliary components come last, so that elimination expresses them by those of parameters, and late ones by early.
    every = [c for u in (*unknowns, *auxiliary) for block in u.blocks() for c in _components_of(block)]
    order = {c: i for i, c in enumerate(every)}
    found: list[SolutionFamily] = []
    for degree in sorted({len(positions) for _, positions in every}, reverse=True):
        mine = [c for c in every if len(c[1]) == degree]
        implied = [integral(v) for family in found for v in family.restrictions(degree)]
        for block, equal_zero, known in _blocks(mine, system.get(degree, []), implied):
            effort().now("solving equations")
            try:
                with until(SOLVING):
                    vectors = beyond(null_space(block, equal_zero, order), known, _is_of_a_parameter)
            except OutOfTime:
                continue
            for vector in vectors:
                family = SolutionFamily(_primitive(vector, order))
                if family.vector and (whole := _freest(family, touching)):
                    found.append(whole)
    return sorted(found, key=lambda f: min(order[c] for c in f.vector))


def _freest(family: SolutionFamily, touching: Mapping[Component, Sequence[IntegerRow]]) -> SolutionFamily:
    """The solution with as few indices along which it has to sum to zero as the equations for constants allow."""

    def holds(some: SolutionFamily) -> bool:
        rest = (v for d in range(len(some.indices)) for v in some.restrictions(d))
        return all(satisfied(v, (row for k in v for row in touching.get(k, ()))) for v in rest)

    atoms = list(dict.fromkeys(family.indices))
    tried = (replace(family, contrasts=frozenset(c)) for k in range(len(atoms)) for c in combinations(atoms, k))
    return next(filter(holds, tried), replace(family, contrasts=frozenset(atoms)))


def dimension(families: Sequence[SolutionFamily]) -> int:
    """Number of independent one-parameter symmetries: families may overlap (rows and columns share the whole)."""
    total = 0
    for degree in range(1 + max((len(f.indices) for f in families), default=-1)):
        by_size: dict[int, list[Row]] = {}
        moving = (SolutionFamily(f.vector, contrasts=f.contrasts) for f in families)
        for vector in (v for f in moving for v in f.restrictions(degree)):
            by_size.setdefault(prod(a.n - 1 for a in SolutionFamily(vector).indices), []).append(vector)
        total += sum(members * len(echelon(map(integral, vectors))) for members, vectors in by_size.items())
    return total


def without(families: Sequence[SolutionFamily], blocks: Iterable[BlockId]) -> list[SolutionFamily]:
    """The families with some blocks of parameters at rest, and what is left of each once."""
    left = [replace(f, at_rest=frozenset(blocks)) for f in families]
    return list({frozenset(f.vector.items()): f for f in left if f.vector}.values())


def _rows_in_time(equation: Equation) -> Iterable[Row]:
    """The rows of an equation; if there is no time to write it out, all that it is about is held at zero, which solves
    it."""
    try:
        with until(SOLVING):
            return list(rows(equation))
    except OutOfTime:
        blocks = dict.fromkeys(b for f in equation.expr.terms for b in f.unknown.blocks())
        return [{c: 1} for b in blocks for c in _components_of(b)]


def _components_of(u: Unknown) -> Iterable[Component]:
    n = len(leaves(u.labels))
    return ((u, positions) for k in range(n + 1) for positions in combinations(range(n), k))


def _blocks(
    components: Sequence[Component], system: Sequence[IntegerRow], implied: Sequence[IntegerRow]
) -> Iterable[tuple[list[Component], list[IntegerRow], list[IntegerRow]]]:
    """Connected blocks: components that share an equation or an implied solution."""
    parent = {c: c for c in components}

    def find(c: Component) -> Component:
        while parent[c] != c:
            parent[c] = parent[parent[c]]
            c = parent[c]
        return c

    for link in (*system, *implied):
        first, *others = link
        for c in others:
            parent[find(c)] = find(first)
    blocks: dict[Component, tuple[list[Component], list[IntegerRow], list[IntegerRow]]] = {}
    for c in components:
        blocks.setdefault(find(c), ([], [], []))[0].append(c)
    for row in system:
        blocks[find(next(iter(row)))][1].append(row)
    for vector in implied:
        blocks[find(next(iter(vector)))][2].append(vector)
    return blocks.values()


def _is_of_a_parameter(component: Component) -> bool:
    return component[0].name is not None


def _primitive(vector: IntegerRow, order: dict[Component, int]) -> Row:
    """The multiple with coprime integers whose first entry, in the order of parameters, is positive.

    Integers too long for a float (a factor 1/sqrt(3) somewhere) say nothing: the first entry is 1 then.
    """
    first = vector[min(vector, key=order.__getitem__)]
    common = gcd(*vector.values())
    too_long = max(map(abs, vector.values())) > common / sys.float_info.epsilon
    scale = Fraction(1, first if too_long else common if first > 0 else -common)
    return {k: vector[k] * scale for k in sorted(vector, key=order.__getitem__)}
