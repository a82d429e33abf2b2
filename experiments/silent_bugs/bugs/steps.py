"""Public silent bugs of steps, of what optimizers keep, and of settings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.silent_bugs.bug import AT, STEPS, X, Y, adamw, bug
from experiments.silent_bugs.nets import (
    Watched,
    perceptron,
    rows,
    sgd,
    steps,
)

# -- the step ----------------------------------------------------------------------------------------------------------


@bug("flagos-ai/FlagGems#4988", "weight decay", 1)
def decay_of_the_wrong_kind(faulty: bool) -> Watched:
    module: Any = import_module("torch.optim.adam")
    kernel = module.adam

    def decoupled(params: list[Tensor], *tensors: Any, lr: float, weight_decay: float, **other: Any) -> None:
        for p in params:
            p.mul_(1 - lr * weight_decay)
        kernel(params, *tensors, lr=lr, weight_decay=0.0, **other)

    model = perceptron()
    watched, optimizer = Watched(model), torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=0.1)
    module.adam = decoupled if faulty else kernel
    try:
        steps(watched, model, optimizer, STEPS)
    finally:
        module.adam = kernel
    return watched


@torch.no_grad()
def _shrink(optimizer: torch.optim.Optimizer, decay: float) -> None:
    for group in optimizer.param_groups:
        group["weight_decay"] = decay
        for p in group["params"]:
            p.mul_(1 - group["lr"] * decay)


@bug("huggingface/pytorch-image-models#2750", "weight decay", 1)
def decayed_twice(faulty: bool) -> Watched:
    model = perceptron()
    optimizer = adamw(model, weight_decay=0.1)
    watched = Watched(model)
    if faulty:
        optimizer.register_step_post_hook(lambda o, *_: _shrink(o, 0.1))
    steps(watched, model, optimizer, STEPS)
    return watched


@bug("pytorch#115607 (TrainCheck)", "step count lost", AT + 1)
def step_count_that_stands_still(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(model)

    def stop(k: int) -> None:
        if faulty and k >= AT:
            for state in optimizer.state.values():
                state["step"].fill_(AT - 1)

    steps(watched, model, optimizer, STEPS, end=stop)
    return watched


@bug("pytorch/torchtune#2254, speculators#765, OneTrainer#996", "lost updates", 1)
def updates_lost_to_rounding(faulty: bool) -> Watched:
    model = perceptron().to(torch.bfloat16 if faulty else torch.float32)
    watched, optimizer = Watched(model), adamw(model, lr=1e-5)
    x = X.to(torch.bfloat16 if faulty else torch.float32)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows(k)]).float(), Y[rows(k)]).backward()
        optimizer.step()
    return watched


# -- state and settings ------------------------------------------------------------------------------------------------


@bug("KempnerInstitute/KempnerForge#114, #115", "momentum lost")
def optimizer_made_anew(faulty: bool) -> Watched:
    model = perceptron()
    watched, optimizer = Watched(model), adamw(model)
    steps(watched, model, optimizer, AT - 1)
    steps(watched, model, adamw(model) if faulty else optimizer, STEPS)
    return watched


@bug("pytorch#1489", "edited state")
def state_loaded_in_another_order(faulty: bool) -> Watched:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4))
    watched, optimizer = Watched(model), adamw(model)
    steps(watched, model, optimizer, AT - 1)
    a, b, *rest = (list(m.parameters()) for m in (model[0], model[2], model[4]))
    order = [*b, *a] if faulty else [*a, *b]
    other = torch.optim.AdamW([*order, *rest[0]], lr=2e-3, weight_decay=1e-2)
    other.load_state_dict(optimizer.state_dict())
    del optimizer
    steps(watched, model, other, STEPS)
    return watched


def _resumed(faulty: bool, lose: Callable[[dict[str, Any]], None], **options: Any) -> Watched:
    """Saved ahead of iteration `AT`, and gone on with in a new model, optimizer and probe."""
    model = perceptron()
    first, optimizer = Watched(model, **options), adamw(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    steps(first, model, optimizer, AT - 1, end=lambda _: schedule.step())
    saved = copy.deepcopy({
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "probe": first.probe.state_dict(),
    })  # fmt: skip
    first.probe.remove()
    if faulty:
        lose(saved)
    model = perceptron(seed=9)
    model.load_state_dict(saved["model"])
    optimizer = adamw(model)
    optimizer.load_state_dict(saved["optimizer"])
    watched = Watched(model, **options)
    watched.probe.load_state_dict(saved["probe"])
    watched.monitor.go_on(AT - 1, saved["probe"]["monitor"])
    watched.iteration = AT - 1
    steps(watched, model, optimizer, STEPS)
    return watched


@bug("ultralytics/yolov5#292", "schedule lost")
def schedule_that_starts_over(faulty: bool) -> Watched:
    return _resumed(faulty, lambda saved: saved["optimizer"]["param_groups"][0].update(lr=2e-3))


@bug("TrenTorch/TrenTorch#187", "step count lost")
def step_count_not_restored(faulty: bool) -> Watched:
    def lose(saved: dict[str, Any]) -> None:
        for state in saved["optimizer"]["state"].values():
            state["step"].zero_()

    return _resumed(faulty, lose)


@bug("deepspeedai/DeepSpeed#8471", "step count lost")
def one_count_for_all(faulty: bool) -> Watched:
    """Of parameters that rest now and then: the count of the last one that moves serves all, and it alone goes on."""

    class OneCount(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
            counts = {p: self.state[p]["step"].clone() for p in moving if self.state[p]}
            if counts and watched.iteration >= AT:
                last = counts[moving[-1]]
                for p in moving:
                    self.state[p]["step"].copy_(last)
            out = super().step(closure)
            for p in moving[:-1] if counts and watched.iteration >= AT else ():
                self.state[p]["step"].copy_(counts[p])
            return out

    model = perceptron()
    kind = OneCount if faulty else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=2e-3)
    watched = Watched(model)
    steps(watched, model, optimizer, STEPS)
    return watched


@bug("NVIDIA/Megatron-LM#6920", "wrong checkpoint")
def another_model_is_resumed(faulty: bool) -> Watched:
    return _resumed(faulty, lambda saved: saved.update(model=perceptron(seed=5).state_dict()))


@bug("huggingface/accelerate#2926", "settings", 1)
def schedule_on_the_wrong_step(faulty: bool) -> Watched:
    model = perceptron()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.95**k)
    watched = Watched(model, expect={"lr": lambda step: 0.05 * 0.95 ** (step - 1)})
    if faulty:
        schedule.step()
    steps(watched, model, optimizer, STEPS, end=lambda _: schedule.step())
    return watched


@bug("huggingface/transformers (one group adjusted)", "settings")
def rate_of_one_group(faulty: bool) -> Watched:
    model = perceptron()
    groups = [{"params": model[:2].parameters()}, {"params": model[2:].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    watched = Watched(model)

    def adjust(k: int) -> None:
        for group in optimizer.param_groups[: 1 if faulty else 2] if k >= AT else ():
            group["lr"] = 0.01

    steps(watched, model, optimizer, STEPS, begin=adjust)
    return watched
