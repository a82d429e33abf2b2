"""Faults of gradients: not cleared, stale, repeated, edited, not finite, not reduced over ranks."""

from __future__ import annotations

import copy
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.faults.injection import (
    fault,
    random_loop,
    random_weight,
    settings_of,
)
from experiments.faults.loop import Loop, add_to_loss
from neuromech.monitor.checksum import checksums


@fault("not cleared")
def gradients_not_cleared(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    clear = run.clear
    run.clear = lambda: clear() if run.step < at else None  # type: ignore[method-assign]
    return run


@fault("repeated step")
def step_taken_twice(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    run.at(at, "end", run.optimizer.step)
    return run


@fault("stale gradient")
def gradient_of_the_step_before(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    kept: dict[nn.Parameter, Tensor] = {}

    def exchange() -> None:
        for p in run.model.parameters():
            if p.grad is not None:
                now = p.grad.clone()
                if run.step >= at and p in kept:
                    p.grad = kept[p]
                kept[p] = now

    run.since(at - 1, "gradient", exchange)
    return run


@fault("modified gradient")
def noise_after_clipping(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed, clip=1.0).watch()
    p = random_weight(run, r)

    def noise() -> None:
        assert p.grad is not None
        p.grad.add_(torch.randn_like(p.grad), alpha=0.1 * float(p.grad.norm()) / p.numel() ** 0.5)

    run.since(at, "clipped", noise)
    return run


@fault("modified gradient")
def one_gradient_multiplied_after_clipping(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed, clip=1.0).watch(clip_norm=1.0)
    p = random_weight(run, r)
    run.since(at, "clipped", lambda: p.grad.mul_(8.0) if p.grad is not None else None)
    return run


@fault("not finite")
def non_finite_gradients_skipped(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    run.skips = True
    add_to_loss(run, at, lambda y: y.sum() * float("inf") if run.step == at else y.sum() * 0)
    return run


@fault("not finite")
def non_finite_gradients_stepped(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    add_to_loss(run, at, lambda y: y.sum() * float("nan") if run.step == at else y.sum() * 0)
    return run


@fault("not reduced")
def rank_without_reduction(r: random.Random, seed: int, at: int) -> Loop:
    """Two ranks in one process: the other one computes its gradients on batches of its own, and both are averaged."""
    run = random_loop(r, seed, models=("perceptron", "residual", "transformer"))
    twin = copy.deepcopy(run.model)
    other = type(run.optimizer)(twin.parameters(), **settings_of(run.optimizer))
    few = r.sample(range(len(list(twin.parameters()))), 2)

    def reduce() -> None:
        twin.zero_grad()
        rows = [run.random.randrange(len(run.x)) for _ in range(run.batch)]
        F.cross_entropy(twin(run.x[rows]), run.y[rows]).backward()
        for i, (a, b) in enumerate(zip(run.model.parameters(), twin.parameters(), strict=True)):
            if a.grad is not None and b.grad is not None and not (run.step >= at and i in few):
                a.grad.copy_((a.grad + b.grad) / 2)
                b.grad.copy_(a.grad)

    def gather(own: Tensor) -> Tensor:
        grads = [p.grad if p.grad is not None else torch.zeros(1) for p in twin.parameters()]
        return torch.stack([own, checksums([*twin.parameters(), *grads])])

    run.watch(replicas=gather)
    run.since(1, "gradient", reduce)
    run.since(1, "end", other.step)
    return run
