"""Exact sparse linear algebra over the integers: elimination, a basis of a null space, short vectors of it.

A vector is a dictionary, component -> integer, without zeros. Rows are known up to a factor only, so no division is
needed: a combination of two is freed of common divisors instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import gcd, lcm
from typing import TypeVar

from neuromech.detect.effort import checkpoint

K = TypeVar("K", bound=Hashable)


def integral(row: Mapping[K, Fraction | int]) -> dict[K, int]:
    """The multiple of a row with coprime integers."""
    scale = lcm(*(c.denominator for c in row.values()))
    return reduced({k: int(c * scale) for k, c in row.items()})


def reduced(row: dict[K, int]) -> dict[K, int]:
    """The row without a common divisor."""
    common = gcd(*row.values())
    return {k: c // common for k, c in row.items()} if common > 1 else row


def combined(v: Mapping[K, int], w: Mapping[K, int], a: int, b: int) -> dict[K, int]:
    """a v - b w, but for a common divisor."""
    out = {k: a * c for k, c in v.items()} if a != 1 else dict(v)
    for k, c in w.items():
        if new := out.get(k, 0) - b * c:
            out[k] = new
        else:
            del out[k]
    return reduced(out) if a not in (1, -1) else out


def without(v: Mapping[K, int], w: Mapping[K, int], k: K) -> dict[K, int]:
    """The combination of v and w in which component k is gone."""
    common = gcd(v[k], w[k])
    return combined(v, w, w[k] // common, v[k] // common)


def echelon(vectors: Iterable[Mapping[K, int]], order: Mapping[K, int] | None = None) -> dict[K, dict[K, int]]:
    """Reduced row echelon form: pivot -> row that is zero at every other pivot; the latest in `order` is the pivot."""
    pivots: dict[K, dict[K, int]] = {}
    uses: dict[K, set[K]] = {}  # component -> pivots whose row holds it
    for vector in sorted(vectors, key=len):
        checkpoint()
        row = dict(vector)
        for k in [k for k in row if k in pivots]:
            row = without(row, pivots[k], k)
        if not row:
            continue
        pivot = max(row, key=order.__getitem__) if order else next(iter(row))
        for other in list(uses.get(pivot, ())):
            checkpoint()
            for k in pivots[other]:
                uses[k].discard(other)
            pivots[other] = without(pivots[other], row, pivot)
            for k in pivots[other]:
                uses.setdefault(k, set()).add(other)
        pivots[pivot] = row
        for k in row:
            uses.setdefault(k, set()).add(pivot)
    return pivots


def null_space(block: Sequence[K], system: Iterable[Mapping[K, int]], order: Mapping[K, int]) -> dict[K, dict[K, int]]:
    """A basis of the solutions, by free component: each is zero at the other free components."""
    pivots = echelon(system, order)
    at: dict[K, list[tuple[K, int, int]]] = {c: [] for c in block if c not in pivots}
    for pivot, row in pivots.items():
        for k, c in row.items():
            if k != pivot:
                at[k].append((pivot, c, row[pivot]))
    basis = {}
    for free, entries in at.items():
        scale = lcm(*(p // gcd(c, p) for _, c, p in entries))
        basis[free] = {free: scale} | {pivot: -c * scale // p for pivot, c, p in entries}
    return basis


def beyond(
    basis: Mapping[K, dict[K, int]], known: Sequence[Mapping[K, int]], counts: Callable[[K], bool]
) -> list[dict[K, int]]:
    """Sparse solutions that complete the `known` ones to the whole null space; see `sparsified`."""
    coordinates = [{c: v[c] for c in v if c in basis} for v in known]
    covered = echelon(c for c in coordinates if c)
    return sparsified([v for free, v in basis.items() if free not in covered], known, counts)


def sparsified(
    vectors: Sequence[dict[K, int]], modulo: Sequence[Mapping[K, int]], counts: Callable[[K], bool]
) -> list[dict[K, int]]:
    """The same span modulo `modulo`, with fewer entries among those that count: greedy, one combination at a time.

    Among equally short ones those of mixed signs (undone elsewhere) before those of one (a norm has to absorb them).
    """
    table: list[Mapping[K, int]] = [*modulo, *vectors]
    first = len(modulo)
    known: dict[K, bool] = {}

    def counted(v: Iterable[K]) -> Iterator[K]:
        for k in v:
            if k not in known:
                known[k] = counts(k)
            if known[k]:
                yield k

    holding: dict[K, set[int]] = {}  # component -> vectors that have it
    for i, v in enumerate(table):
        for k in v:
            holding.setdefault(k, set()).add(i)
    moved, improved = set(range(len(table))), True
    while improved:
        improved = False
        before, moved = moved, set()
        for i in range(first, len(table)):
            near = set().union(*(holding[k] for k in table[i])) - {i}
            for j in sorted(near if i in before | moved else near & (before | moved)):
                checkpoint()
                if (best := _shorter(table[i], table[j], counted)) is not None:
                    for k in table[i]:
                        holding[k].discard(i)
                    table[i] = best
                    for k in best:
                        holding.setdefault(k, set()).add(i)
                    moved.add(i)
                    improved = True
    return [dict(v) for v in table[first:]]


def _shorter(
    v: Mapping[K, int], w: Mapping[K, int], counted: Callable[[Iterable[K]], Iterator[K]]
) -> dict[K, int] | None:
    """The shortest v - r w, if it is shorter than v, or as short and of mixed signs where v has one."""
    common = [k for k in w if k in v]
    if not common:
        return None
    mine = list(counted(v))
    length = len(mine)
    of_w, shared = sum(1 for _ in counted(w)), set(counted(common))
    gone = Counter(_ratio(v[k], w[k]) for k in shared)
    one_sign = len({v[k] > 0 for k in mine}) < 2
    longest = length if one_sign else length - 1
    best: tuple[tuple[int, bool], dict[K, int]] | None = None
    for r in dict.fromkeys(_ratio(v[k], w[k]) for k in common):
        left = length + of_w - len(shared) - gone[r]
        if left > longest or (best is not None and left > best[0][0]):
            continue
        a, b = r
        new = combined(v, w, b, a)
        weight = left, len({new[k] > 0 for k in counted(new)}) < 2
        if weight < (length, one_sign) and (best is None or weight < best[0]):
            best = weight, new
    return None if best is None else best[1]


def _ratio(a: int, b: int) -> tuple[int, int]:
    """a / b in lowest terms, the denominator positive."""
    common = gcd(a, b) * (1 if b > 0 else -1)
    return a // common, b // common


def satisfied(vector: Mapping[K, int | Fraction], rows: Iterable[Mapping[K, int]]) -> bool:
    return all(sum(c * vector[k] for k, c in row.items() if k in vector) == 0 for row in rows)
