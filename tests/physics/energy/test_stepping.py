"""Implicit steps: solved to rounding, conserving over long times, of the order they claim, with exact gradients."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neuromech.errors import ConvergenceError, PhysicsError
from neuromech.physics import (
    ConvEnergy,
    Damped,
    DiscreteScheme,
    EnergyModel,
    Laplacian,
    MLPEnergy,
    Solver,
    Symplectic,
    Training,
    fit,
    rollout,
    simulate,
    systems,
)
from neuromech.physics.energy import stepping
from neuromech.physics.energy.stepping import _differences, _Inverse, _not_solved
from tests.families import fast

pytestmark = pytest.mark.usefixtures("float64")


class Anharmonic(nn.Module):
    """1 - cos q + p^2 + q^4."""

    def forward(self, u: Tensor) -> Tensor:
        q, p = u.unbind(-1)
        return 1 - torch.cos(q) + p**2 + q**4


def energies(model: EnergyModel, states: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([model.energy(u) for u in states])


def test_the_step_is_the_equation() -> None:
    model = EnergyModel(MLPEnergy(4, 16), Symplectic())
    u0 = torch.randn(5, 4)
    u1 = rollout(model, u0, 0.1, 1).u[1]
    torch.testing.assert_close(u1, u0 + 0.1 * model(u0, u1), rtol=1e-14, atol=1e-14)


def test_the_inverse_answers_what_it_has_learned() -> None:
    """Broyden's condition, by dense algebra: what F has changed by is answered by the step; others keep theirs."""
    matrices = torch.randn(3, 4, 4) + 4 * torch.eye(4)
    inverse = _Inverse(matrices.permute(2, 0, 1))
    f = torch.randn(3, 4)
    torch.testing.assert_close(inverse(f), torch.linalg.solve(matrices, f))
    step, after = inverse(f), 0.1 * torch.randn(3, 4)
    where = torch.tensor([True, False, True])
    following = inverse.learn(step, after, where)
    torch.testing.assert_close(inverse(after - f)[where], -step[where])
    torch.testing.assert_close(inverse(f)[1], torch.linalg.solve(matrices, f)[1])
    torch.testing.assert_close(following, inverse(after))


def test_jacobians_by_differences() -> None:
    u = torch.randn(5, 2, 3)
    cubic = lambda x: x**3 + x.sum((1, 2), keepdim=True)  # noqa: E731
    exact = torch.func.vmap(torch.func.jacrev(lambda x: cubic(x[None])[0]))(u).reshape(5, 6, 6)
    torch.testing.assert_close(_differences(cubic, u, cubic(u)).permute(1, 2, 0), exact, rtol=1e-6, atol=1e-6)


def test_mass_spring_by_hand() -> None:
    """H = q^2 + p^2 is quadratic, so the step is the implicit midpoint rule: a rotation by 2 atan(dt)."""
    system = systems.mass_spring()
    dt = 0.3
    path = rollout(system.model, torch.tensor([[1.0, 0.0]]), dt, 20).u[:, 0]
    angle = -2 * math.atan(dt) * torch.arange(21)
    torch.testing.assert_close(path, torch.stack([angle.cos(), angle.sin()], -1), rtol=1e-12, atol=1e-12)


def trained() -> nn.Module:
    """An energy learned from noisy pairs of states of the mass-spring."""
    system = systems.mass_spring()
    data = simulate(system, 10, steps=20).noisy(0.02, torch.Generator().manual_seed(0))
    model = EnergyModel(MLPEnergy(2, 32), system.structure)
    losses = fit(DiscreteScheme(model), data.pairs(), Training(200, lr=5e-3))
    assert losses[-1] < losses[0] / 4
    return model.energy


ENERGIES: dict[str, Callable[[], nn.Module]] = {
    "known": Anharmonic,
    "random": lambda: MLPEnergy(2, 16),
    "trained": trained,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENERGIES)
def test_energy_does_not_drift_over_ten_thousand_steps(kind: str) -> None:
    """At the rounding of the solver, and the second half adds no more than a random walk would."""
    model = EnergyModel(ENERGIES[kind](), Symplectic())
    with torch.no_grad():
        path = rollout(model, torch.randn(4, 2), 0.2, 10_000).u
    h = energies(model, path)
    error = (h - h[0]).abs() / (1 + h[0].abs())
    assert float(error.max()) < 1e-12
    assert float(error[5000:].max()) < 4 * float(error[:5000].max()) + 1e-14


@pytest.mark.slow
def test_a_learned_energy_is_kept_over_some_steps() -> None:
    model = EnergyModel(trained(), Symplectic())
    h = energies(model, rollout(model, torch.randn(4, 2), 0.2, 100).u)
    assert float((h - h[0]).abs().max()) < 1e-13 * (1 + float(h.abs().max()))


