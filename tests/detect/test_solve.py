"""Equations between functions against the same equations written out index by index, as one dense linear system."""

from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuromech.detect.axes import Label, axis, leaves
from neuromech.detect.data import Data
from neuromech.detect.equations import Equation, rows
from neuromech.detect.expr import Expr, Factor, Unknown
from neuromech.detect.solve import SolutionFamily, dimension, solve, without

SIZES = (2, 3, 4)  # one atom each


def dense(unknowns: list[Unknown], equations: list[Equation]) -> Tensor:
    """Every equation at every value of its indices; columns are the values of every unknown function."""
    offsets, width = {}, 0
    for u in unknowns:
        offsets[u] = width
        width += _volume(u.labels)
    out = []
    for e in equations:
        labels = e.expr.labels()
        rows = {}
        for index in product(*(range(x.n) for x in labels)):
            at = dict(zip(labels, index, strict=True))
            row = torch.zeros(width, dtype=torch.float64)
            for f, c in e.expr.terms.items():
                row[offsets[f.unknown] + _flat(f.labels, at)] += float(c)
            rows[index] = row
        if e.along is None:
            out += rows.values()
        else:  # not depending on some indices: equal to the mean over them
            free = [i for i, x in enumerate(labels) if x not in e.along]
            for index, row in rows.items():
                alike = [r for j, r in rows.items() if all(j[i] == index[i] for i in free)]
                out.append(row - torch.stack(alike).mean(0))
    return torch.stack(out) if out else torch.zeros(1, width, dtype=torch.float64)


def _volume(labels: tuple[Label, ...]) -> int:
    n = 1
    for x in labels:
        n *= x.n
    return n


def _flat(labels: tuple[Label, ...], at: dict[Label, int]) -> int:
    flat = 0
    for x in labels:
        flat = flat * x.n + at[x]
    return flat


def members(family: SolutionFamily, unknowns: list[Unknown]) -> Tensor:
    """The members as columns over the values of every unknown."""
    columns = []
    for index in product(*(range(a.n) for a in family.indices)):
        column = []
        for u in unknowns:
            values = torch.zeros([x.n for x in u.labels], dtype=torch.float64)
            for (v, positions), c in family.vector.items():
                if v is u:
                    where: list[object] = [slice(None)] * values.ndim
                    for j, i in enumerate(family.aligned((v, positions))):
                        where[i] = index[j]
                    values[tuple(where)] += float(c)
            column.append(values.flatten())
        columns.append(torch.cat(column))
    return torch.stack(columns, 1)


@st.composite
def systems(draw: st.DrawFn) -> tuple[list[Unknown], list[Equation]]:
    atoms = [axis(n)[0].atom for n in SIZES]
    subsets = st.lists(st.integers(0, 2), unique=True, max_size=2)
    unknowns = [Unknown(tuple(Label(atoms[i]) for i in draw(subsets)), f"p{k}") for k in range(draw(st.integers(1, 4)))]
    shared = [Label(a) for a in atoms]
    equations = []
    for _ in range(draw(st.integers(0, 4))):
        chosen = draw(st.lists(st.sampled_from(unknowns), min_size=1, max_size=3, unique=True))
        terms = {
            Factor(u, tuple(shared[atoms.index(x.atom)] for x in u.labels)): Fraction(draw(st.sampled_from([1, -1, 2])))
            for u in chosen
        }
        along = draw(st.none() | st.lists(st.sampled_from(shared), min_size=1, max_size=2, unique=True))
        equations.append(Equation(Expr(terms), None if along is None else tuple(along)))
    return unknowns, equations


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(systems())
def test_families_solve_the_dense_system_and_their_dimension_is_their_rank(
    system: tuple[list[Unknown], list[Equation]],
) -> None:
    unknowns, equations = system
    found = solve(unknowns, equations, [])
    matrix = dense(unknowns, equations)
    columns = [members(f, unknowns) for f in found]
    for family, v in zip(found, columns, strict=True):
        assert v.shape[1] == family.size
        assert (matrix @ v).abs().max() < 1e-12
    together = torch.cat(columns, 1) if columns else torch.zeros(matrix.shape[1], 0, dtype=torch.float64)
    assert dimension(found) == (int(torch.linalg.matrix_rank(together)) if columns else 0)
    # Nothing is missed but what sums to zero over an index, which is no family: what is left vanishes on average.
    null = matrix.shape[1] - int(torch.linalg.matrix_rank(matrix))
    assert dimension(found) <= null
    if all(e.along is not None or len(e.expr.labels()) == max(len(f.labels) for f in e.expr.terms) for e in equations):
        assert dimension(found) == null or _leftover_has_zero_means(matrix, together, unknowns)


def _leftover_has_zero_means(matrix: Tensor, found: Tensor, unknowns: list[Unknown]) -> bool:
    _, s, vh = torch.linalg.svd(matrix)
    null = vh[int((s > 1e-9).sum()) :].T
    q = torch.linalg.qr(found)[0] if found.shape[1] else found
    left = null - q @ (q.T @ null)
    left = torch.linalg.svd(left)[0][:, : int(torch.linalg.matrix_rank(left, atol=1e-9))]
    means, offset = [], 0
    for u in unknowns:
        means.append(left[offset : offset + _volume(u.labels)].mean(0))
        offset += _volume(u.labels)
    return bool(torch.stack(means).abs().max() < 1e-9)


def test_transposed_functions_over_one_atom_are_not_confused() -> None:
    """f(i, j) = f(j, i) asks f to be symmetric; taken for f = f it would let every element move by itself."""
    (i,) = axis(3)
    j = Label(i.atom)
    f = Unknown((Label(i.atom), Label(i.atom)), "f")
    equation = Equation(Expr({Factor(f, (i, j)): Fraction(1), Factor(f, (j, i)): Fraction(-1)}), None)
    assert not any(len(positions) == 2 for v in solve([f], [equation], []) for _, positions in v.vector)
    assert any(len(subset) == 2 for subset, _ in rows(equation))


def test_sums_count_the_entries_that_the_data_do_not_see() -> None:
    (i,), (j,) = axis(3), axis(5)
    f = Unknown((Label(i.atom), Label(j.atom)), "f")
    expr = Expr({Factor(f, (i, j)): Fraction(1)}).times(Data(("x",), (i,)))
    ((factor, c),) = expr.summed([i, j]).terms.items()
    assert c == 5  # j is averaged away; i stays, hidden
    assert factor.labels[0] is i.twin
    assert factor.labels[1].mean
    assert [x.twin for x in leaves([i])] == list(factor.data[0].labels)


def test_weights_are_integers_unless_these_say_nothing() -> None:
    def weights(k: Fraction) -> list[Fraction]:
        a, b = (Unknown((), name) for name in "ab")
        equation = Equation(Expr({Factor(a, ()): k, Factor(b, ()): Fraction(1)}), None)
        (family,) = solve([a, b], [equation], [])
        return list(family.vector.values())

    assert weights(Fraction(1, 10)) == [10, -1]
    assert weights(Fraction("0.5773502691896258")) == [1, -Fraction("0.5773502691896258")]


def test_parameters_at_rest_are_left_out_and_what_is_left_is_not_repeated() -> None:
    a, b, c = (Unknown((), name) for name in "abc")
    families = [SolutionFamily({(a, ()): Fraction(1), (x, ()): Fraction(1)}) for x in (b, c)]
    (left,) = without(families, {b.block, c.block})
    assert left.vector == {(a, ()): 1}
    assert without(families, {a.block, b.block, c.block}) == []
