"""A forward that sets its own weights is served: nothing is changed, laws hold, and only foreign writes are told."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech

STEPS = 6


class Table(nn.Module):
    """Shortens the rows that it is about to read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e, self.a, self.b = nn.Embedding(9, 4, max_norm=0.5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, i: Tensor) -> Tensor:
        out: Tensor = self.b(F.relu(self.a(self.e(i))))
        return out


class Projected(Table):
    """Projects weights at its begin, by a write that PyTorch does not count."""

    def forward(self, i: Tensor) -> Tensor:
        self.a.weight.data.clamp_(-0.2, 0.2)
        return super().forward(i)


def train(model: nn.Module, end: Callable[[int], Any] = lambda k: None) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for k in range(STEPS):
        i = (torch.arange(12) * (k + 1)) % 9
        optimizer.zero_grad()
        F.cross_entropy(model(i), i % 3).backward()
        optimizer.step()
        with torch.no_grad():
            model(torch.arange(k, k + 3))  # it writes in evaluation, too
        end(k)


@pytest.mark.parametrize("kind", [Table, Projected])
def test_it_is_served_and_accused_of_nothing(kind: type[Table]) -> None:
    bare, model = kind(), kind()
    train(bare)
    probe = neuromech.instrument(model)
    monitor = probe.monitor(on_fault=lambda fault: None)
    train(model)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), bare.parameters(), strict=True))
    assert [str(fault) for fault in monitor.faults] == []
    assert probe.history.residual.max() < 1e-5
    assert "the forward itself sets" in probe._record.meta["loss"]
    assert "a.weight[i], a.bias[i] / b.weight[:, i]" in [s.name for s in probe.symmetries]
    assert set(probe.events.kind) == {"practice"}
    assert "the forward itself sets" in probe.events.message.iloc[0]


def test_another_hand_on_the_same_weights_is_told() -> None:
    model = Table()
    monitor = neuromech.instrument(model).monitor(on_fault=lambda fault: None)

    @torch.no_grad()
    def edit(k: int) -> None:
        if k == 3:
            model.e.weight[2].mul_(0.5)

    train(model, edit)
    assert [(fault.step, fault.suspects[0].key) for fault in monitor.faults] == [(5, "edited weights")]
    assert monitor.faults[0].suspects[0].where == ("e.weight",)


def test_two_values_of_one_weight_in_a_forward_are_refused_in_words() -> None:
    class Twice(Table):
        def forward(self, i: Tensor) -> Tensor:
            early = self.b.bias.sum()
            with torch.no_grad():
                self.b.bias.mul_(0.9)
            return super().forward(i) + early

    model = Twice()
    probe = neuromech.instrument(model)
    with pytest.warns(neuromech.NeuromechWarning, match=r"writes to its own parameter b\.bias"):
        train(model)
    assert probe.history.empty
