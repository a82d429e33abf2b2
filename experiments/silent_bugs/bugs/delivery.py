"""Public silent bugs between a backward and its step, and of who is stepped."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from experiments.silent_bugs.bug import AT, STEPS, X, Y, adamw, bug
from experiments.silent_bugs.nets import (
    Language,
    Watched,
    gradient,
    loss_of,
    perceptron,
    sgd,
    steps,
    tokens,
)

# -- between backward and step -----------------------------------------------------------------------------------------


@bug("stackoverflow 60335387 (TrainCheck)", "not cleared", 2)
def gradients_never_cleared(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        if not faulty:
            optimizer.zero_grad()
        loss_of(model, k, X, Y).backward()
        optimizer.step()
    return watched


def _cleared_early(faulty: bool, to_none: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(model)
    steps(watched, model, optimizer, STEPS, gradient=lambda k: faulty and optimizer.zero_grad(set_to_none=to_none))
    return watched


@bug("discuss.pytorch.org (common)", "zeroed gradient", 1)
def cleared_ahead_of_the_step(faulty: bool) -> Watched:
    return _cleared_early(faulty, False)


@bug("discuss.pytorch.org (common)", "zeroed gradient", 1)
def set_to_none_ahead_of_the_step(faulty: bool) -> Watched:
    return _cleared_early(faulty, True)


@bug("accelerate (common)", "dropped gradient", 1)
def cleared_inside_of_accumulation(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        for part in range(3):
            if faulty:
                optimizer.zero_grad()
            (loss_of(model, 3 * k + part, X, Y) / 3).backward()
        optimizer.step()
    return watched


@bug("discuss.pytorch.org (common)", "doubled gradient")
def one_loss_sent_back_twice(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, k, X, Y)
        if faulty and k >= AT:
            loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
    return watched


@bug("huggingface/accelerate#113", "modified gradient")
def unscaled_twice(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        (loss_of(model, k, X, Y) * 1024.0).backward()
        for p in model.parameters():
            gradient(p).div_(1024.0**2 if faulty and k >= AT else 1024.0)
        optimizer.step()
    return watched


@bug("milesial/Pytorch-UNet#468", "modified gradient", 1)
def clipped_before_unscaling(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model, clip_norm=0.1), adamw(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        (loss_of(model, k, X, Y) * 1024.0).backward()
        for scaled in (faulty, not faulty):
            if scaled:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            else:
                for p in model.parameters():
                    gradient(p).div_(1024.0)
        optimizer.step()
    return watched


# -- who is stepped ----------------------------------------------------------------------------------------------------


@bug("huggingface/accelerate#2665, pytorch#149205", "not held", 1)
def optimizer_of_another_copy(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(copy.deepcopy(model) if faulty else model)
    for k in watched.until(STEPS):
        model.zero_grad()
        optimizer.zero_grad()
        loss = loss_of(model, k, X, Y)
        loss.backward()
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        optimizer.step()
    return watched


@bug("huggingface/transformers (head added after the optimizer)", "not held", 1)
def head_that_no_optimizer_holds(faulty: bool) -> Watched:
    model = perceptron()
    held = model[:4] if faulty else model
    watched, optimizer = Watched(model), torch.optim.AdamW(held.parameters(), lr=2e-3)
    steps(watched, model, optimizer, STEPS)
    return watched


class Skipping(torch.optim.AdamW):
    """Skips its work for what it takes for an overflow, and says nothing."""

    faulty = True

    def step(self, closure: Any = None) -> Any:
        return None if self.faulty else super().step(closure)


@bug("NVIDIA/TransformerEngine#3207", "nothing moved", 1)
def step_that_is_skipped(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), Skipping(model.parameters(), lr=1e-3)
    optimizer.faulty = faulty
    steps(watched, model, optimizer, STEPS)
    return watched


@bug("pytorch#40967 (a group built from two lists)", "second optimizer", 1)
def parameter_twice_in_a_group(faulty: bool) -> Watched:
    import warnings

    model = perceptron()
    params = list(model.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = torch.optim.SGD(params + (params[:1] if faulty else []), lr=0.05)
    watched = Watched(model)
    steps(watched, model, optimizer, STEPS)
    return watched


@bug("huggingface/transformers (resized embeddings)", "replaced")
def tied_weights_untied(faulty: bool) -> Watched:
    model = Language(tied=True)
    watched, optimizer = Watched(model), adamw(model)
    for k in watched.until(STEPS):
        if faulty and k == AT:
            model.head.weight = nn.Parameter(model.head.weight.detach().clone())
        model.zero_grad()
        ids = tokens(16, k)
        F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        optimizer.step()
    return watched
