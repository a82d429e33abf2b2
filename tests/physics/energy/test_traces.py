"""One trace for all sizes of a batch, in parts that are evaluated once, with the secant of tanh as one operator."""

import mpmath
import pytest
import torch
from torch import nn

from neuromech.physics import ConvEnergy, EnergyModel, MLPEnergy, Solver, Symplectic, discrete_gradient, rollout
from neuromech.physics.energy import discrete, secants
from neuromech.physics.energy.fused import _BLOCK, _ratio_and_slope, tanh
from neuromech.physics.energy.krylov import gmres
from neuromech.physics.energy.prediction import Extrapolation
from neuromech.physics.energy.traces import traced_sweep

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def traces(monkeypatch):
    made = []
    monkeypatch.setattr(discrete, "traced_sweep", lambda *args: made.append(1) or traced_sweep(*args))
    return made


def off(energy, dg, size: int) -> float:
    u, v = torch.randn(2, size, 6)
    terms = dg(u, v) * (u - v)
    return float((terms.flatten(1).sum(1) - energy(u) + energy(v)).abs().max().detach())


@pytest.mark.parametrize("energy", [MLPEnergy(6, 8, 1), ConvEnergy(1, 0.1, 4, depth=1)], ids=["mlp", "conv"])
def test_a_batch_of_another_size_is_not_traced_anew(energy: nn.Module, traces: list[int]) -> None:
    energy = energy.double()
    dg = discrete_gradient(energy)
    for size in (5, 3, 1, 40, 2):
        assert off(energy, dg, size) < 1e-14
    assert len(traces) == 1


def test_an_energy_that_asks_for_the_size_is_filled_up(traces: list[int]) -> None:
    def energy(x):
        return x.tanh().reshape(len(x), -1).square().sum(1)

    dg = discrete_gradient(energy)
    for size in (16, 7, 1):
        assert off(energy, dg, size) < 1e-14
    assert len(traces) == 1
    assert off(energy, dg, 17) < 1e-14
    assert len(traces) == 2


def test_one_number_for_the_batch_has_no_company() -> None:
    energy = lambda x: (x.sum() ** 2).tanh()  # noqa: E731
    dg = discrete_gradient(energy)
    for size in (4, 1, 2):
        u, v = torch.randn(size, 3), torch.randn(size, 3)
        assert float(((dg(u, v) * (u - v)).sum() - energy(u) + energy(v)).abs()) < 1e-14


def test_the_secant_of_tanh_as_one_operator() -> None:
    """Against the one in elementary operators: values, first and second derivatives."""
    a = torch.randn(400) * 2
    b = a + torch.randn(400) * 10 ** torch.empty(400).uniform_(-12, 1)
    b[:20] = a[:20]
    a[20:24], b[20:24] = 40.0, torch.tensor([41.0, -41.0, 40.0, 0.0])
    weight = torch.randn(400)

    def derivatives(secant) -> list[torch.Tensor]:
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        s = secant(x, y, x.tanh(), y.tanh())
        first = torch.autograd.grad((s * weight).sum(), (x, y), retain_graph=True)
        again = torch.autograd.grad((s * weight).sum(), (x, y), create_graph=True)
        return [s, *first, *torch.autograd.grad(sum(g.square().sum() for g in again), (x, y))]

    for found, wanted in zip(derivatives(tanh), derivatives(secants.tanh), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


def test_the_part_that_needs_one_state_alone() -> None:
    model = EnergyModel(MLPEnergy(4, 8), Symplectic()).double()
    u, v = torch.randn(2, 5, 4)
    model(v, u)
    torch.testing.assert_close(model.starting(v)(u), model(v, u), rtol=0, atol=1e-15)


def test_gmres_solves_every_sample_of_a_batch() -> None:
    matrix = torch.eye(30) + torch.randn(4, 30, 30) / 12
    f = torch.randn(4, 30) * torch.tensor([1.0, 1e-8, 0.0, 1e5])[:, None]
    x = gmres(lambda y: (matrix @ y.unsqueeze(-1)).squeeze(-1), f, 1e-13)
    torch.testing.assert_close((matrix @ x.unsqueeze(-1)).squeeze(-1), f, rtol=1e-10, atol=1e-20)
    assert not x[2].any()


def test_krylov_and_dense_agree() -> None:
    model = EnergyModel(MLPEnergy(6, 8), Symplectic()).double()
    u0 = torch.randn(3, 6)
    with torch.no_grad():
        dense, krylov = (rollout(model, u0, 0.1, 5, solver=Solver(m)).u for m in ("dense", "krylov"))
    torch.testing.assert_close(dense, krylov, rtol=1e-12, atol=1e-12)


def test_a_polynomial_motion_is_foretold() -> None:
    guess, size = Extrapolation(), torch.tensor(0.1)
    states = [torch.tensor([[(0.1 * k) ** 3 - 0.1 * k]]) for k in range(9)]
    found = [guess.next(u, size) for u in states]
    torch.testing.assert_close(found[7], states[8], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest", [1e-3, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.04, 3.0, 40.0])
def test_the_ratio_of_tanh_at_every_depth_of_its_fraction(dtype: torch.dtype, largest: float) -> None:
    """tanh(d)/d and its derivative in 40 digits, for blocks that reach so far."""
    d = (torch.linspace(-1, 1, 101, dtype=torch.float64) * largest).to(dtype)
    eps = torch.finfo(dtype).eps
    with mpmath.workdps(40):
        exact = [mpmath.tanh(x) / x if x else mpmath.mpf(1) for x in map(mpmath.mpf, d.tolist())]
        slopes = [
            (mpmath.sech(x) ** 2 - t) / x if x else mpmath.mpf(0)
            for x, t in zip(map(mpmath.mpf, d.tolist()), exact, strict=True)
        ]
        values, derivatives = (torch.tensor([float(y) for y in ys]) for ys in (exact, slopes))
    found, slope = _ratio_and_slope(d)
    torch.testing.assert_close(found.double(), values.double(), rtol=8 * eps, atol=0)
    torch.testing.assert_close(slope.double(), derivatives.double(), rtol=0, atol=8 * eps)


def test_the_secant_of_tanh_of_an_empty_batch_is_empty() -> None:
    u = torch.empty(0, 3, dtype=torch.float64, requires_grad=True)
    found = tanh(u, u.detach(), u.tanh(), u.detach().tanh())
    found.sum().backward()
    assert found.shape == u.grad.shape == (0, 3)


@pytest.mark.slow
def test_the_secant_of_tanh_block_by_block() -> None:
    """Large tensors, and those that do not lie in one piece, against small ones."""
    n = 3 * _BLOCK // 8 * torch.get_num_threads() + 5
    a, b = torch.randn(2, n)
    inputs = [x.requires_grad_() for x in (a, b)]

    def derivatives(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        s = tanh(x, y, x.tanh(), y.tanh())
        return [s.detach(), *torch.autograd.grad(s.sum(), (x, y))]

    whole = derivatives(*inputs)
    parts = zip(a.split(1000), b.split(1000), strict=True)
    pieces = [derivatives(*(x.detach().requires_grad_() for x in part)) for part in parts]
    strided = [torch.stack([x.detach(), x.detach()], 1)[:, 0].requires_grad_() for x in inputs]
    for k, (found, apart) in enumerate(zip(whole, derivatives(*strided), strict=True)):
        torch.testing.assert_close(found, torch.cat([p[k] for p in pieces]), rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(found, apart, rtol=1e-13, atol=1e-14)
