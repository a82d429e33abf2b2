"""An audit of models whose laws are known: what they keep is rounding, what they break is what it should be."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics import DivergenceFree, EnergyModel, MLPEnergy, Symplectic, audit, mlp, rollout, systems

pytestmark = pytest.mark.usefixtures("float64")


def energy(u: Tensor) -> Tensor:
    return (u**2).sum(-1)


def test_a_step_that_turns_and_one_that_spirals() -> None:
    u = torch.randn(50, 2)
    c, s = math.cos(0.3), math.sin(0.3)
    turn = torch.tensor([[c, s], [-s, c]])
    kept = audit(lambda x: x @ turn.T, u, energy=energy)
    assert kept["energy"].worst < 1e-14
    spiral = audit(lambda x: 1.01 * x @ turn.T, u, energy=energy, steps=10)["energy"]
    grown = ((1.01**20 - 1) * energy(u)).square().mean().sqrt()
    assert spiral.mean * spiral.size == pytest.approx(float(grown), rel=1e-10)
    assert 0 < spiral.error < spiral.mean
    assert "momentum" in str(kept)
    with pytest.raises(PhysicsError, match="no function momentum= was given"):
        kept["momentum"]


def test_a_rollout_of_an_energy_model_is_a_path() -> None:
    system = systems.two_body()
    model = EnergyModel(system.energy, system.structure)
    path = rollout(model, system.initial(3, torch.Generator().manual_seed(0)), 0.05, 20).u.detach()
    found = audit(
        None, path, kind="path", energy=system.energy, momentum=lambda u: u[:, 4:].unflatten(1, (2, 2)).sum(1)
    )
    assert found["energy"].worst < 1e-13
    assert found["momentum"].worst * found["momentum"].size < 1e-13
    assert list(found.table()["name"]) == ["energy", "momentum"]


def test_fields_that_are_gradients_and_that_are_divergence_free() -> None:
    x = torch.randn(40, 3)
    gradient = audit(
        lambda y: torch.stack([y[:, 1] * y[:, 2], y[:, 0] * y[:, 2], y[:, 0] * y[:, 1]], 1), x, kind="field"
    )
    assert gradient["curl (Jacobian not symmetric)"].worst < 1e-14
    assert gradient["divergence"].worst < 1e-14
    still = audit(lambda y: y * torch.tensor([1.0, -1.0, 0.0]), x, kind="field")["divergence"]
    assert still.mean == still.error == 0.0
    assert audit(lambda y: y**2, x, kind="field")["divergence"].mean > 0.1
    field = audit(DivergenceFree(mlp(3, 3), 3), x, kind="field")
    assert field["divergence"].worst < 1e-13
    assert field["curl (Jacobian not symmetric)"].mean > 0.1


def test_data_on_grids() -> None:
    """A travelling wave keeps its total; Taylor-Green's flow has no divergence, on a periodic grid to rounding."""
    x = torch.arange(32) / 32
    wave = torch.stack([1 + torch.sin(2 * math.pi * (x - 0.1 * k))[None] for k in range(5)])
    assert audit(None, wave, kind="path", dx=1 / 32)["total"].worst < 1e-14
    leaking = wave * torch.linspace(1, 0.9, 5)[:, None, None]
    assert audit(None, leaking, kind="path", dx=1 / 32)["total"].mean == pytest.approx(0.1, rel=0.1)
    a, b = torch.meshgrid(2 * math.pi * x, 2 * math.pi * x, indexing="ij")
    flow = torch.stack([a.sin() * b.cos(), -a.cos() * b.sin()], -1).expand(3, 2, 32, 32, 2)
    assert audit(None, flow, kind="path", dx=1 / 32)["divergence"].worst < 1e-13
    stretched = flow * torch.tensor([1.0, 2.0])
    assert audit(None, stretched, kind="path", dx=1 / 32)["divergence"].mean > 0.1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: audit(None, torch.randn(3, 2)), "without a model"),
        (lambda: audit(lambda u: u, torch.randn(3, 2), kind="thing"), "kind 'thing'"),
        (lambda: audit(lambda u: u[:, :1], torch.randn(3, 2)), "expected states like those"),
        (lambda: audit(lambda u: u / 0, torch.randn(3, 2)), "not finite after 1 of 20"),
        (lambda: audit(lambda u: u, torch.randn(3, 2), energy=lambda u: u.sum()), "expected one row each"),
        (lambda: audit(lambda u: u, torch.randn(3, 2, 2), kind="field"), "flatten a grid"),
        (lambda: audit(lambda u: u, torch.randn(3, 4), dx=-1.0), "spacings are positive"),
        (lambda: audit(lambda u: u, torch.full((3, 4), math.nan)), "finite"),
        (lambda: audit(EnergyModel(MLPEnergy(2, hidden=4), Symplectic()), torch.randn(3, 2)), "audit what it predicts"),
    ],
)
def test_refused(call: Any, words: str) -> None:
    with pytest.raises(PhysicsError, match=words):
        call()
