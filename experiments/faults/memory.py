"""Faults of memory: one bit flips."""

from __future__ import annotations

import random
from typing import Any

from torch import Tensor

from experiments.faults.injection import (
    fault,
    random_loop,
    random_weight,
)
from experiments.faults.loop import Loop


def _flip(t: Tensor, r: random.Random) -> None:
    """Flip one bit of one element, as a fault of the memory does: no operation of torch takes part."""
    kinds: dict[int, Any] = {4: "int32", 8: "int64"}
    flat = t.detach().numpy().reshape(-1).view(kinds[t.element_size()])
    flat[r.randrange(flat.size)] ^= 1 << r.randrange(8 * t.element_size() - 2)


@fault("bit flip in weight")
def bit_flip_in_a_weight(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    p = r.choice(list(run.model.parameters()))
    run.at(at, "begin", lambda: _flip(p, r))
    return run


@fault("bit flip in gradient")
def bit_flip_in_a_gradient(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    p = random_weight(run, r)
    run.at(at, "gradient", lambda: _flip(p.grad, r) if p.grad is not None else None)
    return run


@fault("bit flip in momentum")
def bit_flip_in_a_momentum_buffer(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed, ("momentum", "nesterov", "adam", "adamw")).watch()
    p = random_weight(run, r)

    def flip() -> None:
        tensors = [t for t in run.optimizer.state[p].values() if isinstance(t, Tensor) and t.shape == p.shape]
        _flip(r.choice(tensors), r)

    run.at(at, "begin", flip)
    return run
