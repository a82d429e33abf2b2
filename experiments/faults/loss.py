"""Faults of the loss: terms that do not belong to it."""

from __future__ import annotations

import random

import torch

from experiments.faults.injection import (
    fault,
    random_loop,
)
from experiments.faults.loop import Loop, add_to_loss


@fault("penalty")
def penalty_beside_weight_decay(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    size = 10 ** r.uniform(-3, -2)
    add_to_loss(run, at, lambda _: size / 2 * torch.stack([p.square().sum() for p in run.model.parameters()]).sum())
    return run


@fault("other loss")
def term_added_to_the_loss(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    add_to_loss(run, at, lambda y: 0.1 * y.logsumexp(1).square().mean())
    return run
