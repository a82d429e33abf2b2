"""One training loop for every scheme: least squares of the velocity between successive states; durable, resumable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.descent import Descent
from neuromech.physics.energy.data import Pairs
from neuromech.physics.energy.integrators import MotionScheme
from neuromech.physics.energy.model import slope


@dataclass(frozen=True)
class Training:
    """Adam, 1e-3, as in the papers. `batch` None: all pairs at every step. `cosine`: lr falls to 0 in the end."""

    steps: int = 2000
    batch: int | None = 200
    lr: float = 1e-3
    cosine: bool = False
    weight_decay: float = 0.0
    seed: int = 0
    save_every: int = 200

    def __post_init__(self) -> None:
        if not all(isinstance(n, int | None) for n in (self.steps, self.batch, self.save_every)):
            raise PhysicsError(f"steps, batch and save_every are whole numbers; found {self}")
        if self.steps < 0 or self.save_every < 1 or (self.batch is not None and self.batch < 1):
            raise PhysicsError(
                f"training has steps ({self.steps}), a batch ({self.batch}) of pairs, and is saved every few "
                f"steps ({self.save_every})"
            )
        if not self.lr > 0 or self.weight_decay < 0:
            raise PhysicsError(f"lr is positive and weight decay not negative; found {self.lr}, {self.weight_decay}")


def loss(scheme: MotionScheme, pairs: Pairs) -> Tensor:
    """mean |(u1 - u0)/dt - scheme(u0, u1, dt)|^2 over all entries."""
    observed = slope(pairs.before, pairs.after, pairs.dt)
    error = observed - scheme(pairs.before, pairs.after, pairs.dt, **pairs.acting())
    loss: Tensor = (error**2).mean()
    return loss


def fit(
    scheme: MotionScheme,
    pairs: Pairs,
    training: Training | None = None,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[int, float], object] | None = None,
) -> list[float]:
    """Train `scheme` in place; the loss of every step.

    With a `checkpoint` the state is written there now and then, whole or not at all, and a run that died goes on from
    it to the same numbers. `progress(step, loss)` is called after every step. Raises `PhysicsError` when the loss is
    not finite, with the parameters as they were before that step.
    """
    training = training or Training()
    if not isinstance(pairs, Pairs):
        raise PhysicsError(f"fit takes Pairs of states, as trajectories.pairs() gives them, not {type(pairs).__name__}")
    if len(pairs) == 0:
        raise PhysicsError("there are no pairs of states to train on")
    parameter = next(scheme.parameters(), None)
    if parameter is None:
        raise PhysicsError("the model has no parameters, so there is nothing to train")
    if (parameter.dtype, parameter.device) != (pairs.before.dtype, pairs.before.device):
        raise PhysicsError(
            f"the pairs are {pairs.before.dtype} on {pairs.before.device}, the parameters {parameter.dtype} on "
            f"{parameter.device}: move both with .to(...)"
        )
    optimizer = torch.optim.Adam(scheme.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    draw = torch.Generator().manual_seed(training.seed)
    descent = Descent(scheme, optimizer, checkpoint, draw)

    def objective() -> Tensor:
        if training.batch is None or training.batch >= len(pairs):
            return loss(scheme, pairs)
        rows = torch.randint(len(pairs), (training.batch,), generator=draw)
        return loss(scheme, pairs.take(rows.to(pairs.before.device)))

    for step in range(len(descent.losses), training.steps):
        cosine = (1 + math.cos(math.pi * step / training.steps)) / 2 if training.cosine else 1.0
        value = descent.step(objective, training.lr * cosine)
        if (step + 1) % training.save_every == 0:
            descent.save()
        if progress:
            progress(step, value)
    descent.save()
    return descent.losses
