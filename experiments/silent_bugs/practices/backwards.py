"""What people rightly do in backwards and steps: hooks, gradients of gradients, closures, steps of their own."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.silent_bugs.nets import Watched, data, gradient, loss_of, perceptron, rows, sgd, steps
from experiments.silent_bugs.practice import PRACTICES, STEPS, practice

# -- other backwards ---------------------------------------------------------------------------------------------------


class Reversed(torch.autograd.Function):
    """Gradient reversal (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return -0.1 * grads[0]


@practice
def adversary_behind_a_reversal(seed: int) -> Watched:
    class Adversarial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.trunk, self.head = (
                nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU()),
                nn.Linear(8, 4),
            )
            self.adversary = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.trunk(x)
            return self.head(h), self.adversary(Reversed.apply(h))  # type: ignore[no-untyped-call]

    model, (x, y) = Adversarial(), data()
    watched, optimizer = Watched(model, allow="other backward"), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        out, domain = model(x[rows(k)])
        (F.cross_entropy(out, y[rows(k)]) + F.cross_entropy(domain, torch.arange(16) % 2)).backward()
        optimizer.step()
    return watched


@practice
def slower_trunk_by_a_hook(seed: int) -> Watched:
    """The gradients of some weights are scaled where they arrive."""
    model = perceptron(seed)
    for p in model[0].parameters():
        p.register_hook(lambda g: 0.1 * g)
    watched = Watched(model, allow="other backward")
    steps(watched, model, sgd(model), STEPS)
    return watched


@practice
def penalty_on_the_slope(seed: int) -> Watched:
    """The gradient penalty of Wasserstein critics: a backward through a backward."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 1))
    watched, (x, _) = Watched(model, allow="penalty"), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        inputs = x[rows(k)].clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
        (model(x[rows(k + 1)]).mean() - model(inputs).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()).backward()
        optimizer.step()
    return watched


@practice
def curvature_between_steps(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched = Watched(model)
    params = list(model.parameters())

    def trace(k: int) -> None:
        gs = torch.autograd.grad(loss_of(model, k, x, y), params, create_graph=True)
        vs = [torch.randn_like(p) for p in params]
        torch.autograd.grad(gs, params, vs)

    steps(watched, model, sgd(model), STEPS, begin=trace)
    return watched


@practice
def gradients_set_by_hand(seed: int) -> Watched:
    """Taken by `autograd.grad`, put in `.grad`."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for k in watched.until(STEPS):
        params = list(model.parameters())
        for p, g in zip(params, torch.autograd.grad(loss_of(model, k, x, y), params), strict=True):
            p.grad = g
        optimizer.step()
    return watched


@practice
def gradients_kept_beside(seed: int) -> Watched:
    """Each micro-batch is clipped by itself (as for privacy), kept beside, and the sum handed to the step."""
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model, allow="noise"), sgd(model)
    for k in watched.until(STEPS):
        total = [torch.zeros_like(p) for p in model.parameters()]
        for part in range(3):
            optimizer.zero_grad()
            loss_of(model, 3 * k + part, x, y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            for t, p in zip(total, model.parameters(), strict=True):
                t.add_(gradient(p))
        for t, p in zip(total, model.parameters(), strict=True):
            p.grad = t / 3
        optimizer.step()
    return watched


# -- other steps -------------------------------------------------------------------------------------------------------


def _closed(seed: int, make: Any) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched = Watched(model)
    optimizer = make(model.parameters())
    for k in watched.until(STEPS):

        def closure(k: int = k) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, k, x, y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return watched


PRACTICES["closure of SGD"] = partial(_closed, make=partial(torch.optim.SGD, lr=0.05, momentum=0.9))
PRACTICES["closure of LBFGS"] = partial(_closed, make=partial(torch.optim.LBFGS, lr=0.1, max_iter=3))
PRACTICES["line search"] = partial(_closed, make=partial(torch.optim.LBFGS, max_iter=4, line_search_fn="strong_wolfe"))


class Signs(torch.optim.SGD):
    """Has the settings of SGD, and a step of its own."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    m = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    m.mul_(group["momentum"]).add_(p.grad)
                    p.add_(m.sign(), alpha=-0.01 * group["lr"])


@practice
def step_of_a_subclass(seed: int) -> Watched:
    model = perceptron(seed, norm=True)
    watched = Watched(model)
    steps(watched, model, Signs(model.parameters(), lr=0.05, momentum=0.9), STEPS)
    return watched


@practice
def uphill(seed: int) -> Watched:
    model, (x, y) = perceptron(seed), data()
    watched, optimizer = Watched(model), sgd(model, maximize=True)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        (-loss_of(model, k, x, y)).backward()
        optimizer.step()
    return watched


def _kernels(seed: int, **options: Any) -> Watched:
    model = perceptron(seed)
    watched = Watched(model)
    steps(watched, model, torch.optim.AdamW(model.parameters(), lr=1e-3, **options), STEPS)
    return watched


for _option in ("foreach", "fused", "amsgrad"):
    PRACTICES[f"AdamW {_option}"] = partial(_kernels, **{_option: True})


@practice
def decay_by_group(seed: int) -> Watched:
    model = perceptron(seed, norm=True)
    watched = Watched(model)
    flat, deep = ([p for p in model.parameters() if (p.ndim > 1) is many] for many in (False, True))
    groups = [{"params": flat, "weight_decay": 0.0}, {"params": deep, "weight_decay": 0.1}]
    steps(watched, model, torch.optim.AdamW(groups, lr=1e-3), STEPS)
    return watched


@practice
def learnt_weights_of_losses(seed: int) -> Watched:
    """The weight of the loss is a parameter beside the model (Kendall et al. 2018)."""
    model, (x, y) = perceptron(seed), data()
    weight = nn.Parameter(torch.zeros(()))
    watched, optimizer = Watched(model), torch.optim.AdamW([*model.parameters(), weight], lr=1e-2)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        (torch.exp(-weight) * loss_of(model, k, x, y) + weight).backward()
        optimizer.step()
    return watched
