"""Gaussians: the field whose divergence they are, mixtures held at both ends, and the closed forms of transport."""

import math

import pytest
import torch
from mpmath import gammainc, mp

from neuromech.compat import load_forward_mode
from neuromech.errors import PhysicsError
from neuromech.physics import (
    MovingMixture,
    NeuralConservationLaw,
    Subharmonic,
    couple,
    gaussian,
    gaussian_cost,
    gaussian_map,
    gaussian_mixture,
    kinetic_energy,
    mlp,
)
from neuromech.physics.fields.subharmonic import gauss_field, tricomi
from neuromech.physics.fields.taylor import jacobian


def covariance(d, seed=0):
    root = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / d + 0.2 * torch.eye(d, dtype=torch.float64)


@pytest.mark.parametrize("a", [0.5, 1.0, 1.5, 2.0, 4.0, 8.0])
def test_tricomi_against_arbitrary_precision(a, float64) -> None:
    q = torch.tensor([0.0, 1e-8, 1e-3, 0.5, 1.0, 1.999, 2.0, 2.001, 5.0, 20.0, 100.0])
    mp.dps = 40
    expected = [gammainc(a, 0, x) / mp.gamma(a) / mp.mpf(x) ** a if x else 1 / mp.gamma(a + 1) for x in q.tolist()]
    torch.testing.assert_close(tricomi(a, q), torch.tensor([float(e) for e in expected]), rtol=2e-13, atol=0)


def test_tricomi_has_all_derivatives(float64) -> None:
    load_forward_mode()
    q = torch.tensor([0.0, 0.3, 1.7, 3.0, 12.0], requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: tricomi(1.5, x), (q.detach() + 0.1).requires_grad_(), check_forward_ad=True
    )
    (first,) = torch.autograd.grad(tricomi(1.5, q).sum(), q, create_graph=True)
    torch.testing.assert_close(first, -1.5 * tricomi(2.5, q))
    (second,) = torch.autograd.grad(first.sum(), q)
    torch.testing.assert_close(second, 1.5 * 2.5 * tricomi(3.5, q))


