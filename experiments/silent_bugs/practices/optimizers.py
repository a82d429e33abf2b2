"""What people rightly do with optimizers and their gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import neuromech
from experiments.silent_bugs.nets import (
    Watched,
    data,
    gradient,
    loss_of,
    perceptron,
    perturb,
    sgd,
    steps,
)
from experiments.silent_bugs.practice import STEPS, practice

# -- settings and state ------------------------------------------------------------------------------------------------


class Counting(torch.optim.SGD):
    """Counts in its param groups, as many optimizers of other libraries do."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            group["average"] = 0.9 * group.get("average", 0.0) + group["k"]
        return super().step(closure)


@practice
def counter_in_group(seed: int) -> Watched:
    model = perceptron(seed, norm=True)
    watched = Watched(model)
    steps(watched, model, Counting(model.parameters(), lr=0.05, momentum=0.9), STEPS)
    return watched


@practice
def adapted_rate(seed: int) -> Watched:
    """An optimizer that finds its learning rate by itself, and writes it into its group."""

    class Adapting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            out = super().step(closure)
            for group in self.param_groups:
                group["lr"] *= 0.99
                group["weight_decay"] *= 1.01
            return out

    model = perceptron(seed)
    watched = Watched(model)
    steps(watched, model, Adapting(model.parameters(), lr=0.05, weight_decay=1e-3), STEPS)
    return watched


@practice
def hand_over_to_sgd(seed: int) -> Watched:
    model = perceptron(seed, norm=True)
    watched = Watched(model, allow="handover")
    first, second = torch.optim.Adam(model.parameters(), lr=1e-3), sgd(model)
    steps(watched, model, first, STEPS // 2)
    steps(watched, model, second, STEPS)
    return watched


@practice
def schedule_of_decay(seed: int) -> Watched:
    model = perceptron(seed)
    watched, optimizer = Watched(model, scheduled=("lr", "weight_decay")), sgd(model)
    steps(watched, model, optimizer, STEPS, begin=lambda k: optimizer.param_groups[0].update(weight_decay=1e-4 * k))
    return watched


@practice
def planned_freezing(seed: int) -> Watched:
    model = perceptron(seed)
    watched = Watched(model, allow="freezing")

    def freeze(k: int) -> None:
        if k == 10:
            model[0].requires_grad_(False)
            model[0].zero_grad()
        if k == 20:
            model[0].requires_grad_(True)

    steps(watched, model, sgd(model), STEPS, begin=freeze)
    return watched


@practice
def warm_up_from_zero(seed: int) -> Watched:
    model = perceptron(seed)
    watched, optimizer = Watched(model), sgd(model)
    steps(watched, model, optimizer, STEPS, begin=lambda k: optimizer.param_groups[0].update(lr=0.01 * (k // 3)))
    return watched


# -- gradients taken elsewhere -----------------------------------------------------------------------------------------


@practice
def sharpness_aware_by_hand(seed: int) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched, optimizer = Watched(model, allow="sam"), sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        loss_of(model, k, x, y).backward()
        es = perturb(model)
        optimizer.zero_grad()
        loss_of(model, k, x, y).backward()
        with torch.no_grad():
            for p, e in zip(model.parameters(), es, strict=True):
                p.sub_(e)
        optimizer.step()
    return watched


class SAM(torch.optim.Optimizer):
    """As in davda54/sam: first_step climbs, second_step goes back and steps."""

    def __init__(self, params: Any, base: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norm = torch.stack([g.norm() for g in grads]).norm() + 1e-12
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["old"] = p.data.clone()
                    p.add_(group["rho"] * p.grad / norm)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["old"]
        self.base.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        closure = torch.enable_grad()(closure)
        self.first_step()
        loss = closure()
        self.second_step()
        return loss


def _sam(seed: int, closure: bool) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched = Watched(model, allow="sam")
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
    for k in watched.until(STEPS):
        if closure:

            def evaluate(k: int = k) -> Tensor:
                loss = loss_of(model, k, x, y)
                loss.backward()
                return loss

            evaluate()
            optimizer.step(evaluate)
            optimizer.zero_grad()
        else:
            loss_of(model, k, x, y).backward()
            optimizer.first_step()
            loss_of(model, k, x, y).backward()
            optimizer.second_step()
    return watched


@practice
def sharpness_aware_in_two_steps(seed: int) -> Watched:
    return _sam(seed, closure=False)


@practice
def sharpness_aware_with_closure(seed: int) -> Watched:
    return _sam(seed, closure=True)


@practice
def perturb_look_and_restore(seed: int) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched = Watched(model)
    torch.manual_seed(seed)

    @torch.no_grad()
    def look(k: int) -> None:
        d = [0.01 * torch.randn_like(p) for p in model.parameters()]
        for p, e in zip(model.parameters(), d, strict=True):
            p.add_(e)
        loss_of(model, k, x, y)
        for p, e in zip(model.parameters(), d, strict=True):
            p.sub_(e)

    steps(watched, model, sgd(model), STEPS, end=look)
    return watched


@practice
def steps_along_the_flow(seed: int) -> Watched:
    return _flow(seed, 1, "gradients")


@practice
def steps_along_the_flow_by_products(seed: int) -> Watched:
    return _flow(seed, 1, "hvp")


@practice
def steps_along_the_flow_order_0(seed: int) -> Watched:
    return _flow(seed, 0, "gradients")


def _flow(seed: int, order: int, backend: Any) -> Watched:
    model, (x, y) = perceptron(seed, norm=True), data()
    watched = Watched(model)
    optimizer = neuromech.EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.01), order=order, backend=backend)
    for k in watched.until(STEPS):
        optimizer.step(partial(loss_of, model, k, x, y))
    return watched


# -- gradients that are changed on purpose -----------------------------------------------------------------------------


@practice
def each_clipped_alone(seed: int) -> Watched:
    model = perceptron(seed)
    watched = Watched(model)
    steps(
        watched, model, sgd(model), STEPS,
        gradient=lambda k: [nn.utils.clip_grad_norm_([p], 0.05) for p in model.parameters()],
    )  # fmt: skip
    return watched


@practice
def noise_on_gradients(seed: int) -> Watched:
    model = perceptron(seed)
    watched = Watched(model, allow="noise")

    def noise(k: int) -> None:
        if k > 5:
            for p in model.parameters():
                gradient(p).add_(torch.randn_like(p), alpha=0.01)

    steps(watched, model, sgd(model), STEPS, gradient=noise)
    return watched
