"""Conservation laws are trained under `neuromech.instrument` as any model is."""

import pytest
import torch

import neuromech
from neuromech.errors import NeuromechWarning
from neuromech.physics import Ball, DivergenceFree, MovingMixture, NeuralConservationLaw, mlp


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
