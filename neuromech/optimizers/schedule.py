"""Asking a scheduler ahead: the learning rates that it will set, found by letting a copy of it run."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import Optimizer

from neuromech.errors import InstrumentError
from neuromech.optimizers.settings import number


def rates_ahead(scheduler: LRScheduler, steps: int) -> list[list[float]]:
    """The learning rates of the next `steps` steps, one list for each param group; the first is that of now.

    The scheduler is taken to step once an optimizer step. It, its optimizer and the random numbers stay as they are.
    Raises `InstrumentError` for one that waits for what training brings (`ReduceLROnPlateau`) or cannot be copied.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        raise InstrumentError(
            "ReduceLROnPlateau waits for a metric and cannot be asked ahead: without scheduler= the learning rate is "
            "taken to stay"
        )
    if not isinstance(scheduler, LRScheduler):
        raise InstrumentError(f"scheduler= takes one of torch.optim.lr_scheduler, not a {type(scheduler).__name__}")
    try:
        mine = _without_weights(scheduler, _Steps(scheduler.optimizer))
        out = [[number(group["lr"])] for group in mine.optimizer.param_groups]
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer steps in between
            for _ in range(steps - 1):
                mine.step()
                for rates, group in zip(out, mine.optimizer.param_groups, strict=True):
                    rates.append(number(group["lr"]))
    except Exception as error:
        raise InstrumentError(
            f"{type(scheduler).__name__} cannot be asked ahead ({type(error).__name__}: {error}): without scheduler= "
            "the learning rate is taken to stay"
        ) from error
    return out if steps > 0 else [[] for _ in out]


class _Steps(Optimizer):
    """The param groups of an optimizer, with one number each for parameters."""

    def __init__(self, optimizer: Optimizer) -> None:
        groups = [
            {**{k: _plain(x) for k, x in group.items() if k != "params"}, "params": [torch.zeros(1)]}
            for group in optimizer.param_groups
        ]
        super().__init__(groups, dict(optimizer.defaults))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass


def _without_weights(scheduler: Any, optimizer: Optimizer) -> Any:
    """A copy of a scheduler, and of those that it is made of, that sets the rates of another optimizer."""
    mine = copy.copy(scheduler)
    for key, value in vars(scheduler).items():
        if key == "optimizer":
            mine.optimizer = optimizer
        elif isinstance(value, LRScheduler):
            setattr(mine, key, _without_weights(value, optimizer))
        elif isinstance(value, (list, tuple)) and any(isinstance(x, LRScheduler) for x in value):
            setattr(mine, key, type(value)([_without_weights(x, optimizer) for x in value]))
        elif isinstance(value, (list, dict)):
            setattr(mine, key, copy.copy(value))
    # torch counts the calls of `step` on instances: the copy is to count its own.
    mine.__dict__.pop("step", None)
    return mine


def _plain(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, torch.Tensor) else x
