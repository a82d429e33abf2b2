"""Models of physics are trained under `neuromech.instrument` as any model is."""

import pytest
import torch
from torch import nn

import neuromech
from neuromech.errors import NeuromechWarning
from neuromech.physics import (
    Ball,
    ConvEnergy,
    DivergenceFree,
    EnergyModel,
    Laplacian,
    MLPEnergy,
    MovingMixture,
    NeuralConservationLaw,
    Symplectic,
    mlp,
)
from tests.families import fast


def test_weights_of_a_mixture_have_a_charge_and_it_is_predicted() -> None:
    """Softmax weights do not see a common shift: their sum moves by weight decay alone, as the exact law says."""
    law = NeuralConservationLaw(MovingMixture(2, 6, width=16))
    optimizer = torch.optim.SGD(law.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-2)
    t, x = torch.rand(64), torch.rand(64, 2)
    with neuromech.instrument(law) as probe:
        for _ in range(20):
            optimizer.zero_grad()
            (-law(t, x).density.log().mean()).backward()
            optimizer.step()
        (family,) = [s for s in probe.symmetries if "log_weights" in s.name]
        rows = probe.history.query(f"name == {family.name!r} and member == -1")
    assert family.kind == "translation"
    assert rows["step"].max() == 20
    assert rows["residual"].max() < 1e-5
    assert (rows["observed"].iloc[0] - rows["observed"].iloc[-1]) < -1e-3


def test_a_field_does_not_see_the_last_bias_of_its_potential() -> None:
    field = DivergenceFree(mlp(3, 3, 8, 1), 3)
    found = neuromech.find_symmetries(field, torch.randn(5, 3))
    assert [str(name) for name in found.inactive] == ["potential.2.bias"]


def test_between_walls_the_last_bias_is_seen_and_training_is_followed() -> None:
    """A constant matrix times a function that vanishes on the wall is a field; layers of known charges keep them."""
    field = DivergenceFree(mlp(4, 3, 8, 2), 3, conditions=1, domain=Ball(3))
    y = torch.cat([torch.rand(32, 1), Ball(3).sample(32)], 1)
    assert not neuromech.find_symmetries(field, y).inactive
    optimizer = torch.optim.SGD(field.parameters(), lr=1e-2)
    target = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).expand(32, 3), y[:, 1:])

    def trained() -> list[float]:
        losses = []
        with neuromech.instrument(field) as probe:
            for _ in range(30):
                optimizer.zero_grad()
                loss = (field(y) - target).square().mean()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            assert not probe.symmetries
        return losses

    with pytest.warns(NeuromechWarning, match="no symmetry was found"):  # tanh has none, and none is invented
        losses = trained()
    assert losses[-1] < losses[0]


def test_rescalings_of_an_energy_are_found_through_its_discrete_gradient(float64: None) -> None:
    """DH is what is trained. ReLU leaves it, like H, unchanged when a unit's factor moves to the next layer."""
    model = EnergyModel(MLPEnergy(2, 5, activation="relu"), Symplectic())
    before, after, target = torch.randn(3, 16, 2).unbind(0)

    def loss(out: torch.Tensor) -> torch.Tensor:
        return ((out - target) ** 2).mean()

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-3)
    probe = neuromech.instrument(model, loss=loss, example=(before, after), optimizer=optimizer)
    for _ in range(20):
        optimizer.zero_grad()
        loss(model(before, after)).backward()
        optimizer.step()
    found = {(s.kind, frozenset(s.parameters)) for s in probe.symmetries.symmetries}
    assert "energy.network.4.bias" in probe.symmetries.inactive  # a constant of H moves nothing
    names = [
        [f"energy.network.{k}.weight", f"energy.network.{k}.bias", f"energy.network.{k + 2}.weight"] for k in (0, 2)
    ]
    assert {("rescale", frozenset(n)) for n in names} <= found
    rows = probe.history.query("member == -1")
    assert rows["step"].max() == 20
    assert rows["residual"].max() < 1e-12
    assert (rows.groupby("name")["observed"].agg(lambda h: h.iloc[-1] - h.iloc[0]).abs() > 1e-6).all()


@pytest.mark.parametrize(("activation", "families"), fast([("relu", 2), ("tanh", 0)], [("relu", 2)]))
@pytest.mark.parametrize("ndim", fast([1, 2], [1]))
def test_rescalings_of_a_convolutional_energy(float64: None, ndim: int, activation: str, families: int) -> None:
    model = EnergyModel(ConvEnergy(ndim, 0.1, 4, activation=activation), Laplacian(0.1, ndim))
    found = neuromech.find_symmetries(model, tuple(torch.randn(2, 3, *[6] * ndim)))
    assert [s.kind for s in found.symmetries] == ["rescale"] * families
    assert "energy.network.4.bias" in found.inactive


def test_rescaled_by_hand(float64: None) -> None:
    """What the families say, done: the discrete gradient stays the same to rounding, for ReLU and its kin alone."""
    u, v = torch.randn(2, 16, 3).unbind(0)
    for activation, stays in ((nn.ReLU(), True), (nn.LeakyReLU(0.1), True), (nn.Tanh(), False)):
        network = nn.Sequential(nn.Linear(3, 6), activation, nn.Linear(6, 1), nn.Flatten(0))
        dg = neuromech.physics.discrete_gradient(network)
        before = dg(u, v)
        with torch.no_grad():
            network[0].weight.mul_(7.0)
            network[0].bias.mul_(7.0)
            network[2].weight.div_(7.0)
        assert torch.allclose(dg(u, v), before, rtol=1e-12, atol=1e-14) is stays
