"""Several monitors on several models in one process: none accuses another's run, each finds what is its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from experiments.silent_bugs.nets import Watched, data, gradient, loss_of, perceptron, sgd

pytestmark = pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning")
LAST, AT = 12, 8


def together(fault: Callable[[nn.Module], None] | None = None) -> tuple[Watched, Watched]:
    """A teacher and a student of the same shapes that step in turn; the student learns from the teacher too."""
    (x, y), models = data(), (perceptron(0), perceptron(1))
    watched = tuple(Watched(model) for model in models)
    first, second = sgd(models[0]), torch.optim.AdamW(models[1].parameters(), lr=1e-3)
    for k in watched[0].until(LAST):
        watched[1].iteration = k
        first.zero_grad()
        loss_of(models[0], k, x, y).backward()
        second.zero_grad()
        with torch.no_grad():
            taught = models[0](x).softmax(-1)
        F.cross_entropy(models[1](x), taught).backward()
        if fault is not None and k == AT:
            fault(models[1])
        first.step()
        second.step()
    return watched[0], watched[1]


def test_none_accuses_the_other() -> None:
    for watched in together():
        assert [str(fault) for _, fault in watched.faults] == []
        assert watched.monitor.step == LAST


def test_each_finds_its_own() -> None:
    def turn(model: nn.Module) -> None:
        gradient(next(iter(model.parameters()))).neg_()

    healthy, faulty = together(turn)
    assert healthy.faults == []
    assert [(k, fault.cause) for k, fault in faulty.faults] == [(AT, "modified gradient")]
