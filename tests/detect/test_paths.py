"""Forwards that take several ways: what is claimed has to hold on all of them, and the page says why."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from neuromech import find_symmetries
from neuromech.errors import DetectionError


class Dropped(nn.Module):
    """A layer that is left out at random (LayerDrop)."""

    def __init__(self, dropped: Callable[[], bool]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.dropped = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), dropped

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        if not self.dropped():
            h = F.relu(self.b(h))
        return self.c(h)


class Stateful(nn.Module):
    """Backpropagation through time, truncated: the state is kept for the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.o, self.h = nn.Linear(4, 4), nn.Linear(3, 4), nn.Linear(4, 2), None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(5, 4) if self.h is None else self.h
        for t in range(2):
            h = F.relu(self.w(h) + self.u(x[:, t]))
        self.h = h.detach()
        return self.o(h)


@pytest.mark.parametrize(
    "dropped",
    [
        lambda: bool(torch.rand(()) < 0.02),
        lambda: torch.rand(()).item() < 0.02,
        lambda: random.random() < 0.3,
        lambda: np.random.rand() < 0.3,
    ],
    ids=["torch", "a number of torch", "Python", "NumPy"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_layer_that_is_dropped_at_random(dropped: Callable[[], bool], seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    before = random.getstate()
    found = find_symmetries(Dropped(dropped), torch.randn(4, 6))
    assert found.dimension["scaling"] == 8
    up, down = found[0].name.split(" / ")
    assert up == "a.weight[i], a.bias[i], b.weight[i], b.bias[i]"
    assert down in ("b.weight[:, i], c.weight[:, i]", "c.weight[:, i], b.weight[:, i]")
    assert not found.rejected
    assert any("random numbers decide" in note for note in found.notes)
    assert random.getstate() == before


def test_dropout_is_no_decision() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    found = find_symmetries(model, torch.randn(5, 3))
    assert found.dimension["scaling"] == 4
    assert not any("random" in note for note in found.notes)


def test_a_state_that_is_kept_is_data_at_the_next_call() -> None:
    model = Stateful()
    found = find_symmetries(model, torch.randn(5, 2, 3))
    assert model.h is None
    assert found.dimension["scaling"] == 0
    assert any("keeps h for its next call" in note for note in found.notes)
    model(torch.randn(5, 2, 3))
    assert find_symmetries(model, torch.randn(5, 2, 3)).dimension["scaling"] == 0


def test_claims_hold_for_all_examples() -> None:
    def forward(m: Net, x: Tensor, deep: bool = False) -> Tensor:
        h = F.relu(m.a(x))
        return m.c(F.relu(m.b(h)) if deep else h)

    model = Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2))
    x = torch.randn(5, 3)
    shallow, deep = {"x": x}, {"x": x, "deep": True}
    assert find_symmetries(model, shallow).dimension["scaling"] == 4
    assert find_symmetries(model, deep).dimension["scaling"] == 8
    both = find_symmetries(model, [shallow, deep])
    assert both.dimension["scaling"] == 4
    assert "what is claimed holds for all 2 examples" in both.notes
    assert not both.rejected


def test_targets_go_with_examples() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x, y = torch.randn(5, 3), torch.randint(2, (5,))
    assert find_symmetries(model, [x, x[:2]], F.cross_entropy, [y, y[:2]]).dimension["translation"] == 5
    with pytest.raises(DetectionError, match="2 examples need a list of as many targets"):
        find_symmetries(model, [x, x], F.cross_entropy, y)
    with pytest.raises(DetectionError, match="list of examples is empty"):
        find_symmetries(model, [])
