"""Divergence-free fields between walls: nothing crosses, the divergence stays rounding, derivatives are the field's."""

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

from neuromech.errors import PhysicsError
from neuromech.physics import Ball, Box, DivergenceFree, Torus, mlp
from neuromech.physics.schemes import SCHEMES
from neuromech.physics.taylor import jacobian

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
