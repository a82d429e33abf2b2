"""What a public silent bug is: where it was reported, what is to be named, and a run with it and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from experiments.silent_bugs.nets import Watched, data

AT, STEPS = 8, 16
X, Y = data()


@dataclass(frozen=True)
class Bug:
    """`source`: where it was reported; `cause`: what is to be named; `at`: the iteration in which it sets in."""

    name: str
    source: str
    cause: str
    at: int
    run: Callable[[bool], Watched]


BUGS: dict[str, Bug] = {}


def bug(source: str, cause: str, at: int = AT) -> Callable[[Callable[[bool], Watched]], Callable[[bool], Watched]]:
    def enter(run: Callable[[bool], Watched]) -> Callable[[bool], Watched]:
        name = run.__name__.replace("_", " ")
        BUGS[name] = Bug(name, source, cause, at, run)
        return run

    return enter


def adamw(model: nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), **({"lr": 2e-3, "weight_decay": 1e-2} | options))
