"""Axes as products of atoms: the factorisations that come out are those of the index arithmetic, for real shapes."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromech.detect.axes import Label, NonNested, axis, leaves, regroup, unify


def sizes(labels: list[Label]) -> list[int]:
    return [x.n for x in leaves(labels)]


def boundaries(lengths: list[int]) -> set[int]:
    """Where a row-major factorisation cuts, counted from the fast end."""
    return {math.prod(lengths[i:]) for i in range(len(lengths) + 1)}


factorisations = st.lists(st.integers(2, 5), min_size=1, max_size=4)


@given(factorisations, factorisations)
def test_unify_finds_the_coarsest_common_refinement(f: list[int], g: list[int]) -> None:
    """Cut at every boundary of either, if these nest; else refuse."""
    size = math.lcm(math.prod(f), math.prod(g))
    f, g = [[size // math.prod(v), *v] for v in (f, g)]
    left, right = ([x for n in v for x in axis(n)] for v in (f, g))
    cuts = sorted(boundaries(f) | boundaries(g))
    if any(b % a for a, b in pairwise(cuts)):
        with pytest.raises(NonNested):
            unify(left, right)
        return
    same = unify(left, right)
    assert sizes(left) == sizes(right) == [b // a for a, b in pairwise(cuts)][::-1]
    assert [x.root for x in leaves(left)] == [x.root for x in leaves(right)]
    assert [same[x] for x in leaves(right)] == leaves(left)


@given(factorisations, st.data())
def test_regroup_is_reshape(lengths: list[int], data: st.DataObject) -> None:
    """Any reshape along the boundaries goes through, and back again."""
    labels = [x for n in lengths for x in axis(n)]
    cut = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    shape: list[int] = []
    for n, new in zip(lengths, cut, strict=True):
        if new or not shape:
            shape.append(n)
        else:
            shape[-1] *= n
    axes = regroup(labels, [1, *shape, 1])
    assert [math.prod(x.n for x in a) for a in axes] == [1, *shape, 1]
    again = regroup([x for a in axes for x in a], lengths)
    assert [x for a in again for x in a] == leaves(labels)


def test_a_split_reaches_every_tensor_with_the_atom() -> None:
    (x,) = axis(12)
    y = Label(x.atom)
    regroup([x], (3, 4))
    assert sizes([x]) == sizes([y]) == [3, 4]
    assert x.leaves()[0].root is y.leaves()[0].root
    assert x.leaves()[0] is not y.leaves()[0]
    assert sizes([x.twin]) == [3, 4]
    assert [p.twin for p in x.leaves()] == x.twin.leaves()


def test_splits_that_come_before_and_after_a_merge_agree() -> None:
    (x,), (y,) = axis(12), axis(12)
    regroup([x], (3, 4))
    unify([x], [y])
    regroup([y], (3, 2, 2))
    assert sizes([x]) == sizes([y]) == [3, 2, 2]


def test_one_atom_on_both_sides() -> None:
    """A square weight: both of its axes over the channels of the stream."""
    (rows,), (columns,) = axis(6), axis(6)
    unify([rows], [columns])
    assert unify([rows], [columns]) == {columns: rows}
    regroup([columns], (2, 3))
    assert sizes([rows]) == [2, 3]


def test_cuts_that_do_not_nest_are_refused() -> None:
    with pytest.raises(NonNested, match="is cut at"):
        unify([*axis(2), *axis(3)], [*axis(3), *axis(2)])
    with pytest.raises(NonNested, match="cuts a factor"):
        regroup([*axis(4), *axis(3)], (6, 2))
    with pytest.raises(NonNested, match="differ"):
        unify(axis(4), axis(6))