@pytest.mark.parametrize("d", [1, 2, 3, 4, 8, 16])
def test_gauss_field_has_a_gaussian_divergence(d, float64) -> None:
    x = torch.randn(30, d)
    x[0] = 0  # the origin is a point as any other
    density = (2 * math.pi) ** (-d / 2) * torch.exp(-x.square().sum(-1) / 2)
    got = jacobian(gauss_field, x).diagonal(dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(got, density, rtol=1e-11, atol=1e-15 * float(density.max()))


def test_in_two_dimensions_it_is_the_papers_potential(float64) -> None:
    """grad (log r^2 + E1(r^2/2)) / 4 pi, with E1 from arbitrary precision."""
    from mpmath import diff, e1, log, mpf

    for r in (0.1, 1.0, 1.5, 4.0):
        slope = diff(lambda s: (log(s * s) + e1(s * s / 2)) / (4 * mp.pi), mpf(r))
        got = gauss_field(torch.tensor([[r, 0.0]]))[0, 0]
        assert math.isclose(float(got), float(slope), rel_tol=1e-12)


def test_subharmonic_density_is_the_divergence_of_its_field(float64) -> None:
    law = Subharmonic(2, 1, size=0.7)
    x = torch.randn(20, 2)
    y = (x - law.means[0]) / 0.7
    expected = torch.exp(-y.square().sum(-1) / 2) / (2 * math.pi * 0.49)
    torch.testing.assert_close(law(torch.zeros(20), x).density, expected)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_held_at_both_ends(d, float64) -> None:
    start = gaussian_mixture(
        torch.tensor([0.3, 0.7]), torch.randn(2, d), torch.stack([covariance(d, 1), covariance(d, 2)])
    )
    end = gaussian_mixture(torch.ones(3), torch.randn(3, d), torch.stack([covariance(d, s) for s in (3, 4, 5)]))
    flow = MovingMixture(
        d, 0, *couple(start, end), duration=2.0, swirl=mlp(1 + d, d * (d - 1) // 2, 8) if d > 1 else None
    )
    flow.double()
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.1 * torch.randn_like(p))
    law, x = NeuralConservationLaw(flow), torch.randn(20, d)
    torch.testing.assert_close(law.density(0.0, x), start.log_density(x).exp())
    torch.testing.assert_close(law.density(2.0, x), end.log_density(x).exp())
    assert law.residual(torch.rand(20), x).abs().max() < 1e-13


def test_coupling_keeps_the_mixtures_and_is_cheapest(float64) -> None:
    start = gaussian_mixture(torch.tensor([0.25, 0.75]), torch.tensor([[0.0], [10.0]]), torch.ones(2, 1, 1))
    end = gaussian_mixture(torch.tensor([0.5, 0.5]), torch.tensor([[11.0], [1.0]]), torch.ones(2, 1, 1))
    a, b = couple(start, end)
    x = torch.linspace(-3, 14, 50).unsqueeze(1)
    torch.testing.assert_close(a.log_density(x), start.log_density(x))
    torch.testing.assert_close(b.log_density(x), end.log_density(x))
    cost = (a.weights * (a.means - b.means).square().sum(-1)).sum()
    torch.testing.assert_close(cost, torch.tensor(0.25 * 1 + 0.5 * 1 + 0.25 * 81))  # in order, as on a line


def test_gaussian_cost_and_map(float64) -> None:
    m0, m1, c0, c1 = torch.randn(3), torch.randn(3), covariance(3, 1), covariance(3, 2)
    matrix, shift = gaussian_map(m0, c0, m1, c1)
    torch.testing.assert_close(matrix @ c0 @ matrix.T, c1)
    torch.testing.assert_close(matrix, matrix.T)  # the gradient of a convex function
    x = m0 + torch.randn(400_000, 3) @ torch.linalg.cholesky(c0).T
    cost = (x @ matrix.T + shift - x).square().sum(-1).mean()
    torch.testing.assert_close(cost, gaussian_cost(m0, c0, m1, c1), rtol=1e-2, atol=0)
    torch.testing.assert_close(gaussian_cost(m0, c0, m0, c0), torch.tensor(0.0), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_energy_is_an_upper_bound_that_training_lowers_to_the_cost(float64) -> None:
    m, c0, c1 = torch.tensor([1.0, -0.5]), covariance(2, 1), covariance(2, 2)
    cost = float(gaussian_cost(torch.zeros(2), c0, m, c1))
    flow = MovingMixture(2, 1, gaussian(torch.zeros(2), c0), gaussian(m, c1), width=16, depth=1).double()
    with torch.no_grad():
        flow.turn[0, 0, 1] = 1.2
        before = float(kinetic_energy(flow, 100_000))
    assert before > 1.02 * cost
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        kinetic_energy(flow, 128).backward()
        optimizer.step()
    with torch.no_grad():
        after = float(kinetic_energy(flow, 100_000))
    assert 0.99 * cost < after < 1.01 * cost


def test_everything_is_made_where_the_mixtures_are() -> None:
    """On a device without numbers, where a tensor of another device is an error."""
    start, end = (gaussian(torch.zeros(2), v * torch.eye(2)) for v in (1.0, 2.0))
    flow = MovingMixture(2, start=start, end=end).to("meta")
    assert kinetic_energy(flow, 8).device.type == "meta"
    assert type(start)(*(v.to("meta") for v in start)).sample(5).device.type == "meta"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "positive definite"),
        (lambda: gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "not symmetric"),
        (lambda: gaussian_mixture(torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2, 1, 1)), "not positive"),
        (lambda: gaussian_mixture(torch.ones(2), torch.zeros(3, 1), torch.ones(3, 1, 1)), "expected \\[K\\]"),
        (lambda: MovingMixture(2, end=gaussian(torch.zeros(2), torch.eye(2))), "without a start"),
        (lambda: MovingMixture(3, start=gaussian(torch.zeros(2), torch.eye(2))), "lives in 2 dimensions"),
        (
            lambda: MovingMixture(
                1,
                start=gaussian(torch.zeros(1), torch.eye(1)),
                end=gaussian_mixture(torch.ones(2), torch.zeros(2, 1), torch.ones(2, 1, 1)),
            ),
            "couple",
        ),
    ],
)
def test_bad_input(make, words) -> None:
    with pytest.raises(PhysicsError, match=words):
        make()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_points_have_a_likelihood_and_a_gradient(dtype: torch.dtype) -> None:
    law = NeuralConservationLaw(MovingMixture(2, 3).to(dtype))
    x = torch.tensor([[0.1, 0.2], [60.0, 60.0], [1e3, -1e3]], dtype=dtype, requires_grad=True)
    log_density = law.log_density(0.5, x)
    torch.testing.assert_close(log_density[:1].exp(), law.density(0.5, x)[:1])
    log_density.sum().backward()
    assert torch.isfinite(log_density).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in law.parameters() if p.grad is not None)


@pytest.mark.slow
def test_maximum_likelihood_finds_where_samples_are() -> None:
    torch.manual_seed(0)
    data = torch.randn(400, 2) * 0.5 + torch.tensor([3.0, -2.0])
    law = NeuralConservationLaw(MovingMixture(2, 1, spread=0.1))
    optimizer = torch.optim.Adam(law.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (-law.log_density(0.0, data).mean()).backward()
        optimizer.step()
    drawn = law.sample(0.0, 2000).detach()
    torch.testing.assert_close(drawn.mean(0), data.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), data.std(0), atol=0.1, rtol=0)
    assert law.sample(torch.rand(5)).shape == (5, 2)


def test_what_is_no_mixture_is_refused_by_name() -> None:
    with pytest.raises(PhysicsError, match=r"start is Tensor; expected a Mixture"):
        MovingMixture(2, start=torch.randn(4, 2))
    with pytest.raises(PhysicsError, match="expected a MovingMixture"):
        kinetic_energy(Subharmonic(2), 10)
    with pytest.raises(PhysicsError, match="Subharmonic has no way to"):
        NeuralConservationLaw(Subharmonic(2)).sample(0.5, 10)
    with pytest.raises(PhysicsError, match="one time and a count"):
        NeuralConservationLaw(MovingMixture(2)).sample(0.5)
