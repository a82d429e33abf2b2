"""Public silent bugs of weights and models, and of ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from experiments.silent_bugs.bug import AT, STEPS, X, Y, bug
from experiments.silent_bugs.nets import (
    Watched,
    gradient,
    loss_of,
    perceptron,
    perturb,
    rows,
    sgd,
    steps,
)
from neuromech.monitor.checksum import checksums

# -- weights and model -------------------------------------------------------------------------------------------------


@bug("mlcommons/algorithmic-efficiency#325", "edited weights", 2)
def perturbation_that_is_not_restored(faulty: bool) -> Watched:
    model = perceptron(norm=True)
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        loss_of(model, k, X, Y).backward()
        es = perturb(model)
        optimizer.zero_grad()
        loss_of(model, k, X, Y).backward()
        with torch.no_grad():
            for p, e in zip(model.parameters(), es, strict=True):
                p.sub_(0.0 * e if faulty else e)
        optimizer.step()
    return watched


@bug("timm, diffusers (averaged weights left in place)", "edited weights", AT + 1)
def averaged_weights_left_in_place(faulty: bool) -> Watched:
    model = perceptron()
    watched, average = Watched(model), copy.deepcopy(model)

    def swap(k: int) -> None:
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 0.1)
        if k == AT:
            kept = copy.deepcopy(model.state_dict())
            model.load_state_dict(average.state_dict())
            if not faulty:
                model.load_state_dict(kept)

    steps(watched, model, sgd(model), STEPS, end=swap)
    return watched


@bug("pyg-team/gt-pyg#112", "evaluation mode")
def frozen_norm_woken(faulty: bool) -> Watched:
    model = perceptron(norm=True)
    model[1].eval()
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS, begin=lambda k: model.train() if faulty and k == AT else None)
    return watched


@bug("discuss.pytorch.org (common)", "evaluation mode")
def training_goes_on_in_evaluation(faulty: bool) -> Watched:
    model = perceptron(norm=True)
    watched = Watched(model)

    def evaluate(k: int) -> None:
        if k == AT:
            model.eval()
            with torch.no_grad():
                model(X)
            if not faulty:
                model.train()

    steps(watched, model, sgd(model), STEPS, begin=evaluate)
    return watched


class Checkpointed(nn.Module):
    def __init__(self, faulty: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 4)
        self.middle = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 16))
        self.faulty = faulty

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        out: Tensor = self.last(checkpoint(self.middle, h, use_reentrant=False, preserve_rng_state=not self.faulty))
        return out


@bug("torch.utils.checkpoint (preserve_rng_state=False)", "wrong backward", 1)
def recomputed_with_other_dropout(faulty: bool) -> Watched:
    model = Checkpointed(faulty)
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


class Rectifier(torch.autograd.Function):
    """A fused kernel whose backward lets through what the forward stopped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leak: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.leak = leak
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, grads[0], ctx.leak * grads[0]), None


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leak = 0.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Rectifier.apply(x, self.leak)  # type: ignore[no-untyped-call]
        return out


@bug("fused kernels (TTrace, TrainCheck)", "wrong backward", 1)
def kernel_with_a_wrong_backward(faulty: bool) -> Watched:
    model = perceptron()
    model[3] = Fused()
    model[3].leak = 0.1 if faulty else 0.0  # type: ignore[assignment]
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


@bug("huggingface/peft (encoder under no_grad)", "detached")
def branch_cut_off(faulty: bool) -> Watched:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)
            self.cut = False

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.a(x))
            side = self.b(h)
            out: Tensor = self.c(F.relu(side.detach() if self.cut else side))
            return out

    model = Two()
    watched = Watched(model)
    steps(watched, model, sgd(model), 4 * STEPS, begin=lambda k: setattr(model, "cut", faulty and k >= AT))
    return watched


@bug("pytorch#160016 (common)", "not finite")
def batch_with_a_nan(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(AT + 1):
        optimizer.zero_grad()
        x = X[rows(k)].clone()
        if faulty and k == AT:
            x[0, 0] = float("nan")
        F.cross_entropy(model(x), Y[rows(k)]).backward()
        optimizer.step()
    return watched


# -- ranks: two models in one process, compared by a gather of their checksums -----------------------------------------


def _two_ranks(faulty: bool, spoil: Callable[[int, nn.Module, nn.Module], None], late: bool = False) -> Watched:
    ranks = [perceptron(), perceptron()]
    mine, other = ranks

    def gather(own: Tensor) -> Tensor:
        zero = torch.zeros(1, dtype=torch.int8)
        tensors = [*other.parameters(), *(zero if p.grad is None else p.grad for p in other.parameters())]
        return torch.stack([own, checksums(tensors)])

    watched = Watched(mine, replicas=gather)
    optimizers = [sgd(m) for m in ranks]
    for k in watched.until(STEPS):
        for rank, model in enumerate(ranks):
            model.zero_grad()
            loss_of(model, 2 * k + rank, X, Y).backward()
        if not (late and faulty and k >= AT):
            _all_reduce(mine, other)
        if faulty and k >= AT:
            spoil(k, mine, other)
        for optimizer in optimizers:
            optimizer.step()
    return watched


@torch.no_grad()
def _all_reduce(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        mean = (gradient(p) + gradient(q)) / 2
        gradient(p).copy_(mean)
        gradient(q).copy_(mean)


@bug("pytorch#187732 (DDP stops reducing)", "not reduced")
def gradients_no_longer_reduced(faulty: bool) -> Watched:
    return _two_ranks(faulty, lambda *_: None, late=True)


def _clip_the_other(k: int, a: nn.Module, b: nn.Module) -> None:
    nn.utils.clip_grad_norm_(b.parameters(), 1e-3)


@bug("deepspeed#1801 (BLOOM-176B; TrainCheck)", "not reduced")
def clipped_on_one_rank(faulty: bool) -> Watched:
    return _two_ranks(faulty, _clip_the_other)


@bug("pytorch#84803, #96600 (TrainCheck)", "replicas differ", AT + 1)
def ranks_that_drift(faulty: bool) -> Watched:
    @torch.no_grad()
    def drift(k: int, a: nn.Module, b: nn.Module) -> None:
        next(iter(b.parameters())).mul_(1 + 1e-3)

    return _two_ranks(faulty, drift)
