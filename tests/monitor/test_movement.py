"""A run in which nothing moves any more is told, unless there is nothing left to do."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from experiments.silent_bugs.nets import Watched, data, perceptron


@pytest.mark.parametrize(("left", "told"), [(0.5, ["dead gradient"]), (0.0, [])])
@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, lr=0.05), lambda p: torch.optim.AdamW(p, lr=1e-3)])
def test_a_loss_that_no_weight_changes_is_missed_and_one_of_zero_is_not(make, left: float, told: list[str]) -> None:
    model, (x, y) = perceptron(), data()
    watched, optimizer = Watched(model), make(model.parameters())
    for k in watched.until(45):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        (loss if k < 10 else 0 * loss + left).backward()
        optimizer.step()
    assert [fault.cause for _, fault in watched.faults] == told
