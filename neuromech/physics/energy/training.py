"""One training loop for every scheme: least squares of the velocity between successive states; durable, resumable."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuromech.errors import PhysicsError
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
    error = observed - scheme(pairs.before, pairs.after, pairs.dt)
    return (error**2).mean()


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
    if len(pairs) == 0:
        raise PhysicsError("there are no pairs of states to train on")
    parameter = next(scheme.parameters(), None)
    if parameter is None:
        raise PhysicsError("the model has no parameters, so there is nothing to train")
    if (parameter.dtype, parameter.device) != (pairs.before.dtype, pairs.before.device):
        raise PhysicsError(
            f"the pairs are {pairs.before.dtype} on {pairs.before.device}, the parameters {parameter.dtype} on "
            f"{parameter.device}: bring both to one by .to(...)"
        )
    optimizer = torch.optim.Adam(scheme.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    draw = torch.Generator().manual_seed(training.seed)
    losses: list[float] = []
    if checkpoint and checkpoint.exists():
        losses = _resume(checkpoint, scheme, optimizer, draw)
    for step in range(len(losses), training.steps):
        chosen = pairs
        if training.batch is not None and training.batch < len(pairs):
            rows = torch.randint(len(pairs), (training.batch,), generator=draw)
            chosen = pairs.take(rows.to(pairs.before.device))
        if training.cosine:
            optimizer.param_groups[0]["lr"] = training.lr * (1 + math.cos(math.pi * step / training.steps)) / 2
        optimizer.zero_grad()
        value = loss(scheme, chosen)
        if not torch.isfinite(value):
            raise PhysicsError(
                f"the loss is {value.item()} at step {step}: lower lr ({training.lr}), or look at the data; the "
                "parameters are those before this step"
            )
        value.backward()
        optimizer.step()
        losses.append(value.item())
        if checkpoint and (step + 1) % training.save_every == 0:
            _save(checkpoint, scheme, optimizer, draw, losses)
        if progress:
            progress(step, losses[-1])
    if checkpoint:
        _save(checkpoint, scheme, optimizer, draw, losses)
    return losses


def _save(
    path: Path, scheme: MotionScheme, optimizer: torch.optim.Optimizer, draw: torch.Generator, losses: list[float]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part")
    state = {"scheme": scheme.state_dict(), "optimizer": optimizer.state_dict(), "draw": draw.get_state()}
    torch.save(state | {"losses": losses}, whole)
    os.replace(whole, path)


def _resume(path: Path, scheme: MotionScheme, optimizer: torch.optim.Optimizer, draw: torch.Generator) -> list[float]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        scheme.load_state_dict(state["scheme"])
        optimizer.load_state_dict(state["optimizer"])
        draw.set_state(state["draw"])
    except (RuntimeError, KeyError, EOFError, OSError) as error:
        raise PhysicsError(
            f"{path} is no state of this training ({error}): give it another file, or delete it to begin anew"
        ) from error
    return list(state["losses"])
