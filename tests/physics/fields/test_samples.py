"""Transport from samples, and factors that no parameter makes singular."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from neuromech.errors import PhysicsError
from neuromech.physics import MovingMixture, couple, fit_mixture, gaussian, gaussian_cost, kinetic_energy, sample_plan
from neuromech.physics.fields.mixture import aligned, positive, turned

pytestmark = pytest.mark.usefixtures("float64")


def spread(d: int):
    a = torch.randn(d, d)
    return a @ a.T + 0.1 * torch.eye(d)


def test_the_plan_is_that_of_the_assignment() -> None:
    x, y = torch.randn(40, 2), torch.randn(40, 2) + 1
    costs = torch.cdist(x, y).square()
    rows, columns = linear_sum_assignment(costs.numpy())
    found = sample_plan(x, y)
    assert float(found.cost) == pytest.approx(float(costs[rows, columns].mean()), rel=1e-10)
    torch.testing.assert_close(found.weights.sum(0), torch.full((40,), 1 / 40))
    with pytest.raises(PhysicsError, match=r"expected \[N, d\]"):
        sample_plan(x, torch.randn(3, 3))


def test_a_mixture_is_fitted_to_samples_and_moved() -> None:
    x = torch.cat([0.1 * torch.randn(300, 2), 0.1 * torch.randn(300, 2) + 3])
    start = fit_mixture(x, 2)
    assert sorted(round(float(m), 1) for m in start.means[:, 0]) == [0.0, 3.0]
    law = MovingMixture(2, start=(pair := couple(start, gaussian(torch.zeros(2), torch.eye(2))))[0], end=pair[1])
    assert bool(torch.isfinite(law.log_density(torch.tensor([0.0, 0.5, 1.0]), torch.full((3, 2), 200.0))).all())


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_way_between_two_gaussians_is_the_optimal_one(d: int) -> None:
    ends = [gaussian(torch.randn(d), spread(d)) for _ in range(2)]
    law = MovingMixture(d, start=ends[0], end=ends[1])
    arguments = [v for m in ends for v in (m.means[0], (m.factors @ m.factors.mT)[0])]
    with torch.no_grad():
        found = float(kinetic_energy(law, 40_000))
    assert found == pytest.approx(float(gaussian_cost(*arguments)), rel=0.05)


def test_factors_are_never_singular() -> None:
    law = MovingMixture(3, start=gaussian(torch.zeros(3), spread(3)), end=gaussian(torch.ones(3), spread(3)))
    with torch.no_grad():
        for p in law.parameters():
            p.normal_(std=2.0)
        factor = law.motion(torch.linspace(0, 1, 101))[1]
    sign = torch.linalg.slogdet(factor).sign
    assert bool((sign == sign[0]).all())
    assert bool(torch.isfinite(torch.linalg.slogdet(factor).logabsdet).all())


def test_rates_are_those_of_the_matrices() -> None:
    log, rate, skew = torch.randn(3, 4, 3, 3)
    skew, s = skew - skew.mT, torch.tensor(0.3)
    e = 1e-6
    found = positive(log, rate)[1]
    torch.testing.assert_close(found, (positive(log + e * rate, rate)[0] - positive(log - e * rate, rate)[0]) / (2 * e))
    turn, turn_rate = turned(skew, s)
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).expand(4, 3, 3))
    torch.testing.assert_close(turn_rate, (turned(skew, s + e)[0] - turned(skew, s - e)[0]) / (2 * e))
    a, b = torch.randn(2, 4, 3, 3)
    near = aligned(a, b)
    torch.testing.assert_close(near @ near.mT, b @ b.mT)
    way = near @ torch.linalg.inv(a)
    torch.testing.assert_close(way, way.mT, rtol=0, atol=1e-8)
