"""Axes as sums and products: after any merging, cutting and regrouping, every index still finds its own element.

The oracle is index arithmetic: a function of the indices of one axis is written down element by element, its labels are
renamed as the operation says, and then it is read again at every index of the other axis.
"""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromech.detect.axes import Label, axis, leaves
from neuromech.detect.expr import Expr, Unknown, expand
from neuromech.detect.refine import NonNested, Renaming, assemble, intervals, regroup, sum_of, unify

Address = tuple[frozenset[Label], dict[Label, int]]  # the segments that an index lies in, the value of every label


def addresses(labels: Sequence[Label]) -> list[Address]:
    """Every index of an axis, in order."""
    out: list[Address] = [(frozenset(), {})]
    for label in labels:
        out = [(g | h, a | b) for g, a in out for h, b in _of(label)]
    return out


def _of(label: Label) -> list[Address]:
    if label.root.factors:
        return addresses(label.parts)
    if label.segments:
        return [(g | {s}, a) for s in label.segments for g, a in _of(s)]
    return [(frozenset(), {label: i} if label.n > 1 else {}) for i in range(label.n)]


def elements(expr: Expr, labels: Sequence[Label]) -> list[list[int]]:
    """Which elements of its unknown an expression stands for, at every index of an axis."""
    out = []
    for guards, at in addresses(labels):
        here = []
        for f, c in (t for whole in expr.terms.items() for t in expand(*whole)):
            if f.guards() <= guards:
                assert c == 1
                steps = [k for _, k in f.unknown.indices()]
                here.append(f.unknown.start + sum(k * at[x] for k, x in zip(steps, leaves(f.labels), strict=True)))
        out.append(here)
    return out


def product(lengths: Sequence[int]) -> list[Label]:
    return [x for n in lengths for x in axis(n)]


@st.composite
def axes_of(draw: st.DrawFn, n: int) -> list[Label]:
    """Some way to address n indices: products, sums, and sums inside of products."""
    if n == 1:
        return []
    divisors = [d for d in range(2, n) if n % d == 0]
    how = draw(st.sampled_from(["one", "sum", "product"] if divisors else ["one", "sum"]))
    if how == "product":
        d = draw(st.sampled_from(divisors))
        return [*draw(axes_of(d)), *draw(axes_of(n // d))]
    if how == "sum":
        k = draw(st.integers(1, n - 1))
        return [sum_of([k, n - k])]
    return list(axis(n))


def function_of(labels: Sequence[Label]) -> Expr:
    return Expr.of(Unknown(labels, "f"))


@given(st.data(), st.sampled_from([2, 4, 6, 8, 12, 24]))
def test_two_ways_to_address_one_axis_are_made_to_agree(data: st.DataObject, n: int) -> None:
    f, g, other = (data.draw(axes_of(n)) for _ in range(3))
    of_f, of_g = function_of(f), function_of(g)
    renamed = of_g.rename(unify(f, g))
    assert elements(renamed, f) == [[i] for i in range(n)]
    again = of_f.rename(unify(other, f))  # what was cut on the way is cut for all who have the atoms
    assert elements(again, other) == [[i] for i in range(n)]
    assert elements(of_g, g) == [[i] for i in range(n)]


@given(st.data(), st.sampled_from([4, 6, 12, 24]))
def test_regroup_is_reshape(data: st.DataObject, n: int) -> None:
    """Any reshape, whether or not the lengths nest, and back again."""
    labels = data.draw(axes_of(n))
    shape = [n]
    while len(shape) < 4 and data.draw(st.booleans()):
        d = data.draw(st.sampled_from([d for d in range(1, shape[-1] + 1) if shape[-1] % d == 0]))
        shape[-1:] = [d, shape[-1] // d]
    axes, names = regroup(labels, shape)
    assert [math.prod(x.n for x in a) for a in axes] == shape
    flat = [x for a in axes for x in a]
    there = function_of(labels).rename(names)
    assert elements(there, flat) == [[i] for i in range(n)]
    (back,), names = regroup(flat, [n])
    assert elements(there.rename(names), back) == [[i] for i in range(n)]


@given(st.data(), st.sampled_from([2, 6, 12]))
def test_what_is_taken_stands_in_its_new_order(data: st.DataObject, n: int) -> None:
    labels = data.draw(axes_of(n))
    places = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8))
    found = intervals(labels, [c for i in places for c in (i, i + 1)])
    how = assemble(leaves(labels), [next(p for p in found if p.start == i) for i in places])
    taken = function_of(labels).rename(Renaming({}, (how,)))
    assert elements(taken, how.to) == [[i] for i in places]


@given(st.data(), st.sampled_from([6, 12]), st.lists(st.integers(0, 12), max_size=4))
def test_pieces_cover_the_axis_in_order(data: st.DataObject, n: int, cuts: list[int]) -> None:
    found = intervals(data.draw(axes_of(n)), cuts)
    starts = [p.start for p in found]
    assert {c for c in cuts if 0 < c < n} <= set(starts)
    assert [p.start + p.n for p in found] == [*starts[1:], n]


def test_products_stay_products() -> None:
    """The coarsest common refinement: nothing is cut into segments that nests."""
    (x,), (y,) = axis(24), axis(24)
    regroup([x], (4, 6))
    assert not unify([x], [y]).regroupings
    assert not unify(product([2, 12]), [y]).regroupings
    assert [a.n for a in leaves([x])] == [a.n for a in leaves([y])] == [2, 2, 6]
    assert not any(a.segments for a in leaves([x]))


def test_a_split_reaches_every_tensor_with_the_atom() -> None:
    (x,) = axis(12)
    y = Label(x.atom)
    regroup([x], (3, 4))
    assert [a.n for a in leaves([y])] == [3, 4]
    assert x.leaves()[0].root is y.leaves()[0].root
    assert x.leaves()[0] is not y.leaves()[0]
    assert [p.twin for p in x.leaves()] == x.twin.leaves()


def test_one_atom_on_both_sides() -> None:
    """A square weight: both of its axes over the channels of the stream."""
    (rows,), (columns,) = axis(6), axis(6)
    unify([rows], [columns])
    assert unify([rows], [columns]).same == {columns: rows}
    regroup([columns], (2, 3))
    assert [x.n for x in leaves([rows])] == [2, 3]


def test_what_cannot_agree_is_refused() -> None:
    with pytest.raises(NonNested, match="differ"):
        unify(axis(4), axis(6))
    with pytest.raises(NonNested, match="would have to be cut into"):
        unify([*axis(9973), *axis(9967)], [*axis(9967), *axis(9973)])
