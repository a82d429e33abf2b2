"""Equations between unknown functions -> families of symmetries, in exact rational arithmetic.

Per subset of indices (see `expr`) the unknowns are numbers; their null space is found by sparse elimination, one
connected block at a time. A solution on the indices (a, b) stands for a whole family, one member for every pair, so it
holds on the subsets (a), (b) and () as well; only what those have beyond that makes families of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations
from math import gcd, lcm, prod

from neuromech.detect.axes import Atom, leaves
from neuromech.detect.equations import Component, Equation, Row, rows
from neuromech.detect.expr import BlockId, Unknown


@dataclass(frozen=True)
class SolutionFamily:
    """A solution: the coefficient with which each component follows one free function of the family's indices."""

    solution: Row
    at_rest: frozenset[BlockId] = frozenset()  # blocks of parameters that need not move

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
        return prod(a.n for a in self.indices)

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
        return unknown.block if not others and len(positions) == len(unknown.indices()) else None

    def restrictions(self, degree: int) -> list[Row]:
        """The solutions on subsets of `degree` indices that the family contains: constant along the other indices."""
        out = []
        for kept in combinations(range(len(self.indices)), degree):
            vector: Row = {}
            for component, c in self.solution.items():
                positions = self.aligned(component)
                part = component[0], tuple(sorted(positions[j] for j in kept))
                vector[part] = vector.get(part, Fraction(0)) + c
            if vector := {k: c for k, c in vector.items() if c}:
                out.append(vector)
        return out


def solve(
    unknowns: Sequence[Unknown], equations: Iterable[Equation], auxiliary: Sequence[Unknown]
) -> list[SolutionFamily]:
    """A sparse basis of all solutions, in the order of `unknowns` (auxiliary ones are eliminated)."""
    system: dict[int, list[Row]] = {}
    for equation in equations:
        for row in rows(equation):
            system.setdefault(len(next(iter(row))[1]), []).append(row)
    touching: dict[Component, list[Row]] = {}
    for row in (r for rs in system.values() for r in rs):
        for component in row:
            touching.setdefault(component, []).append(row)
    # Auxiliary components come last, so that elimination expresses them by those of parameters, and late ones by early.
    every = [c for u in (*unknowns, *auxiliary) for block in u.blocks() for c in _components_of(block)]
    order = {c: i for i, c in enumerate(every)}
    found: list[SolutionFamily] = []
    for degree in sorted({len(positions) for _, positions in every}, reverse=True):
        mine = [c for c in every if len(c[1]) == degree]
        implied = [v for family in found for v in family.restrictions(degree)]
        for block, equal_zero, known in _blocks(mine, system.get(degree, []), implied):
            basis = _null_space(block, equal_zero, order)
            for vector in _beyond(basis, known):
                family = SolutionFamily(_primitive(vector, order))
                if family.vector and all(
                    _satisfied(v, touching) for d in range(degree) for v in family.restrictions(d)
                ):
                    found.append(family)
    return sorted(found, key=lambda f: min(order[c] for c in f.vector))


def dimension(families: Sequence[SolutionFamily]) -> int:
    """Number of independent one-parameter symmetries: families may overlap (rows and columns share the whole)."""
    total = 0
    for degree in range(1 + max((len(f.indices) for f in families), default=-1)):
        by_size: dict[int, list[Row]] = {}
        for vector in (v for f in families for v in SolutionFamily(f.vector).restrictions(degree)):
            by_size.setdefault(prod(a.n - 1 for a in SolutionFamily(vector).indices), []).append(vector)
        total += sum(members * len(_echelon(vectors)) for members, vectors in by_size.items())
    return total


def without(families: Sequence[SolutionFamily], blocks: Iterable[BlockId]) -> list[SolutionFamily]:
    """The families with some blocks of parameters at rest, and what is left of each once."""
    left = [replace(f, at_rest=frozenset(blocks)) for f in families]
    return list({frozenset(f.vector.items()): f for f in left if f.vector}.values())


def _components_of(u: Unknown) -> Iterable[Component]:
    n = len(leaves(u.labels))
    return ((u, positions) for k in range(n + 1) for positions in combinations(range(n), k))


def _minus(v: Row, r: Fraction, w: Row) -> Row:
    """v - r w."""
    out = dict(v)
    for k, c in w.items():
        out[k] = out.get(k, Fraction(0)) - r * c
        if not out[k]:
            del out[k]
    return out


