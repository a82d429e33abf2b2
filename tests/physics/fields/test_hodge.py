"""The Hodge decomposition finds the parts of a field made of known ones, and they are orthogonal."""

import math

import pytest
import torch

from neuromech.errors import PhysicsError
from neuromech.physics import Ball, Box, FreeSpace, HodgeDecomposition, Torus, mlp
from tests.families import fast

TWO_PI = 2 * math.pi


def known(d):
    """Gradient, divergence-free and constant part on the unit torus, each written down by itself."""

    def gradient(x):
        return torch.cos(TWO_PI * x)

    def solenoid(x):
        return torch.sin(TWO_PI * x.roll(1, -1))

    def constant(x):
        return torch.linspace(0.2, 0.6, d, dtype=x.dtype).expand_as(x)

    return {"gradient": gradient, "divergence_free": solenoid, "harmonic": constant}


@pytest.mark.parametrize("d", fast([2, 3], [2]))
def test_known_parts_on_the_torus(d, float64) -> None:
    parts = known(d)
    hodge = HodgeDecomposition(Torus(d), width=24, depth=1)
    hodge.fit(lambda x: sum(part(x) for part in parts.values()), steps=160, count=1000)
    x = Torus(d).sample(500)
    for name, got in hodge.parts(x).items():
        right = parts[name](x)
        assert (got - right).norm() < 2e-2 * right.norm(), name
    report = hodge.orthogonality(20_000)
    assert max(report.inner.values()) <= 1e-3
    assert max(report.cosine.values()) <= 1e-3
    assert report.residual < 2e-2
    assert abs(sum(report.energy.values()) - 1) < 1e-2
    assert len(report.table()) == 3


def test_gradient_and_divergence_free_part_are_orthogonal_untrained(float64) -> None:
    """By construction, whatever the networks are: on the torus a fine grid integrates them to rounding."""
    hodge = HodgeDecomposition(Torus(2, 3.0), width=8)
    x = torch.cartesian_prod(*[torch.arange(40) / 40 * 3.0] * 2)
    a, b = hodge.gradient(x), hodge.divergence_free(x)
    assert (a * b).sum().abs() <= 1e-12 * a.norm() * b.norm()


@pytest.mark.parametrize("domain", [Box(2), *(pytest.param(Ball(d), marks=pytest.mark.slow) for d in (2, 3))], ids=str)
def test_walls(domain, float64) -> None:
    """grad p with p = 0 on the wall, a field along the wall, and a harmonic field that crosses it."""

    def field(x):
        return torch.stack([x[:, 0] ** 2 + x[:, 1], x[:, 0] * x[:, 1], x[:, 0]], -1)[:, : domain.d]

    hodge = HodgeDecomposition(domain, width=24, depth=1).fit(field, steps=100, count=2000)
    report = hodge.orthogonality(20_000)
    assert max(report.inner.values()) <= 1e-3
    assert report.residual < 1e-12  # the rest is the harmonic part
    x = domain.sample(20)
    torch.testing.assert_close(sum(hodge.parts(x).values()), field(x))


def test_samples(float64) -> None:
    parts = known(2)
    x = torch.cartesian_prod(*[(torch.arange(24) + 0.5) / 24] * 2)
    f = sum(part(x) for part in parts.values())
    hodge = HodgeDecomposition(Torus(2), width=24, depth=1).fit((x, f), steps=160)
    assert (hodge.parts()["gradient"] - parts["gradient"](x)).norm() < 2e-2 * parts["gradient"](x).norm()
    assert max(hodge.orthogonality().inner.values()) <= 1e-3
    walled = HodgeDecomposition(Box(2), width=8, depth=1).fit((x, f), steps=5)
    torch.testing.assert_close(sum(walled.parts().values()), f)
    with pytest.raises(PhysicsError, match="rest of the field"):
        walled.harmonic(x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HodgeDecomposition(Torus(1)), "n=1"),
        (lambda: HodgeDecomposition(FreeSpace(2)), "not unique"),
        (lambda: HodgeDecomposition(Torus(2)).orthogonality(), "nothing was fitted"),
        (lambda: HodgeDecomposition(Torus(2)).fit(lambda x: x[:, :1]), r"\[\d+, 1\].*expected \[\d+, 2\]"),
        (lambda: HodgeDecomposition(Torus(2)).fit(lambda x: 0 * x), "zero everywhere"),
        (lambda: HodgeDecomposition(Torus(2)).fit(lambda x: x / 0), "not finite"),
        (lambda: HodgeDecomposition(Box(2)).fit((torch.rand(9, 2) + 1, torch.rand(9, 2))), "outside Box"),
        (lambda: HodgeDecomposition(Box(2)).fit((torch.rand(9, 3), torch.rand(9, 3))), r"\[9, 3\]"),
        (lambda: HodgeDecomposition(Box(2)).fit((torch.rand(9, 2).double(), torch.rand(9, 2))), "float64"),
        (lambda: HodgeDecomposition(Torus(2), scalar=mlp(2, 1)).fit(lambda x: torch.cos(TWO_PI * x)), "seam"),
        (lambda: HodgeDecomposition(Box(2), scalar=mlp(2, 2)).fit(lambda x: x), "one value"),
    ],
)
def test_bad_input(make, words) -> None:
    with pytest.raises(PhysicsError, match=words):
        make()
