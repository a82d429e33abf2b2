"""An audit of models whose laws are known: what they keep is rounding, what they break is what it should be."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics import (
    DivergenceFree,
    EnergyModel,
    Gridded,
    MLPEnergy,
    Rollout,
    Symplectic,
    Trajectories,
    audit,
    mlp,
    rollout,
    systems,
)

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


def grown(u: Tensor) -> Tensor:
    return 1.01 * u


def test_motions_of_every_kind_are_one_path() -> None:
    """Its first states are where a step starts, and all of them are points of a field."""
    t, start = torch.arange(4.0), torch.randn(3, 2)
    path = torch.stack([start, grown(start), grown(grown(start)), grown(grown(grown(start)))])
    data = Trajectories(t, path.transpose(0, 1))
    wanted = audit(grown, start, energy=energy, steps=3)
    for states in (data, Gridded(data, (0.1,), ("u",)), Rollout(t, path)):
        assert audit(None, states, kind="path", energy=energy)["energy"] == wanted["energy"]
        assert audit(grown, states, energy=energy, steps=3)["energy"] == wanted["energy"]
        field = audit(torch.sin, states, kind="field")
        assert field.about == "A field at 12 points"
        assert field["divergence"] == audit(torch.sin, path.reshape(12, 2), kind="field")["divergence"]
    array = np.asarray(path.numpy()[::-1], dtype=">f8")  # of an order that torch does not take
    assert audit(None, array[::-1], kind="path", energy=energy)["energy"] == wanted["energy"]


def test_what_writes_to_its_argument_is_measured_as_what_does_not() -> None:
    u = torch.randn(5, 2)
    before, wanted = u.clone(), audit(grown, u, energy=energy)["energy"]
    place = torch.empty(5, 2)
    assert audit(lambda x: x.mul_(1.01), u, energy=energy)["energy"] == wanted
    assert audit(lambda x: torch.mul(x, 1.01, out=place), u, energy=energy)["energy"] == wanted
    assert audit(grown, u, energy=lambda x: x.square_().sum(-1))["energy"] == wanted
    swirl = audit(lambda x: x.mul_(2.0), u, kind="field")
    assert swirl["divergence"].mean == pytest.approx(4 / math.sqrt(8))
    assert torch.equal(u, before)


def test_laws_are_as_broken_in_float32_of_any_size() -> None:
    """Squares of 1e-30 and 1e30 are 0 and infinite in float32: sizes are not taken in it."""
    u = torch.randn(5, 2, dtype=torch.float32)
    for scale in (1.0, 1e-30, 1e30):
        found = audit(grown, u, energy=lambda x, s=scale: s * energy(x), steps=1)["energy"]
        wanted = (1.01**2 - 1) * energy(u) / (0.5 * ((1.01**4 + 1) * energy(u).square()).mean()).sqrt()
        assert found.mean == pytest.approx(float(wanted.square().mean().sqrt()), rel=1e-4)
    fields = 1e-30 * torch.stack([torch.ones(2, 16), 2 * torch.ones(2, 16)]).float()
    assert audit(None, fields, kind="path", dx=1e-9)["total"].mean == pytest.approx(2 / 3)
    many = torch.rand(2, 3, 4000, dtype=torch.float32)
    many[1] = many[0].flip(-1)  # whose sums in float32 would differ by rounding
    assert audit(None, many, kind="path", dx=1.0)["total"].worst < 1e-14


def vortex() -> Tensor:
    """Taylor-Green's flow on a grid of 12 x 16, [T, B, n, m, 2], stretched so that it has a divergence."""
    a, b = (2 * math.pi * torch.arange(n) / n for n in (12, 16))
    a, b = torch.meshgrid(a, b, indexing="ij")
    return torch.stack([a.sin() * b.cos(), -2 * a.cos() * b.sin()], -1).expand(3, 2, 12, 16, 2)


def test_channels_stand_first_or_last_and_a_spacing_an_axis() -> None:
    u = vortex()
    steps = (1 / 12, 1 / 16)
    wanted = audit(None, u, kind="path", dx=steps)
    assert wanted.about == (
        "Samples: 2; steps: 2; states of shape (12, 16, 2), read as fields on a grid of 12 x 16 with 2 channels, "
        "taken for a vector"
    )
    assert wanted["divergence"].mean > 0.1
    first = u.movedim(-1, 2)
    data = Gridded(Trajectories(torch.arange(3.0), first.transpose(0, 1)), steps, ("Vx", "Vy"))
    for found in (
        audit(None, u, kind="path", dx=steps, channels="last"),
        audit(None, first, kind="path", dx=steps, channels="first"),
        audit(None, data, kind="path"),
        audit(None, data.path, kind="path", dx=data.dx),
    ):
        assert found.residuals == wanted.residuals
    assert audit(None, u[..., 0], kind="path", dx=0.1).about.endswith("on a grid of 12 x 16")
    one = audit(None, u.movedim(-1, 2), kind="path", dx=0.1, channels="first")
    assert one["total"].samples == 2
    inside = audit(None, u, kind="path", dx=steps, periodic=False)["divergence"]
    assert 0 < inside.mean != wanted["divergence"].mean


