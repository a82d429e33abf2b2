"""A `GradScaler` whose scale is taken off twice, from the first step on or later; signs that turn round."""

from __future__ import annotations

import pytest
import torch

from experiments.silent_bugs.bug import AT
from experiments.silent_bugs.nets import Watched, data, gradient, loss_of, perceptron, steps

pytestmark = pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning")


def scaled(by_hand_from: int, fused: bool, init: float = 2.0**16, last: int = 6) -> Watched:
    """A loop that divides by the scale, which the scaler takes off as well."""
    model, (x, y) = perceptron(), data()
    watched = Watched(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=init, growth_interval=2)
    for k in watched.until(last):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, k, x, y)).backward()
        if k >= by_hand_from:
            for p in model.parameters():
                gradient(p).div_(scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
    return watched


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("start", [1, 4])
def test_a_scale_that_is_taken_off_twice(fused: bool, start: int) -> None:
    (iteration, fault), *_ = scaled(start, fused).faults
    assert (iteration, fault.cause) == (start, "modified gradient")
    assert "taken off twice" in str(fault)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("init", [2.0**16, 2.0**32, 1.0])
def test_a_scale_that_is_taken_off_once(fused: bool, init: float) -> None:
    """However large it is, and while it grows."""
    assert [str(fault) for _, fault in scaled(100, fused, init).faults] == []


@pytest.mark.parametrize("index", [0, 2])
def test_gradients_that_turn_round(index: int) -> None:
    """Of an even number of elements: their checksum stays as it was."""
    model = perceptron()
    watched = Watched(model)
    p = list(model.parameters())[index]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def turn(k: int) -> None:
        if k == AT:
            gradient(p).data.neg_()

    steps(watched, model, optimizer, AT + 2, gradient=turn)
    (iteration, fault), *_ = watched.faults
    assert (iteration, fault.cause) == (AT, "modified gradient")