@pytest.mark.parametrize("seed", fast(range(3), [0]))
def test_an_energy_of_relu_is_kept_across_its_kinks(seed: int) -> None:
    torch.manual_seed(seed)
    model = EnergyModel(MLPEnergy(2, 16, activation="relu"), Symplectic())
    h = energies(model, rollout(model, torch.randn(4, 2), 0.1, 60).u)
    assert float((h - h[0]).abs().max()) < 1e-13 * (1 + float(h.abs().max()))


def test_the_jacobian_is_made_once_and_learned_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broyden's corrections: over a smooth motion no second one is made, and the equation is solved all the same."""
    made = []
    monkeypatch.setattr(
        stepping,
        "_Inverse",
        type(
            "Counted",
            (_Inverse,),
            {"__init__": lambda self, columns: (made.append(1), _Inverse.__init__(self, columns))[1]},
        ),
    )
    model = EnergyModel(MLPEnergy(2, 16), Symplectic())
    with torch.no_grad():
        path = rollout(model, torch.randn(4, 2), 0.2, 50).u
        for u0, u1 in itertools.pairwise(path):
            torch.testing.assert_close(u1, u0 + 0.2 * model(u0, u1), rtol=1e-14, atol=1e-14)
    assert 1 <= len(made) < 5


@pytest.mark.slow
def test_energy_over_some_steps_is_kept_at_any_step_size() -> None:
    model = EnergyModel(Anharmonic(), Symplectic())
    for dt in (1e-3, 0.1, 0.5):
        h = energies(model, rollout(model, torch.randn(3, 2), dt, 25).u)
        assert float((h - h[0]).abs().max()) < 1e-12


@pytest.mark.parametrize("order", fast([2, 4], [2]))
def test_order(order: int) -> None:
    model = EnergyModel(Anharmonic(), Symplectic())
    u0 = torch.tensor([[0.7, 0.2], [-0.3, 0.5]])
    exact = rollout(model, u0, 1 / 96, 96, order=4).u[-1]
    counts = torch.tensor([12.0, 24.0])
    errors = torch.stack(
        [(rollout(model, u0, 1 / int(k), int(k), order=order).u[-1] - exact).abs().max() for k in counts]
    )
    fitted = -torch.linalg.lstsq(torch.stack([counts.log(), torch.ones(2)], 1), errors.log()[:, None]).solution[0]
    assert float(fitted) == pytest.approx(order, abs=0.15)


@pytest.mark.slow
def test_krylov_and_dense_solve_the_same_equation() -> None:
    model = EnergyModel(ConvEnergy(1, 0.1, 4), Laplacian(0.1))
    u0 = 0.3 * torch.randn(2, 10)
    dense = rollout(model, u0, 1e-4, 3).u
    with torch.no_grad():
        krylov = rollout(model, u0, 1e-4, 3, solver=Solver("krylov")).u
    torch.testing.assert_close(krylov, dense, rtol=1e-11, atol=1e-11)
    with pytest.raises(PhysicsError, match="gradients do not flow through GMRES"):
        rollout(model, u0, 1e-4, 1, solver=Solver("krylov"))


def test_steps_of_different_sizes() -> None:
    system = systems.mass_spring()
    sizes = [0.1, 0.3, 0.05]
    found = rollout(system.model, torch.tensor([[0.3, 0.4]]), sizes)
    torch.testing.assert_close(found.t, torch.tensor([0.0, 0.1, 0.4, 0.45]))
    turned = -2 * sum(math.atan(dt) for dt in sizes) + math.atan2(0.4, 0.3)
    torch.testing.assert_close(found.u[-1, 0], 0.5 * torch.tensor([math.cos(turned), math.sin(turned)]))


STRUCTURES = {"conserves": Symplectic(), "dissipates": Damped(2, 0.3)}


@pytest.mark.parametrize("name", fast(STRUCTURES, ["dissipates"]))
def test_gradients_flow_through_the_solution(name: str) -> None:
    """By the initial state and by a parameter, against central differences over several steps."""
    model = EnergyModel(MLPEnergy(2, 3), STRUCTURES[name])
    u0 = torch.randn(1, 2, requires_grad=True)
    weight = model.energy.network[0].bias
    assert torch.autograd.gradcheck(lambda u: rollout(model, u, 0.1, 2).u, u0)

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return rollout(model, u0.detach(), 0.1, 2).u

    bias = "model.energy.network.0.bias"
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(Call(), {bias: w}, ()), weight)


def test_single_precision() -> None:
    model = EnergyModel(MLPEnergy(2, 16), Symplectic()).float()
    h = energies(model, rollout(model, torch.randn(4, 2, dtype=torch.float32), 0.1, 30).u)
    assert float((h - h[0]).abs().max()) < 1e-4