def _satisfied(vector: Row, touching: dict[Component, list[Row]]) -> bool:
    seen = {id(row): row for k in vector for row in touching.get(k, ())}
    return all(sum((c * vector[k] for k, c in row.items() if k in vector), Fraction(0)) == 0 for row in seen.values())


def _blocks(
    components: Sequence[Component], system: Sequence[Row], implied: Sequence[Row]
) -> Iterable[tuple[list[Component], list[Row], list[Row]]]:
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
    blocks: dict[Component, tuple[list[Component], list[Row], list[Row]]] = {}
    for c in components:
        blocks.setdefault(find(c), ([], [], []))[0].append(c)
    for row in system:
        blocks[find(next(iter(row)))][1].append(row)
    for vector in implied:
        blocks[find(next(iter(vector)))][2].append(vector)
    return blocks.values()


def _echelon(vectors: Iterable[Row], order: dict[Component, int] | None = None) -> dict[Component, Row]:
    """Reduced row echelon form: pivot -> row with 1 at the pivot and 0 at every other pivot."""
    pivots: dict[Component, Row] = {}
    uses: dict[Component, set[Component]] = {}  # component -> pivots whose row holds it
    for vector in sorted(vectors, key=len):
        row = dict(vector)
        for k in [k for k in row if k in pivots]:
            row = _minus(row, row[k], pivots[k])
        if not row:
            continue
        pivot = max(row, key=order.__getitem__) if order else next(iter(row))
        row = {k: c / row[pivot] for k, c in row.items()}
        for other in list(uses.get(pivot, ())):
            for k in pivots[other]:
                uses[k].discard(other)
            pivots[other] = _minus(pivots[other], pivots[other][pivot], row)
            for k in pivots[other]:
                uses.setdefault(k, set()).add(other)
        pivots[pivot] = row
        for k in row:
            uses.setdefault(k, set()).add(pivot)
    return pivots


def _null_space(block: Sequence[Component], system: Sequence[Row], order: dict[Component, int]) -> dict[Component, Row]:
    """A basis of the solutions, by free component: each is 1 at its own and 0 at the other free components."""
    pivots = _echelon(system, order)
    basis: dict[Component, Row] = {c: {c: Fraction(1)} for c in block if c not in pivots}
    for pivot, row in pivots.items():
        for k, c in row.items():
            if k != pivot:
                basis[k][pivot] = -c
    return basis


def _beyond(basis: dict[Component, Row], known: Sequence[Row]) -> list[Row]:
    """Sparse solutions that complete the `known` ones to the whole null space."""
    coordinates = [{c: v[c] for c in v if c in basis} for v in known]
    covered = _echelon(c for c in coordinates if c)
    return _sparsified([v for free, v in basis.items() if free not in covered], known)


def _sparsified(vectors: list[Row], modulo: Sequence[Row]) -> list[Row]:
    """The same span modulo `modulo`, with fewer entries: greedy, one combination at a time."""

    def weight(v: Row) -> tuple[int, bool]:
        # Among equally short ones, what is undone elsewhere (mixed signs) before what a norm has to absorb.
        named = [c for (u, _), c in v.items() if u.name is not None]
        return len(named), len({c > 0 for c in named}) < 2

    vectors, improved = list(vectors), True
    while improved:
        improved = False
        for i, v in enumerate(vectors):
            for w in (*modulo, *vectors[:i], *vectors[i + 1 :]):
                ratios = {v[k] / c for k, c in w.items() if k in v}
                best = min((_minus(v, r, w) for r in ratios), key=weight, default=v)
                if weight(best) < weight(v):
                    vectors[i] = v = best
                    improved = True
    return vectors


def _primitive(vector: Row, order: dict[Component, int]) -> Row:
    """The multiple with coprime integers whose first entry, in the order of parameters, is positive.

    Integers too long for a float (a factor 1/sqrt(3) somewhere) say nothing: the first entry is 1 then.
    """
    first = vector[min(vector, key=order.__getitem__)]
    scale = Fraction(lcm(*(c.denominator for c in vector.values())), gcd(*(c.numerator for c in vector.values())))
    if max(abs(c * scale) for c in vector.values()) > 1 / sys.float_info.epsilon:
        scale = abs(1 / first)
    scale *= 1 if first > 0 else -1
    return {k: vector[k] * scale for k in sorted(vector, key=order.__getitem__)}
