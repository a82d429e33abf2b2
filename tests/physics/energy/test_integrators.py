"""The baselines, and the one loop that trains them all: orders, conservation, resumption to the same numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import neuromech
from neuromech.errors import ConvergenceError, PhysicsError
from neuromech.physics import (
    ConvField,
    Damped,
    DiscreteScheme,
    EnergyModel,
    ExplicitScheme,
    LearnedMatrix,
    MLPEnergy,
    MLPField,
    Pairs,
    Symplectic,
    Training,
    fit,
    odeint,
    simulate,
    systems,
)
from neuromech.physics.energy.integrators import MotionScheme, separable
from neuromech.physics.energy.training import loss
from tests.families import fast

pytestmark = pytest.mark.usefixtures("float64")

MAKERS: dict[str, Callable[[], MotionScheme]] = {
    "NODE": lambda: ExplicitScheme(MLPField(2, 16), "rk4"),
    "HNN": lambda: ExplicitScheme(EnergyModel(MLPEnergy(2, 16), Symplectic()), "midpoint"),
    "HNN dopri5": lambda: ExplicitScheme(EnergyModel(MLPEnergy(2, 16), Symplectic()), "dopri5"),
    "symplectic HNN": lambda: ExplicitScheme(EnergyModel(separable(2, 16), Symplectic()), "leapfrog"),
    "discrete gradient": lambda: DiscreteScheme(EnergyModel(MLPEnergy(2, 16), Symplectic())),
}


class Turning(nn.Module):
    def velocity(self, u: Tensor) -> Tensor:
        q, p = u.unbind(-1)
        return torch.stack([2 * p, -2 * q], -1)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4)])
def test_order_of_explicit_methods(method: str, order: int) -> None:
    scheme = ExplicitScheme(Turning(), method)
    u0 = torch.tensor([[1.0, 0.0]])
    exact = torch.tensor([[torch.cos(torch.tensor(2.0)), -torch.sin(torch.tensor(2.0))]])
    errors = [float((scheme.predict(u0, 1 / n, n).u[-1] - exact).norm()) for n in (20, 40)]
    assert torch.log2(torch.tensor(errors[0] / errors[1])) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("method", ["adaptive_heun", "bosh3", "dopri5", "dopri8"])
def test_adaptive_methods_are_as_exact_as_their_tolerance(method: str) -> None:
    u0, t = torch.tensor([[1.0, 0.0]]), torch.linspace(0, 2, 5)
    exact = torch.stack([torch.cos(2 * t), -torch.sin(2 * t)], -1)
    for tolerance in (1e-4, 1e-7):
        found = odeint(Turning(), u0, t, method=method, tolerance=tolerance)
        assert isinstance(found, Tensor)
        assert (found[:, 0] - exact).abs().max() < 30 * tolerance


def test_leapfrog_is_of_order_two_and_keeps_energy_near() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x**2).sum(-1)

    from neuromech.physics import SeparableEnergy

    model = EnergyModel(SeparableEnergy(Half(), Half()), Symplectic())
    scheme = ExplicitScheme(model, "leapfrog")
    u0 = torch.tensor([[1.0, 0.0]])
    drift = []
    for n in (50, 100):
        with torch.no_grad():
            h = model.energy(scheme.predict(u0, 10 / n, 5 * n).u)
        drift.append(float((h - h[0]).abs().max()))
    assert drift[0] / drift[1] == pytest.approx(4, rel=0.1)


def test_steps_may_differ_from_sample_to_sample() -> None:
    u0 = torch.randn(3, 2)
    dt = torch.tensor([0.1, 0.2, 0.3])
    for make in MAKERS.values():
        scheme = make()
        together = scheme(u0, u0 + 0.1, dt)
        one_by_one = torch.cat([scheme(u0[k : k + 1], u0[k : k + 1] + 0.1, float(dt[k])) for k in range(3)])
        torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", fast(MAKERS, ["discrete gradient"]))
def test_learns_the_mass_spring(name: str) -> None:
    """The loss falls by a factor of a hundred, and a state that was not seen is predicted for a while."""
    system = systems.mass_spring()
    path = simulate(system, 6, steps=30)
    scheme = MAKERS[name]()
    steps = 60 if name == "HNN dopri5" else 300
    losses = fit(scheme, path[:5].pairs(), Training(steps, batch=50, lr=2e-2, cosine=True))
    assert losses[-1] < losses[0] / (10 if name == "HNN dopri5" else 100)
    predicted = scheme.predict(path.u[5:, 0], system.dt, 5).u
    assert float((predicted - path.u[5:, :6].transpose(0, 1)).abs().max()) < 0.35


@pytest.mark.slow
def test_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    pairs = simulate(systems.pendulum(), 3, steps=20).pairs()
    torch.manual_seed(1)
    whole = MAKERS["discrete gradient"]()
    torch.manual_seed(1)
    parts = MAKERS["discrete gradient"]()
    expected = fit(whole, pairs, Training(12, batch=10, save_every=3))

    class Killed(Exception):
        pass

    def kill(step: int, value: float) -> None:
        if step == 7:
            raise Killed

    file = tmp_path / "a" / "state.pt"
    with pytest.raises(Killed):
        fit(parts, pairs, Training(12, batch=10, save_every=3), checkpoint=file, progress=kill)
    parts = MAKERS["discrete gradient"]()
    assert fit(parts, pairs, Training(12, batch=10, save_every=3), checkpoint=file) == expected
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(fit(parts, pairs, Training(12, batch=10), checkpoint=file)) == 12  # nothing left to do


@pytest.mark.slow
def test_instrumented_like_any_model() -> None:
    """G and H share a factor: found, explained and predicted to rounding while the discrete model trains."""
    torch.manual_seed(0)
    pairs = simulate(systems.pendulum(), 2, steps=20).pairs()
    model = EnergyModel(MLPEnergy(2, 8), LearnedMatrix(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3)
    target = (pairs.after - pairs.before) / pairs.dt[:, None]
    probe = neuromech.instrument(
        model, loss=lambda out: ((out - target) ** 2).mean(), example=(pairs.before, pairs.after), optimizer=optimizer
    )
    for _ in range(20):
        optimizer.zero_grad()
        ((model(pairs.before, pairs.after) - target) ** 2).mean().backward()
        optimizer.step()
    found = {(s.kind, frozenset(s.parameters)) for s in probe.symmetries.symmetries}
    assert ("rescale", frozenset({"structure.skew", "energy.network.4.weight"})) in found
    assert ("translation", frozenset({"structure.skew"})) in found  # A - A^T sees no symmetric part of A
    assert "energy.network.4.bias" in probe.symmetries.inactive
    assert float(probe.history["residual"].max()) < 1e-12


def test_refused() -> None:
    u = torch.randn(4, 2)
    model = EnergyModel(MLPEnergy(2, 4), Symplectic())
    with pytest.raises(PhysicsError, match="method 'rk5'"):
        ExplicitScheme(model, "rk5")
    with pytest.raises(PhysicsError, match="no velocity"):
        ExplicitScheme(nn.Linear(2, 2))
    with pytest.raises(PhysicsError, match=r"T\(p\) \+ V\(q\)"):
        ExplicitScheme(model, "leapfrog")
    with pytest.raises(PhysicsError, match=r"T\(p\) \+ V\(q\)"):
        ExplicitScheme(EnergyModel(separable(2), Damped(2)), "leapfrog")
    for bad in ({"steps": -1}, {"batch": 0}, {"save_every": 0}):
        with pytest.raises(PhysicsError, match="training has steps"):
            Training(**bad)
    for bad in ({"lr": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(PhysicsError, match="lr is positive"):
            Training(**bad)
    with pytest.raises(PhysicsError, match=r"pairs are torch.float32.*parameters torch.float64"):
        fit(DiscreteScheme(model), Pairs(u.float(), u.float(), torch.ones(4)))
    with pytest.raises(PhysicsError, match="no parameters"):
        fit(DiscreteScheme(systems.pendulum().model), Pairs(u, u, torch.ones(4)))
    with pytest.raises(PhysicsError, match="state to start from holds 8 values that are not finite"):
        ExplicitScheme(model).predict(u * torch.nan, 0.1, 2)
    with pytest.raises(PhysicsError, match="no pairs"):
        fit(DiscreteScheme(model), Pairs(u[:0], u[:0], torch.zeros(0)))
    for dt, message in (
        (torch.tensor([1.0, 0, 1, 1]), r"0 or not finite for samples \[1\]"),
        (torch.ones(3), "4 samples"),
    ):
        with pytest.raises(PhysicsError, match=message):
            loss(DiscreteScheme(model), Pairs(u, u + 1, dt))
    with pytest.raises(PhysicsError, match="state after the step holds 1 values that are not finite"):
        loss(
            DiscreteScheme(model),
            Pairs(u, u.index_put((torch.tensor([2]), torch.tensor([0])), torch.tensor(torch.inf)), torch.ones(4)),
        )
    with pytest.raises(PhysicsError, match="activation"):
        MLPEnergy(2, activation="step")
    with pytest.raises(PhysicsError, match="odd size"):
        ConvField(1, kernel=4)


def test_equal_states_are_fine_and_a_wild_loss_is_not() -> None:
    u = torch.randn(4, 2)
    scheme = DiscreteScheme(EnergyModel(MLPEnergy(2, 4), Symplectic()))
    assert torch.isfinite(loss(scheme, Pairs(u, u, torch.ones(4))))
    with torch.no_grad():
        scheme.model.energy.network[0].weight.fill_(torch.inf)
    before = [p.clone() for p in scheme.parameters()]
    with pytest.raises(PhysicsError, match="the loss is nan at step 0"):
        fit(scheme, Pairs(u, u + 1, torch.ones(4)))
    assert all(torch.equal(a, b) for a, b in zip(before, scheme.parameters(), strict=True))


def test_a_motion_that_diverges_is_an_error_that_keeps_what_it_reached() -> None:
    class Blow(nn.Module):
        def velocity(self, u: Tensor) -> Tensor:
            return u**3

    for method in ("rk4", "dopri5"):
        with pytest.raises(ConvergenceError, match="diverges") as caught:
            ExplicitScheme(Blow(), method).predict(torch.ones(2, 2), 0.2, 50)
        assert caught.value.states.shape[1:] == (2, 2)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    torch.save({"scheme": {}}, file)
    pairs = simulate(systems.pendulum(), 1, steps=2).pairs()
    with pytest.raises(PhysicsError, match="not a state of this training"):
        fit(MAKERS["NODE"](), pairs, checkpoint=file)
