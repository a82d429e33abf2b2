"""What acts on a system: inputs through ports, conditions of its energy, times of its own."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics import (
    DiscreteScheme,
    EnergyModel,
    ExplicitScheme,
    MLPEnergy,
    MLPField,
    Pairs,
    PortHamiltonian,
    Symplectic,
    Training,
    Trajectories,
    discrete_gradient,
    fit,
    odeint,
    rollout,
)
from tests.families import fast

pytestmark = pytest.mark.usefixtures("float64")


class Spring(nn.Module):
    """k q^2/2 + p^2/2, the stiffness k one number a sample; without one, 1."""

    def forward(self, u: Tensor, stiffness: Tensor | None = None) -> Tensor:
        k = 1.0 if stiffness is None else stiffness.squeeze(-1) if stiffness.ndim > 1 else stiffness
        return (k * u[:, 0] ** 2 + u[:, 1] ** 2) / 2


def driven() -> EnergyModel:
    structure = PortHamiltonian(Symplectic(), 2, 1)
    with torch.no_grad():
        structure.port.weight.copy_(torch.tensor([[0.0], [1.0]]))
    return EnergyModel(Spring(), structure)


# -- inputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", fast([DiscreteScheme, ExplicitScheme], [DiscreteScheme]))
def test_fit_learns_how_inputs_act(scheme: type[DiscreteScheme | ExplicitScheme]) -> None:
    """The port, from data of a driven spring; before, it never moved."""
    truth = driven()
    force = torch.randn(40, 5, 1)
    u = rollout(truth, torch.randn(5, 2), 0.1, 40, inputs=force).u.detach()
    data = Trajectories(torch.arange(41.0) * 0.1, u.transpose(0, 1), force.transpose(0, 1))
    model = EnergyModel(Spring(), PortHamiltonian(Symplectic(), 2, 1))
    losses = fit(scheme(model), data.pairs(), Training(400, 50, 3e-2, cosine=True))
    assert losses[-1] < 1e-3 * losses[0]
    torch.testing.assert_close(model.structure.port.weight, truth.structure.port.weight, atol=2e-2, rtol=0)


def test_ports_without_inputs_are_errors_everywhere() -> None:
    model, u = driven(), torch.randn(3, 2)
    pairs = Pairs(u, u + 0.1, torch.full((3,), 0.1))
    for call in (
        lambda: model(u, u),
        lambda: model.velocity(u),
        lambda: rollout(model, u, 0.1, 2),
        lambda: fit(DiscreteScheme(model), pairs, Training(1)),
        lambda: DiscreteScheme(model).predict(u, 0.1, 2),
        lambda: ExplicitScheme(model).predict(u, 0.1, 2),
    ):
        with pytest.raises(PhysicsError, match="1 ports and no inputs were given"):
            call()


def test_inputs_as_a_function_of_time_are_taken_in_the_middle_of_a_step() -> None:
    model, u = driven(), torch.randn(3, 2)

    def force(t: Tensor) -> Tensor:
        return torch.sin(t).expand(3, 1)

    listed = torch.stack([force(torch.tensor(0.1 * k + 0.05)) for k in range(6)])
    by_list = rollout(model, u, 0.1, 6, inputs=listed).u
    torch.testing.assert_close(rollout(model, u, 0.1, 6, inputs=force).u, by_list)
    torch.testing.assert_close(DiscreteScheme(model).predict(u, 0.1, 6, inputs=force).u, by_list)
    explicit = ExplicitScheme(model, "rk4").predict(u, 0.1, 6, inputs=force).u
    torch.testing.assert_close(explicit, by_list.detach(), atol=1e-2, rtol=0)


# -- conditions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["chain", "midpoint"])
def test_identity_with_a_condition_a_sample(form: str) -> None:
    energy, k = Spring(), torch.rand(7, 1) + 0.5
    dg = discrete_gradient(energy, form)
    u, v = torch.randn(2, 7, 2).unbind(0)
    change = (dg(u, v, k) * (u - v)).sum(1) - (energy(u, k) - energy(v, k))
    assert float(change.abs().max()) < 1e-14
    k = k.clone().requires_grad_()  # a condition is live, and can be learned
    (slope,) = torch.autograd.grad(dg(u, v, k).square().sum(), k)
    assert (slope != 0).all()


def test_each_sample_has_a_system_of_its_own() -> None:
    stiffness = torch.tensor([[1.0], [4.0]])
    model = EnergyModel(Spring(), Symplectic())
    u0 = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = rollout(model, u0, 1e-2, 100, condition=stiffness)
    exact = torch.cos(stiffness[:, 0].sqrt() * 1.0)
    assert float((found.u[-1, :, 0] - exact).abs().max()) < 1e-3
    one = rollout(model, u0[1:], 1e-2, 100, condition=stiffness[1:])
    torch.testing.assert_close(one.u[:, 0], found.u[:, 1])


@pytest.mark.slow
def test_an_energy_that_depends_on_time() -> None:
    """The stiffness grows: second order in the step, against steps a hundredth as long."""

    class Stiffening(nn.Module):
        def forward(self, u: Tensor, t: Tensor) -> Tensor:
            return ((1 + t) * u[:, 0] ** 2 + u[:, 1] ** 2) / 2

    model, u0 = EnergyModel(Stiffening(), Symplectic()), torch.randn(4, 2)

    def end(steps: int) -> Tensor:
        return rollout(model, u0, 1 / steps, steps, condition=lambda t: t.expand(4)).u[-1]

    exact = end(800)
    errors = [float((end(n) - exact).norm()) for n in (10, 20)]
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2


@pytest.mark.slow
def test_stiffness_is_learned_as_a_condition_is_given() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.3))

        def forward(self, u: Tensor, k: Tensor) -> Tensor:
            return (self.scale * k[:, 0] * u[:, 0] ** 2 + u[:, 1] ** 2) / 2

    k = torch.rand(6, 1) + 0.5
    u = rollout(EnergyModel(Spring(), Symplectic()), torch.randn(6, 2), 0.1, 10, condition=k).u
    data = Trajectories(torch.arange(11.0) * 0.1, u.transpose(0, 1), condition=k)
    model = EnergyModel(Learned(), Symplectic())
    fit(DiscreteScheme(model), data.pairs(), Training(300, None, 3e-2, cosine=True))
    assert float(model.energy.scale.detach()) == pytest.approx(1.0, abs=1e-4)


# -- times -------------------------------------------------------------------------------------------------------------


def test_times_and_steps_of_each_sample() -> None:
    model, u0 = EnergyModel(MLPEnergy(2, 8), Symplectic()), torch.randn(3, 2)
    dt = torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.1, 0.4]])
    found = rollout(model, u0, dt)
    for k in range(3):
        alone = rollout(model, u0[k : k + 1], dt[:, k])
        torch.testing.assert_close(found.u[:, k], alone.u[:, 0])
    torch.testing.assert_close(found.t, torch.cat([torch.zeros(1, 3), dt.cumsum(0)]))
    times = torch.tensor([1.0, 1.1, 1.3])
    by_time = rollout(model, u0, t=times)
    torch.testing.assert_close(by_time.u, rollout(model, u0, [0.1, 0.2]).u)
    torch.testing.assert_close(by_time.t, times)
    scheme = ExplicitScheme(model, "rk4")
    torch.testing.assert_close(scheme.predict(u0, t=times).u, scheme.predict(u0, [0.1, 0.2]).u)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt": torch.tensor([[0.1, 0.0, 0.1]])}, "dt is 0 or not finite for samples \\[1\\]"),
        ({"dt": torch.rand(2, 4)}, r"expected a number, \[steps\], or \[steps, 3\]"),
        ({"t": [0.0, 0.1, 0.1]}, "two times in a row are equal"),
        ({"t": [0.0, math.nan]}, "not finite"),
        ({"t": [0.0, 0.1], "dt": 0.1}, "leave dt and steps out"),
        ({}, "how long a step is"),
        ({"dt": 0.1, "steps": 2, "inputs": torch.zeros(3, 3, 1)}, "inputs for 3 steps, and 2"),
        ({"dt": 0.1, "steps": 2, "inputs": lambda t: 3.0}, r"inputs\(t\) gives float"),
        ({"dt": 0.1, "steps": 2, "condition": torch.zeros(5, 1)}, "condition for 5 steps"),
    ],
)
def test_plans_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PhysicsError, match=message):
        rollout(EnergyModel(Spring(), Symplectic()), torch.randn(3, 2), **options)


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "inputs in a list": (lambda m, u: rollout(m, u, 0.1, 1, inputs=[1.0]), "inputs is list; expected a tensor"),
    "a number for inputs": (lambda m, u: rollout(m, u, 0.1, 1, inputs=1.0), "inputs is float; expected a tensor"),
    "inputs of another dtype": (lambda m, u: rollout(m, u, 0.1, 1, inputs=torch.ones(1, 2, 1).float()), "float32"),
    "times as text": (lambda m, u: rollout(m, u, t="abc"), "not a list of times"),
    "times in rows of many lengths": (lambda m, u: rollout(m, u, t=[[0.0], [1.0, 2.0]]), "not a list of times"),
    "True steps": (lambda m, u: rollout(m, u, 0.1, True), "True is not a number of steps"),
    "a tensor to fit": (lambda m, u: fit(DiscreteScheme(m), u), "fit takes Pairs .*not Tensor"),
    "half a step": (lambda m, u: Training(steps=2.5), "whole numbers"),
    "a number for dt": (lambda m, u: Pairs(u, u, 0.1), "dt is float; expected a tensor"),
    "arrays": (lambda m, u: Trajectories(u.numpy(), u[None]), "t is ndarray; expected a tensor"),
    "a list for a state": (lambda m, u: odeint(MLPField(2, 4), [[1.0, 2.0]], [0.0, 1.0]), "u0 is list"),
    "parts that do not fit": (lambda m, u: odeint(MLPField(2, 4), (u[:, :1], u[:1, 1:]), [0.0, 1.0]), "have shapes"),
    "states of another dtype": (lambda m, u: odeint(MLPField(2, 4), u.float(), [0.0, 1.0]), "the states are .*float32"),
    "a tolerance below 0": (lambda m, u: ExplicitScheme(MLPField(2, 4), "dopri5", -1.0), "it is positive"),
    "f(t, u)": (lambda m, u: odeint(lambda t, u: u, u, [0.0, 1.0]), "asks for more"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_of_the_wrong_type_is_named(name: str) -> None:
    make, words = WRONG[name]
    with pytest.raises(PhysicsError, match=words):
        make(EnergyModel(MLPEnergy(2, 4), PortHamiltonian(Symplectic(), 2, 1)), torch.ones(2, 2))


def test_numbers_of_numpy_are_numbers() -> None:
    m, u = EnergyModel(MLPEnergy(2, 4), Symplectic()), torch.ones(2, 2)
    expected = rollout(m, u, 0.1, 3).u
    torch.testing.assert_close(rollout(m, u, np.float64(0.1), np.int64(3)).u, expected)
    torch.testing.assert_close(rollout(m, u, np.full(3, 0.1)).u, expected)
    torch.testing.assert_close(rollout(m, u, t=np.arange(4) * 0.1).u, expected)


def test_a_loop_over_trajectories_ends() -> None:
    t = Trajectories(torch.arange(3.0), torch.randn(2, 3, 2))
    torch.testing.assert_close(torch.cat([one.u for one in t]), t.u)
    assert torch.equal(t[-2].u, t[0].u)
    with pytest.raises(IndexError):
        t[2]


def test_trajectories_with_times_of_their_own_and_of_any_length() -> None:
    t = torch.tensor([[0.0, 0.1, 0.3], [0.0, 0.5, 0.6]])
    data = Trajectories(t, torch.randn(2, 3, 2))
    torch.testing.assert_close(data.pairs().dt, torch.tensor([0.1, 0.2, 0.5, 0.1]))
    assert len(data[1]) == 1
    torch.testing.assert_close(data[-1].t, t[1:])
    longer = Trajectories(torch.arange(5.0), torch.randn(1, 5, 2))
    joined = Pairs.join([data.pairs(), longer.pairs()])
    assert len(joined) == 8
    assert joined.to(dtype=torch.float32).before.dtype == torch.float32
    with pytest.raises(PhysicsError, match="some pairs have what others lack"):
        Pairs.join([data.pairs(), Pairs(t, t, torch.ones(2), torch.ones(2, 1))])
    with pytest.raises(PhysicsError, match="times increase; between rows 1 and 2"):
        Trajectories(torch.tensor([[0.0, 1.0, 0.5]]), torch.randn(1, 3, 2))


# -- rollouts that look at themselves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 4])
def test_a_verified_rollout_says_what_it_kept(order: Any) -> None:
    model, u0 = EnergyModel(MLPEnergy(2, 8), Symplectic()), torch.randn(3, 2)
    found = rollout(model, u0, 0.2, 5, order=order, verify=True)
    assert found.identity.shape == found.law.shape == (5, 3)
    assert float(found.identity.max()) < 1e-13
    assert float(found.law.abs().max()) < 1e-13
    power = rollout(driven(), u0, 0.2, 5, inputs=torch.randn(5, 3, 1), verify=True)
    assert float(power.law.abs().max()) < 1e-13
    assert rollout(model, u0, 0.2, 5).law is None


def test_a_structure_that_breaks_its_law_on_the_way_is_caught() -> None:
    class Turning(Symplectic):
        """Skew near the origin, where it is probed; further out it feeds."""

        def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
            return super().forward(g, u) + torch.relu(u.norm(dim=-1, keepdim=True) - 10) * g

    model = EnergyModel(Spring(), Turning())
    with pytest.raises(PhysicsError, match="step 1 breaks its promise for samples"):
        rollout(model, torch.full((2, 2), 20.0), 0.01, 3, verify=True)


@pytest.mark.slow
def test_a_sample_that_needs_shorter_steps_does_not_stop_the_others() -> None:
    """Two bodies that nearly meet, at a step far too long, beside a circular motion."""
    from neuromech.physics import Solver, systems

    model = systems.two_body().model
    circle = torch.tensor([0.5, 0, -0.5, 0, 0, 0.7071, 0, -0.7071])
    close = torch.tensor([0.5, 0, -0.5, 0, 0, 0.02, 0, -0.02])
    both = rollout(model, torch.stack([circle, close]), 0.05, 40, solver=Solver(iterations=20, substeps=64))
    alone = rollout(model, circle[None], 0.05, 40)
    torch.testing.assert_close(both.u[:, 0], alone.u[:, 0], rtol=1e-9, atol=1e-9)
    energy = model.energy(both.u.flatten(0, 1)).reshape(41, 2)
    assert float((energy - energy[0]).abs().max()) < 1e-10