@pytest.mark.parametrize(
    ("shape", "dx", "channels"),
    [
        ((2, 12, 16), 0.1, None),  # two channels, or a grid of three axes
        ((12, 16, 3), 0.1, None),
        ((64, 3), 0.1, None),
        ((3, 64), 0.1, None),
        ((4, 4, 4), 0.1, None),
        ((5, 64, 64), (0.1, 0.1), None),
        ((64, 64, 12), (0.1, 0.1), None),
        ((4, 8, 8), (0.1, 0.1), None),
    ],
)
def test_what_can_be_read_in_two_ways_is_not_guessed(shape: Any, dx: Any, channels: Any) -> None:
    with pytest.raises(PhysicsError, match=r"may come first or last|may have channels"):
        audit(None, torch.rand(2, 3, *shape), kind="path", dx=dx)
    for told in ("first", "last"):
        assert audit(None, torch.rand(2, 3, *shape), kind="path", dx=dx, channels=told)["total"].samples == 3


def test_a_field_says_what_it_cannot_be_asked() -> None:
    found = audit(torch.sin, torch.randn(3, 2), kind="field", energy=energy, dx=0.1)
    assert set(found.left_out) == {"energy", "total"}
    with pytest.raises(PhysicsError, match="nothing moves in a field"):
        found["energy"]


def fields_beside(x: Tensor) -> Tensor:
    """Depends on the other points by what cancels in the sum of the components."""
    return x + (x.mean(0) * torch.tensor([1.0, -1.0])).sum() * torch.tensor([1.0, -1.0])


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
        (lambda: audit(lambda u: u, torch.randn(3, 4), dx="x"), "neither a spacing"),
        (lambda: audit(lambda u: u, torch.randn(3, 4), dx=(0.1, math.nan)), "spacings are positive"),
        (lambda: audit(lambda u: u, torch.randn(3, 16), dx=(0.1, 0.1, 0.1)), "a grid of 3 axes"),
        (lambda: audit(lambda u: u, torch.randn(3, 16), dx=0.1, channels="first"), "a grid of 0 axes"),
        (lambda: audit(lambda u: u, torch.randn(3, 2, 9, 2), dx=0.1, channels="last"), "take 3 cells an axis"),
        (lambda: audit(lambda u: u, torch.randn(3, 4), dx=0.1, channels="middle"), "channels 'middle' is not one of"),
        (lambda: audit(lambda u: u, torch.randn(3, 4), steps=1.5), "at least one step, not 1.5"),
        (lambda: audit(lambda u: u, torch.ones(3, 4, dtype=torch.int64)), "not torch.int64"),
        (lambda: audit(lambda u: u, np.array(["a"])), "states are an array of <U1"),
        (lambda: audit(lambda u: u, [[1.0, 2.0]]), "states are list"),
        (lambda: audit(None, torch.randn(3, 0, 2), kind="path"), "B at least 1"),
        (lambda: audit(lambda u: u, torch.randn(3, 2), energy=3.0), "the energy is float"),
        (lambda: audit(lambda u: u, torch.randn(3, 2), energy=lambda u: u.sum(-1).numpy()), "energy is ndarray of 3"),
        (
            lambda: audit(lambda u: u * 2, torch.ones(3, 2), energy=lambda u: (u.sum(-1) - 16).log()),
            "energy of sample 0 after 0 steps is not finite",
        ),
        (lambda: audit(lambda u: u, torch.randn(3, 2), energy=lambda u: 1e200 * u.sum(-1)), "too large for float64"),
        (lambda: audit(lambda x: x.detach(), torch.randn(3, 2), kind="field"), "no gradient leads"),
        (
            lambda: audit(lambda x: x.abs().sqrt(), torch.zeros(3, 2), kind="field"),
            "Jacobian of the field is not finite",
        ),
        (lambda: audit(nn.BatchNorm1d(2), torch.randn(3, 2), kind="field"), "call .eval()"),
        (lambda: audit(fields_beside, torch.randn(3, 2), kind="field"), "depends on the others"),
        (lambda: audit(lambda x: x[:, :1], torch.randn(3, 2), kind="field"), "one vector a point"),
        (lambda: audit(EnergyModel(MLPEnergy(2, hidden=4), Symplectic()), torch.randn(3, 2)), "audit what it predicts"),
    ],
)
def test_refused(call: Any, words: str) -> None:
    with pytest.raises(PhysicsError, match=words):
        call()
