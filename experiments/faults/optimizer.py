"""Faults around the optimizer: edits between its steps, rivals, settings that are not applied."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from experiments.faults.injection import (
    fault,
    random_loop,
    random_weight,
)
from experiments.faults.loop import Loop


@fault("edited weights")
def weights_edited_between_steps(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    p = random_weight(run, r)

    def edit() -> None:
        how = r.randrange(3)
        with torch.no_grad():
            if how == 0:
                p.clamp_(-0.1, 0.1)
            elif how == 1:
                p.data.mul_(0.9)
            else:
                p.add_(torch.randn_like(p), alpha=1e-3)

    run.at(at, "begin", edit)
    return run


@fault("second optimizer")
def second_optimizer_on_the_same_weights(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    some = r.sample(list(run.model.parameters()), 2)
    second = r.choice([torch.optim.SGD(some, lr=1e-3), torch.optim.AdamW(some, lr=1e-3)])
    run.since(at, "end", second.step)
    return run


@fault("second optimizer")
def update_by_hand_beside_the_optimizer(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed).watch()
    p = random_weight(run, r)
    run.since(at, "end", lambda: p.data.add_(p.grad, alpha=-1e-3) if p.grad is not None else None)
    return run


@fault("settings")
def group_with_other_settings(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed, groups=True).watch()
    group = r.choice(run.optimizer.param_groups)
    key = r.choice(["lr", "weight_decay"])
    run.at(at, "begin", lambda: group.update({key: 0.5 * group["lr"] if key == "lr" else 0.05}))
    return run


@fault("settings", from_the_start=True)
def group_unlike_its_declaration(r: random.Random, seed: int, at: int) -> Loop:
    """From the start: biases were meant to be left without decay."""
    run = random_loop(r, seed, ("momentum", "adamw"))
    return run.watch(expect={"*bias": {"weight_decay": 0.0}})


def _patched(run: Loop, at: int, change: Callable[[dict[str, Any]], None]) -> None:
    """From step `at` on the code behind the optimizer's step is handed other numbers than its param groups hold."""
    kind = "sgd" if isinstance(run.optimizer, torch.optim.SGD) else "adam"
    module: Any = import_module(f"torch.optim.{kind}")
    true = getattr(module, kind)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        change(kwargs)
        return true(*args, **kwargs)

    iterate = run.iterate

    def patched() -> None:
        setattr(module, kind, wrong if run.step + 1 >= at else true)
        try:
            iterate()
        finally:
            setattr(module, kind, true)

    run.iterate = patched  # type: ignore[method-assign]


@fault("learning rate")
def learning_rate_not_applied(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed, schedule=True).watch()
    lr = r.choice([0.0, 1.0]) * float(run.optimizer.param_groups[0]["lr"])
    _patched(run, at, lambda kwargs: kwargs.update(lr=lr))
    return run


@fault("weight decay")
def weight_decay_not_applied(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed, ("sgd", "momentum", "adamw")).watch()
    _patched(run, at, lambda kwargs: kwargs.update(weight_decay=0.0))
    return run


@fault("momentum")
def momentum_not_applied_as_set(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed, ("momentum", "nesterov")).watch()
    _patched(run, at, lambda kwargs: kwargs.update(momentum=0.8))
    return run


@fault("not held", from_the_start=True)
def layer_that_no_optimizer_holds(r: random.Random, seed: int, at: int) -> Loop:
    run = random_loop(r, seed)
    params = list(run.model.parameters())
    run.optimizer = torch.optim.SGD(params[:-2], lr=0.05, momentum=r.choice([0.0, 0.9]))
    return run.watch()
