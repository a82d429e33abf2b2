"""Schedulers asked ahead, against the same schedulers stepped."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from neuromech import InstrumentError
from neuromech.optimizers import rates_ahead

MADE: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: schedulers.LambdaLR(o, lambda k: 1 / (k + 1)),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 50),
    "step": lambda o: schedulers.StepLR(o, 7, 0.5),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 0.3, 60),
    "warmup": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, 1, 10), schedulers.ExponentialLR(o, 0.9)], [10]
    ),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.1, 1, 10), schedulers.ExponentialLR(o, 0.9)]
    ),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 10),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 5),
}


def optimizer() -> torch.optim.SGD:
    groups = [{"params": [nn.Parameter(torch.zeros(3))], "lr": lr} for lr in (0.1, 1.0)]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # torch 2.6 says it of its own doing
@pytest.mark.parametrize("name", MADE)
def test_what_is_foretold_comes(name: str) -> None:
    mine = optimizer()
    scheduler = MADE[name](mine)
    for _ in range(3):
        mine.step()
        scheduler.step()
    before = repr([{k: x for k, x in g.items() if k != "params"} for g in mine.param_groups])
    random = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = rates_ahead(scheduler, 20)
    assert repr([{k: x for k, x in g.items() if k != "params"} for g in mine.param_groups]) == before
    assert torch.equal(torch.get_rng_state(), random)
    came: list[list[float]] = [[], []]
    for _ in range(20):
        for rates, group in zip(came, mine.param_groups, strict=True):
            rates.append(group["lr"])
        mine.step()
        scheduler.step()
    assert told == came


def test_what_cannot_be_asked_says_so() -> None:
    with pytest.raises(InstrumentError, match="waits for a metric"):
        rates_ahead(schedulers.ReduceLROnPlateau(optimizer()), 5)  # type: ignore[arg-type]
    with pytest.raises(InstrumentError, match="not a str"):
        rates_ahead("cosine", 5)  # type: ignore[arg-type]

    class Waits(schedulers.LRScheduler):
        def get_lr(self) -> list[float]:  # type: ignore[override]
            if self.last_epoch > 2:
                raise RuntimeError("no validation loss yet")
            return [0.1, 0.1]

    with pytest.raises(InstrumentError, match="no validation loss yet"):
        rates_ahead(Waits(optimizer()), 5)