def test_a_step_that_is_not_solved_says_for_whom() -> None:
    model = EnergyModel(Anharmonic(), Symplectic())
    u0 = torch.tensor([[0.0, 0.0], [3.0, 2.0]])  # the first rests, which is solved at once
    with pytest.raises(ConvergenceError, match=r"1 of 2 samples, \[1\]") as caught:
        rollout(model, u0, 5.0, 3, solver=Solver(iterations=2))
    assert caught.value.states.shape == (1, 2, 2)
    assert "in step 1 of 3" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("size", "solver", "words"),
    [
        (1e-14, Solver(tolerance=1e-16), "tolerance well above the rounding"),
        (1e-9, Solver(), "small already: take more iterations"),
        (0.1, Solver(tolerance=1e-16), "Take smaller steps"),
        (float("nan"), Solver(), "Take smaller steps"),
    ],
)
def test_the_advice_is_that_of_the_case(size: float, solver: Solver, words: str) -> None:
    failed = torch.tensor([False, True])
    assert words in str(_not_solved(failed, torch.tensor([0.0, size]), solver, torch.zeros(2, 2)))


def test_a_step_within_the_tolerance_is_solved() -> None:
    """However few the iterations: after two of them the residual is 4e-9, after three 3e-17."""
    model, u0 = EnergyModel(Anharmonic(), Symplectic()), torch.tensor([[3.0, 2.0]])
    with pytest.raises(ConvergenceError, match="1 of 1"):
        rollout(model, u0, 0.01, 3, solver=Solver(iterations=2, substeps=1))
    found = rollout(model, u0, 0.01, 3, solver=Solver(iterations=3, substeps=1))
    torch.testing.assert_close(found.u, rollout(model, u0, 0.01, 3).u, rtol=1e-13, atol=0)


def test_refused() -> None:
    model = EnergyModel(Anharmonic(), Symplectic())
    u0 = torch.randn(2, 2)
    for dt in (0.0, float("nan"), [0.1, 0.0], torch.tensor([0.1, float("inf")])):
        with pytest.raises(PhysicsError, match="dt is 0 or not finite"):
            rollout(model, u0, dt, 2)
    for steps in (None, -2, 2.5):
        with pytest.raises(PhysicsError, match="how many steps"):
            rollout(model, u0, 0.1, steps)  # type: ignore[arg-type]
    with pytest.raises(PhysicsError, match="dt lists 2 steps, and steps is 5"):
        rollout(model, u0, [0.1, 0.1], 5)
    with pytest.raises(PhysicsError, match=r"dt is '0\.1'"):
        rollout(model, u0, "0.1", 5)
    for bad, message in (
        (u0[0], r"not of shape \(2,\): u\[None\]"),
        (u0[:0], r"at least one, not of shape \(0, 2\)"),
        (u0.long(), "states are torch.int64"),
        (u0.tolist(), "states are list"),
    ):
        with pytest.raises(PhysicsError, match=message):
            rollout(model, bad, 0.1, 2)
    with pytest.raises(PhysicsError, match=r"states are torch.float32.*parameters torch.float64"):
        rollout(EnergyModel(MLPEnergy(2, 4), Symplectic()), u0.float(), 0.1, 2)
    with pytest.raises(PhysicsError, match="inputs for 3 steps, and 2 steps"):
        rollout(model, u0, 0.1, 2, inputs=torch.zeros(3, 2, 1))
    with pytest.raises(PhysicsError, match="Symplectic takes none"):
        rollout(model, u0, 0.1, 2, inputs=torch.zeros(2, 2, 1))
    with pytest.raises(PhysicsError, match="order 2 or 4, not 3"):
        rollout(model, u0, 0.1, 2, order=3)  # type: ignore[arg-type]
    with pytest.raises(PhysicsError, match="solver is str"):
        rollout(model, u0, 0.1, 2, solver="newton")  # type: ignore[arg-type]
    with pytest.raises(PhysicsError, match="not finite, the first at index"):
        rollout(model, u0 * torch.nan, 0.1, 2)
    with pytest.raises(PhysicsError, match="order 2"):
        rollout(EnergyModel(Anharmonic(), Damped(2)), u0, 0.1, 2, order=4)
    with pytest.raises(PhysicsError, match="method"):
        Solver("direct")  # type: ignore[arg-type]
    with pytest.raises(PhysicsError, match="tolerance above 0"):
        Solver(tolerance=0.0)
    with pytest.raises(PhysicsError, match="refresh"):
        Solver(refresh=2.0)
    with pytest.raises(PhysicsError, match=r"the energy is function; expected an nn\.Module"):
        EnergyModel(lambda u: u.sum(), Symplectic())  # type: ignore[arg-type]


def test_a_linear_energy_moves_straight_on() -> None:
    """Its discrete gradient does not depend on where the step ends."""
    m = EnergyModel(nn.Linear(4, 1), Symplectic())
    u = torch.randn(3, 4)
    moved = rollout(m, u, 0.5, 3).u
    torch.testing.assert_close(moved[3] - u, (1.5 * m.velocity(u)).detach(), atol=1e-5, rtol=1e-5)
