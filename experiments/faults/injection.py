"""The catalogue of faults, how one enters it, and the loops that they are injected into."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from experiments.faults.loop import Loop, loop

Inject = Callable[[random.Random, int, int], Loop]


@dataclass(frozen=True)
class Injection:
    """`cause`: the key of the true cause; `make(random, seed, at)`: the loop, with the fault planned."""

    name: str
    cause: str
    make: Inject
    from_the_start: bool = False


INJECTIONS: dict[str, Injection] = {}


def fault(cause: str, from_the_start: bool = False) -> Callable[[Inject], Inject]:
    def enter(make: Inject) -> Inject:
        name = make.__name__.replace("_", " ")
        INJECTIONS[name] = Injection(name, cause, make, from_the_start)
        return make

    return enter


ANY_MODEL = ("perceptron", "convolutional", "residual", "transformer", "normed")
ANY_OPTIMIZER = ("sgd", "momentum", "nesterov", "adam", "adamw")
DTYPES = (torch.float32, torch.float32, torch.float64)


def random_loop(r: random.Random, seed: int, optimizers: tuple[str, ...] = ANY_OPTIMIZER, **options: Any) -> Loop:
    models = options.pop("models", ANY_MODEL)
    return loop(r.choice(models), r.choice(optimizers), r.choice(DTYPES), seed, **options)


def random_weight(run: Loop, r: random.Random) -> nn.Parameter:
    return r.choice([p for p in run.model.parameters() if p.ndim > 1])


def settings_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    skip = {"params", "decoupled_weight_decay"}
    return {k: v for k, v in optimizer.param_groups[0].items() if k not in skip}
