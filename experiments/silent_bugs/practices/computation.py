"""What people rightly do in forwards: number formats, checkpoints, sharing, branches."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from experiments.silent_bugs.nets import Watched, data, loss_of, perceptron, rows, sgd, steps
from experiments.silent_bugs.practice import PRACTICES, STEPS, practice

# -- number formats ----------------------------------------------------------------------------------------------------


def _half(seed: int, growth: int, scale: float) -> Watched:
    """float16 with a loss scale that is too large at first, and again whenever it has grown."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=growth)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(model, k, x, y)
        scaler.scale(loss).backward()
        if k % 2:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    return watched


PRACTICES["scale that is found at first"] = partial(_half, growth=2000, scale=2.0**24)
PRACTICES["scale that overflows now and then"] = partial(_half, growth=4, scale=2.0**16)


def _moved(seed: int, momentum: float, to: Any) -> Watched:
    model = perceptron(seed)
    watched, (x, y) = Watched(model), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
    for k in watched.until(STEPS):
        if k == 15:
            model.to(to)
        optimizer.zero_grad()
        dtype = next(model.parameters()).dtype
        F.cross_entropy(model(x[rows(k)].to(dtype)), y[rows(k)]).backward()
        optimizer.step()
    return watched


PRACTICES["to double precision on the way"] = partial(_moved, momentum=0.0, to=torch.float64)
PRACTICES["to double precision with momentum"] = partial(_moved, momentum=0.9, to=torch.float64)
PRACTICES["to the same place on the way"] = partial(_moved, momentum=0.9, to="cpu")


@practice
def lower_precision_later(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=k > 12):
            loss = loss_of(model, k, x, y)
        loss.backward()
        optimizer.step()
    return watched


@practice
def images_in_another_order_of_memory(seed: int) -> Watched:
    torch.manual_seed(seed)
    images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    model: Any = nn.Sequential(images, nn.Flatten(), nn.Linear(32, 4))
    watched, optimizer = Watched(model), sgd(model)
    for k in watched.until(STEPS):
        if k == 10:
            model.to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(k))
        F.cross_entropy(model(x), torch.arange(8) % 4).backward()
        optimizer.step()
    return watched


def _rounded(x: Tensor) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127)


def _quantised(seed: int, since: int) -> Watched:
    class Aware(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.a, self.b, self.on = nn.Linear(12, 16), nn.Linear(16, 4), since == 0

        def forward(self, x: Tensor) -> Tensor:
            a, b = (_rounded(m.weight) if self.on else m.weight for m in (self.a, self.b))
            return F.linear(F.relu(F.linear(x, a, self.a.bias)), b, self.b.bias)

    model = Aware()
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS, begin=lambda k: setattr(model, "on", k >= since))
    return watched


PRACTICES["weights rounded in the forward"] = partial(_quantised, since=0)

# -- other forwards ----------------------------------------------------------------------------------------------------


def _checkpointed(seed: int, reentrant: bool) -> Watched:
    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)
            self.drop = nn.Dropout(0.1)

        def part(self, h: Tensor) -> Tensor:
            return F.relu(self.b(self.drop(h)))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(checkpoint(self.part, F.relu(self.a(x)), use_reentrant=reentrant))
            return out

    model = Saving()
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


for _reentrant in (True, False):
    PRACTICES[f"checkpointed {'reentrant' if _reentrant else 'anew'}"] = partial(_checkpointed, reentrant=_reentrant)


class Folded(nn.Module):
    """One matrix there and back, a bias of its own, and one layer used twice."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.w, self.twice, self.c = nn.Parameter(0.3 * torch.randn(16, 12)), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(x @ self.w.T) @ self.w
        out: Tensor = self.c(F.relu(self.twice(F.relu(self.twice(h)))))
        return out


@practice
def shared_by_hand(seed: int) -> Watched:
    model = Folded(seed)
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


@practice
def two_views(seed: int) -> Watched:
    """Both views of a batch are sent through one network, in two forwards."""
    model, (x, _) = perceptron(seed), data()
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        a, b = (F.normalize(model(x[rows(k)] + 0.1 * torch.randn(16, 12)), dim=1) for _ in range(2))
        F.cross_entropy(a @ b.T / 0.5, torch.arange(16)).backward()
        optimizer.step()
    return watched


@practice
def rows_dropped_at_random(seed: int) -> Watched:
    """Stochastic depth, row by row."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.a(x))
            kept = (torch.rand(len(x), 1) > 0.9).float() if self.training else 1.0
            out: Tensor = self.c(h + kept * F.relu(self.b(h)))
            return out

    model = Deep()
    watched = Watched(model)
    steps(watched, model, sgd(model), 2 * STEPS)
    return watched


@practice
def zero_at_the_end(seed: int) -> Watched:
    model = perceptron(seed)
    nn.init.zeros_(model.get_parameter("4.weight"))
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


def _frozen_norm(seed: int, gains: bool) -> Watched:
    model = perceptron(seed, norm=True)
    model[1].eval().requires_grad_(gains)
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched


PRACTICES["norm frozen with its gains"] = partial(_frozen_norm, gains=False)
PRACTICES["norm frozen but for its gains"] = partial(_frozen_norm, gains=True)


@practice
def looked_at_in_evaluation(seed: int) -> Watched:
    """Between the steps: evaluation, pseudo-labels, and how the input moves the output."""
    model, (x, _) = perceptron(seed, norm=True), data()
    watched = Watched(model)

    def look(k: int) -> None:
        model.eval()
        inputs = x[rows(k)].clone().requires_grad_(True)
        torch.autograd.grad(model(inputs).sum(), inputs)
        with torch.no_grad():
            model(x)
        model.train()

    steps(watched, model, sgd(model), STEPS, begin=look)
    return watched


@practice
def state_that_is_carried_on(seed: int) -> Watched:
    """Backpropagation through time, cut between the parts of a sequence."""
    torch.manual_seed(seed)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.GRU(12, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
            y, h = self.cell(x, h)
            return self.out(y), h

    model, (x, y) = Recurrent(), data()
    watched, optimizer, h = Watched(model), sgd(model), None
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        out, h = model(x[rows(k)][:, None], h)
        h = h.detach() if k % 8 else None
        F.cross_entropy(out[:, 0], y[rows(k)]).backward()
        optimizer.step()
    return watched


@practice
def numbers_of_python(seed: int) -> Watched:
    """Branches by data and by chance that lead through all of the parameters."""
    random.seed(seed)

    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.b(F.relu(self.a(x)))
            h = F.relu(h) if random.random() < 0.5 else F.leaky_relu(h, 0.1)
            out: Tensor = self.c(h if float(x.sum()) > 0 else 0.5 * h)
            return out

    model = Branched()
    watched = Watched(model)
    steps(watched, model, sgd(model), STEPS)
    return watched
