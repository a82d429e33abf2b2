"""Two generators, Casimirs, constraints: kept to rounding, by whatever parameters."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from neuromech.errors import PhysicsError
from neuromech.physics import Constrained, EnergyModel, Keeping, LearnedMatrix, LiePoisson, Metriplectic, rollout
from neuromech.physics.energy.systems import Hamiltonian
from tests.families import fast

pytestmark = pytest.mark.usefixtures("float64")


class Quartic(nn.Module):
    """A smooth energy whose trace costs little."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size) / size**0.5)

    def forward(self, u):
        return (u @ self.weight).square().sum(-1) + (u @ self.weight.T).sin().sum(-1)


@pytest.mark.parametrize("by_state", fast([False, True], [False]))
def test_energy_is_kept_and_entropy_never_falls(by_state: bool) -> None:
    operators = nn.Linear(3, 3 * 5) if by_state else None
    model = Metriplectic(Quartic(3), Quartic(3), 3, rank=2, operators=operators)
    u0 = torch.randn(4, 3)
    with torch.no_grad():
        u = model.rollout(u0, 0.3, 5).u
        energy, entropy = model.energy(u), model.entropy(u)
    assert float((energy - energy[0]).abs().max()) < 1e-13
    assert float(entropy.diff(dim=0).min()) > 0


def test_degeneracies_and_the_limit_of_small_steps() -> None:
    model, u = Metriplectic(Quartic(3), Quartic(3), 3), torch.randn(5, 3)
    torch.testing.assert_close(model(u, u), model.velocity(u))
    (2 * model(u, u + 0.1)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(PhysicsError, match=r"states are \[B, 3\]"):
        model(torch.randn(3), torch.randn(3))


def test_what_is_exchanged_is_what_is_kept() -> None:
    model, u0 = Metriplectic(Quartic(3), Quartic(3), 3), torch.randn(4, 3)
    weight = Hamiltonian(lambda q, p: p.square().sum(-1) / 2 + q[..., 1])
    pendulum = Constrained(weight, lambda q: q.square().sum(-1, keepdim=True) - 1, 1)
    at = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    with torch.no_grad():
        model.rollout(u0, 0.1, 1)
        pendulum.rollout(at, 0.05, 1)
        model.energy, model.entropy = Quartic(3), Quartic(3)
        pendulum.energy = Hamiltonian(lambda q, p: p.square().sum(-1) + q[..., 1] ** 3)
        pendulum.constraint = lambda q: 2 * q[..., :1] ** 4 + q[..., 1:] ** 2 - 2
        u, w = model.rollout(u0, 0.1, 3).u, pendulum.rollout(at, 0.05, 3).u
        assert float((model.energy(u) - model.energy(u0)).abs().max()) < 1e-13
        assert float(model.entropy(u).diff(dim=0).min()) > 0
        assert float((pendulum.energy(w) - pendulum.energy(at)).abs().max()) < 1e-12
        assert float(pendulum.constraint(w[..., :2]).abs().max()) < 1e-12


def test_casimirs_are_kept() -> None:
    linear = torch.randn(2, 4)
    quadratic = torch.stack([torch.zeros(4, 4), torch.eye(4)])
    for structure, kept in (
        (LiePoisson(), lambda u: u.square().sum(-1, keepdim=True)),
        (made := Keeping(LearnedMatrix(4, dissipative=True), linear, quadratic), lambda u: made.values(u)),
    ):
        u0 = torch.randn(3, structure.size)
        with torch.no_grad():
            u = rollout(EnergyModel(Quartic(structure.size), structure), u0, 0.2, 10, verify=True).u
            assert float((kept(u) - kept(u0)).abs().max()) < 1e-13
    with pytest.raises(PhysicsError, match="symmetric matrices"):
        Keeping(LearnedMatrix(2), torch.ones(1, 2), torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]))


def rods(q):
    """Two rods of length 1, one at the end of the other."""
    first, second = q[..., :2], q[..., 2:]
    return torch.stack([first.square().sum(-1) - 1, (second - first).square().sum(-1) - 1], -1)


def test_a_step_that_is_solved_to_the_last_bit_is_solved() -> None:
    """Near a horizontal pendulum Newton's method leaves a residual of 0 exactly, which once counted as no success."""
    weight = Hamiltonian(lambda q, p: p.square().sum(-1) / 2 + q[..., 1])
    model = Constrained(weight, lambda q: q.square().sum(-1, keepdim=True) - 1, 1)
    u = model.rollout(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 0.05, 10).u
    assert float((u[..., :2].norm(dim=-1) - 1).abs().max()) < 1e-13


def by_angles(t: float) -> np.ndarray:
    """The same double pendulum in its two angles from the vertical, from rest at right angles."""

    def rate(_, y):
        a, b, va, vb = y
        m = np.array([[2, np.cos(a - b)], [np.cos(a - b), 1]])
        f = [-np.sin(a - b) * vb**2 - 2 * np.sin(a), np.sin(a - b) * va**2 - np.sin(b)]
        return [va, vb, *np.linalg.solve(m, f)]

    start = [np.pi / 2, np.pi / 2, 0, 0]
    a, b = solve_ivp(rate, (0, t), start, "DOP853", rtol=1e-12, atol=1e-12).y[:2, -1]
    return np.array([np.sin(a), -np.cos(a), np.sin(a) + np.sin(b), -np.cos(a) - np.cos(b)])


@pytest.mark.slow
def test_a_double_pendulum_by_its_positions() -> None:
    """Against its motion in angles: of second order, and neither the rods nor the energy give."""
    model = Constrained(Hamiltonian(lambda q, p: p.square().sum(-1) / 2 + q[..., 1] + q[..., 3]), rods, 2)
    u0 = torch.tensor([[1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    errors = []
    for steps in (10, 20):
        u = model.rollout(u0, 1.0 / steps, steps).u
        assert float(rods(u[..., :4]).abs().max()) < 1e-13
        assert float((model.energy(u) - model.energy(u0)).abs().max()) < 1e-12
        errors.append(float((u[-1, 0, :4] - torch.from_numpy(by_angles(1.0))).abs().max()))
    assert 3.4 < errors[0] / errors[1] < 4.6, errors
    with pytest.raises(PhysicsError, match="break the constraints by"):
        model.rollout(2 * u0, 0.1, 1)
