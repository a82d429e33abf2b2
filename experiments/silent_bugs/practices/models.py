"""What people rightly do in models: leave parts out, pad, compute in lower precision."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.silent_bugs.nets import (
    Language,
    Watched,
    data,
    loss_of,
    perceptron,
    sgd,
    steps,
    tokens,
)
from experiments.silent_bugs.practice import PRACTICES, STEPS, practice

# -- what takes part in a step -----------------------------------------------------------------------------------------


class Deep(nn.Module):
    """A layer that is dropped at random, by torch's or Python's numbers."""

    def __init__(self, seed: int, p: float, python: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.p, self.python = p, python

    def forward(self, x: Tensor) -> Tensor:
        import random

        h = F.relu(self.a(x))
        dropped = (random.random() if self.python else float(torch.rand(()))) < self.p
        out: Tensor = self.c(h if self.training and dropped else F.relu(self.b(h)))
        return out


def _dropped(seed: int, p: float, python: bool) -> Watched:
    import random

    random.seed(seed)
    model = Deep(seed, p, python)
    watched = Watched(model)
    steps(watched, model, sgd(model), 2 * STEPS)
    return watched


for _p in (0.02, 0.1, 0.5):
    for _python in (False, True):
        _name = f"layer dropped {_p} {'python' if _python else 'torch'}"
        PRACTICES[_name] = partial(_dropped, p=_p, python=_python)


def learn_words(model: Language, watched: Watched, optimizer: torch.optim.Optimizer) -> Watched:
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        ids = tokens(16, k)
        F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        optimizer.step()
    return watched


@practice
def sparse_embedding(seed: int) -> Watched:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.EmbeddingBag(20, 12, sparse=True), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    watched, optimizer, (_, y) = Watched(model), torch.optim.SGD(model.parameters(), lr=0.1), data()
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(tokens(16, k)), y[:16]).backward()
        optimizer.step()
    return watched


@practice
def sparse_words(seed: int) -> Watched:
    model = Language(seed, sparse=True)
    watched, optimizer = Watched(model), torch.optim.SGD(model.parameters(), lr=0.1)
    return learn_words(model, watched, optimizer)


def _padded(seed: int, lowest: int) -> Watched:
    model = Language(seed, padding_idx=0)
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        ids = tokens(16, k, lowest=lowest if k == 1 else 0)
        F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        optimizer.step()
    return watched


@practice
def padding_row(seed: int) -> Watched:
    return _padded(seed, 0)


@practice
def padding_that_comes_later(seed: int) -> Watched:
    return _padded(seed, 1)


@practice
def optimizer_in_backward(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched = Watched(model)
    own = {p: torch.optim.SGD([p], lr=0.05, momentum=0.9) for p in model.parameters()}

    def step(p: nn.Parameter) -> None:
        own[p].step()
        own[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    for k in watched.until(STEPS):
        loss_of(model, k, x, y).backward()
    return watched


# -- number formats ----------------------------------------------------------------------------------------------------


def lower_inside(model: nn.Module) -> None:
    """As Accelerate and the Trainer of transformers do it: hooks on the model do not see it."""
    low: Any = torch.autocast("cpu", torch.bfloat16)(model.forward)
    model.__dict__["forward"] = lambda *args: low(*args).float()


@practice
def autocast_inside_of_forward(seed: int) -> Watched:
    model = perceptron(seed, norm=True)
    lower_inside(model)
    watched = Watched(model)
    steps(watched, model, torch.optim.AdamW(model.parameters(), lr=1e-3), STEPS)
    return watched


@practice
def autocast_of_words(seed: int) -> Watched:
    model = Language(seed)
    lower_inside(model)
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    return learn_words(model, watched, optimizer)
