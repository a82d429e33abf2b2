"""Claims that the run's own gradients do not keep are withdrawn, and are counted nowhere."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from neuromech import NeuromechWarning, find_symmetries


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    return nn.Sequential(*layers).double()


def test_what_is_withdrawn_is_counted_no_more() -> None:
    model, x, y = perceptron(), torch.randn(8, 3, dtype=torch.float64), torch.tensor([0, 1] * 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = model[0].weight
    assert isinstance(weight, nn.Parameter)
    probe = neuromech.instrument(model)
    loss = F.cross_entropy(model(x), y) + 0.1 * weight.square().sum()
    with pytest.warns(NeuromechWarning, match="withdrawn"):
        loss.backward()
    optimizer.step()
    found = probe.symmetries
    probe.remove()

    assert [s.name for s in found.rejected] == ["0.weight[i], 0.bias[i] / 2.weight[:, i]"]
    disjoint = {"scaling": 0, "translation": 0, "matrix": 0}  # the families that are left share no element
    for s in found:
        disjoint["translation" if s.kind == "translation" else "scaling"] += s.size
    assert found.dimension == disjoint == {"scaling": 4, "translation": 5, "matrix": 0}


def test_a_copy_without_the_model_counts_nothing_rather_than_wrongly() -> None:
    found = find_symmetries(perceptron(), torch.randn(8, 3, dtype=torch.float64))
    first, *others = found
    assert found.dimension == {"scaling": 9, "translation": 0, "matrix": 0}
    less = found.withdrawn([first])
    assert less.dimension == {"scaling": sum(s.size for s in others), "translation": 0, "matrix": 0}
    assert [*less.rejected] == [first]
    assert [*less] == others
    copied = pickle.loads(pickle.dumps(found))
    assert copied.dimension == found.dimension
    assert copied.withdrawn([first]).dimension == {}
