"""Divergence-free fields between walls: nothing crosses, the divergence stays rounding, derivatives are the field's."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

from neuromech.errors import PhysicsError
from neuromech.physics import Ball, Box, DivergenceFree, NeuralConservationLaw, Torus, mlp
from neuromech.physics.fields.schemes import SCHEMES
from neuromech.physics.fields.taylor import jacobian

BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-14}
DOMAINS = {"ball": lambda n: Ball(n, 1.5), "box": lambda n: Box(n, -1.0, 0.5)}


def walled(domain, conditions: int = 0, **options) -> DivergenceFree:
    n = domain.d
    return DivergenceFree(
        mlp(conditions + n, n * (n - 1) // 2, 16, 2), n, conditions=conditions, domain=domain, **options
    )


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("n", [2, 3, 8, 32])
@pytest.mark.parametrize("kind", DOMAINS)
def test_divergence_is_rounding(kind, n, dtype) -> None:
    field = walled(DOMAINS[kind](n)).to(dtype)
    j = vmap(jacrev(field))(field.domain.sample(6, dtype))
    assert j.diagonal(dim1=1, dim2=2).sum(-1).norm() <= BOUNDS[dtype] * j.norm()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_nothing_crosses_the_walls(n, float64) -> None:
    ball, box = walled(Ball(n, 1.5), 1), walled(Box(n, -1.0, 0.5), 1)
    normal = nn.functional.normalize(torch.randn(40, n), dim=1)
    v = ball(torch.cat([torch.rand(40, 1), 1.5 * normal], 1))
    assert (v * normal).sum(1).abs().max() <= 1e-14
    assert v.abs().max() > 1e-2  # it slips along the wall
    x = box.domain.sample(40)
    x[:20, 0], x[20:, 1] = -1.0, 0.5
    v = box(torch.cat([torch.rand(40, 1), x], 1))
    assert v[:20, 0].abs().max() <= 1e-14
    assert v[20:, 1].abs().max() <= 1e-14
    assert v.abs().max() > 1e-3


@pytest.mark.parametrize("kind", DOMAINS)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_derivatives_are_those_of_the_field(kind, n, float64) -> None:
    """By hand for known layers, by torch.func for a block; the same values by every scheme; time is a column."""
    block = nn.Sequential(nn.Linear(1 + n, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, n * (n - 1) // 2))
    for potential in (mlp(1 + n, n * (n - 1) // 2, 8, 2), block):
        fields = [DivergenceFree(potential, n, "matrix", s, 1, DOMAINS[kind](n)) for s in SCHEMES["matrix"]]
        y = torch.cat([torch.rand(5, 1), fields[0].domain.sample(5)], 1)
        expected = jacobian(fields[-1], y)
        for field in fields:
            v, by_all = field.jacobian(y)
            torch.testing.assert_close(v, fields[-1](y))
            torch.testing.assert_close(by_all, expected)
            torch.testing.assert_close(field(y[0]), v[0])
        a, terms = fields[0].derivatives(y)
        torch.testing.assert_close(a, fields[0].matrix(y))
        torch.testing.assert_close(terms.sum(-1), v)


def test_the_bend_of_the_wall_is_its_second_derivative(float64) -> None:
    for domain in (Ball(3, 2.0), Box(1), Box(3, -1.0, 2.0), Torus(2)):
        x = domain.sample(7)
        x[0] = torch.tensor(0.0)
        torch.testing.assert_close(domain.wall_bend(x), jacobian(lambda y, d=domain: d.wall(y)[1], x))


@pytest.mark.parametrize("domain", [Ball(3, 2.0), Box(2), Box(3, -1.0, 2.0), Torus(2)], ids=str)
def test_gates_and_their_derivatives(domain, float64) -> None:
    x = domain.sample(7)
    d, (gate, steep), (by_all, bend) = domain.d, domain.gates(x), domain.gate_bends(x)
    i, j = torch.triu_indices(d, d, 1)

    def entries(y):
        return domain.gates(y)[0][..., i, j]

    slopes = jacobian(entries, x).mT
    torch.testing.assert_close(by_all[..., i, j], slopes)
    torch.testing.assert_close(bend[..., i, j].flatten(1, 2), jacobian(lambda y: jacobian(entries, y).mT.flatten(1), x)
                               .unflatten(1, (d, -1)).movedim(-1, 2).flatten(1, 2))  # fmt: skip
    torch.testing.assert_close(steep[:, i, j], slopes[:, j, torch.arange(len(i))])
    torch.testing.assert_close(steep[:, j, i], slopes[:, i, torch.arange(len(i))])
    of_time = domain.gates(x, before=1)
    torch.testing.assert_close(of_time[0][:, 1:, 1:], gate)
    torch.testing.assert_close(of_time[1][:, 1:, 1:], steep)
    assert not of_time[1][..., 0].any()  # walls stand still


def test_a_box_lets_the_flow_along_its_faces_be_anything(float64) -> None:
    """curl (0, 0, psi(x, y)) between faces across z: its potential does not vanish there, and need not."""
    field = walled(Box(3))
    x = torch.rand(20, 3)
    x[:, 2] = 1.0
    a = field.matrix(x)
    assert a[:, 0, 1].abs().median() > 1e-3
    assert a[:, :2, 2].abs().max() == 0
    assert field(x)[:, 2].abs().max() <= 1e-15


def test_mass_in_a_box_of_two_dimensions_is_constant(float64) -> None:
    """By Gauss's rule, which is exact for what is smooth."""
    law = NeuralConservationLaw(mlp(3, 3, 16, 2), Box(2, -1.0, 1.0), mass=4.0)
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(24))
    x, w = torch.cartesian_prod(nodes, nodes), torch.outer(weights, weights).flatten()
    for t in (0.0, 0.7):
        density = law.density(t, x)
        assert (density - 1).abs().max() > 1e-2
        torch.testing.assert_close((w * density).sum(), torch.tensor(4.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: walled(Ball(3))(torch.full((2, 3), 0.9)), "2 of 2 points lie outside Ball"),
        (lambda: walled(Ball(3))(torch.full((3,), 0.9)), "1 of 1 points lie outside Ball"),
        (lambda: walled(Ball(2), 1).jacobian(torch.full((2, 3), 0.9)), "outside Ball"),
        (lambda: DivergenceFree(mlp(3, 3), 3, domain=Ball(2)), "has 2 dimensions, the field 3"),
        (lambda: DivergenceFree(mlp(3, 3), 3, "vector", domain=Ball(3)), "form='matrix'"),
        (lambda: DivergenceFree(mlp(2, 1), 2, domain=Torus(2))(torch.rand(3, 2)), "seam"),
    ],
)
def test_bad_input(make, words) -> None:
    with pytest.raises(PhysicsError, match=words):
        make()
