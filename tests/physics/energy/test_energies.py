"""Energies as people write them keep the identity, or are refused with a way out that keeps it."""

import pytest
import torch

from neuromech.errors import PhysicsError
from neuromech.physics import discrete_gradient
from neuromech.physics.energy.discrete import DiscreteGradient, GradientForm
from tests.families import fast
from tests.physics.energy.energies import ENERGIES, Made

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"),
]

# What has no discrete chain rule. Everything else is accepted.
REFUSED = {
    "scripted", "sampled grid", "pseudo-inverse", "matrix exponential", "eigenvalues",
    "singular values", "nuclear norm", "QR", "largest message", "sparse matrix", "sorted", "largest three", "median",
    "assigned", "masked select", "cumulative maximum", "complex", "gamma function",
    "inner gradient", "inner vmap",
}  # fmt: skip


def residual(energy: Made, form: GradientForm = "chain") -> float:
    """Of <g, u - v> = H(u) - H(v), for every sample, relative to the terms. At states far apart and close."""
    dg: DiscreteGradient = discrete_gradient(energy, form)
    worst = 0.0
    for distance in (1.0, 1e-4):
        u = torch.randn(5, 12)
        v = u + distance * torch.randn(5, 12)
        with torch.no_grad():
            terms, at_u, at_v = (dg(u, v) * (u - v)).sum(1), dg.value(u), dg.value(v)
        if at_u.ndim == 0:
            terms = terms.sum()
        worst = max(worst, float(((terms - (at_u - at_v)).abs() / (1 + at_u.abs() + at_v.abs())).max()))
    return worst


@pytest.mark.parametrize("name", fast([n for n in ENERGIES if n not in REFUSED], ["solved mass"]))
def test_energies_are_accepted_and_keep_the_identity(name: str) -> None:
    assert residual(ENERGIES[name]()) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_has_no_rule_is_refused_with_a_form_that_keeps_the_identity(name: str) -> None:
    with pytest.raises(PhysicsError, match='form="midpoint"'):
        residual(ENERGIES[name]())
    u, v = torch.randn(2, 5, 12)
    dg = discrete_gradient(ENERGIES[name](), "midpoint")
    with torch.no_grad():
        terms, change = (dg(u, v) * (u - v)).sum(1), dg.value(u) - dg.value(v)
    assert float(((terms.sum() if change.ndim == 0 else terms) - change).abs().max()) < 1e-11


def test_most_are_accepted() -> None:
    assert ENERGIES.keys() > REFUSED
    assert len(ENERGIES) - len(REFUSED) >= 154
