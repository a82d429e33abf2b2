"""Faults of the model: wrong backwards, what is cut off, frozen, replaced or left in evaluation."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import nn

from experiments.faults.injection import (
    fault,
    random_loop,
    random_weight,
)
from experiments.faults.loop import Loop
from experiments.faults.networks import Activation, Path, rectifier

# ReLU whose backward lets a tenth of the gradient through where the unit is off, and one that forgets a factor.
WRONG = (rectifier(lambda g, x: torch.where(x > 0, g, 0.1 * g)), rectifier(lambda g, x: 0.9 * g * (x > 0)))


@fault("wrong backward")
def wrong_custom_backward(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    acts = [m for m in run.model.modules() if isinstance(m, Activation)]
    wrong = r.choice(WRONG)
    run.at(at, "begin", lambda: setattr(r.choice(acts), "function", wrong))
    return run


@fault("wrong backward")
def backward_hook_that_changes_a_gradient(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    act = r.choice([m for m in run.model.modules() if isinstance(m, Activation)])
    hook: Any = lambda m, into, out: (0.5 * into[0],)  # noqa: E731
    run.at(at, "begin", lambda: act.register_full_backward_hook(hook))
    return run


@fault("wrong backward", from_the_start=True)
def wrong_custom_backward_from_the_start(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed)
    act = r.choice([m for m in run.model.modules() if isinstance(m, Activation)])
    act.function = r.choice(WRONG)
    return run.watch()


@fault("detached")
def detached_branch(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    (path,) = [m for m in run.model.modules() if isinstance(m, Path)]
    run.at(at, "begin", lambda: setattr(path, "function", torch.detach))
    run.to_none = r.random() < 0.5
    return run


@fault("frozen")
def frozen_layer(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    p = random_weight(run, r)

    def freeze() -> None:
        p.requires_grad_(False)
        p.grad = None

    run.at(at, "begin", freeze)
    return run


@fault("evaluation mode")
def forgotten_evaluation_mode(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed, models=("convolutional", "normed")).watch()
    run.at(at, "begin", run.model.eval)
    return run


@fault("replaced")
def replaced_parameter(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    m = r.choice([m for m in run.model.modules() if isinstance(m, nn.Linear)])
    run.at(at, "begin", lambda: setattr(m, "weight", nn.Parameter(m.weight.detach().clone())))
    return run
