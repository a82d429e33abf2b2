"""Runs with nothing wrong in them, in all the ways in which people train: the monitor has to stay silent."""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.faults.loop import OPTIMIZERS, Loop, loop
from experiments.faults.networks import MODELS, Activation, Path, rectifier

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
HABITS = (
    "plain", "cosine", "one cycle", "rate by hand", "clip by norm", "clip by value", "accumulation", "zero in place",
    "two groups", "noise", "average", "evaluation", "swapped weights", "autocast", "scaler", "frozen from the start",
    "custom function", "two optimizers", "closure", "random depth", "overfit", "smoothed labels", "full batch",
    "large rate",
)  # fmt: skip


def clean(seed: int) -> tuple[Loop, str]:
    """A run without a fault, not yet instrumented, and what it is in words."""
    r = random.Random(seed)
    habit, model = HABITS[seed % len(HABITS)], r.choice(list(MODELS))
    optimizer, dtype = r.choice(list(OPTIMIZERS)), r.choice(list(DTYPES))
    if habit == "scaler":
        dtype = "float32"
    run = loop(model, optimizer, DTYPES[dtype], seed, groups=habit == "two groups")
    _give(run, habit, r)
    return run, f"{model}, {optimizer}, {dtype}, {habit}"


def _give(run: Loop, habit: str, r: random.Random) -> None:
    model, optimizer = run.model, run.optimizer
    group = optimizer.param_groups[0]
    match habit:
        case "cosine":
            run.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        case "one cycle":
            turns = ("momentum" in group and bool(group["momentum"])) or "betas" in group
            run.schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, 2 * group["lr"], total_steps=1000, cycle_momentum=turns
            )
        case "rate by hand":
            run.at(30, "begin", lambda: group.update(lr=group["lr"] / 10))
        case "clip by norm":
            run.clip = r.choice([0.1, 1.0])
        case "clip by value":
            cap = r.choice([0.01, 0.05])
            run.since(1, "gradient", lambda: nn.utils.clip_grad_value_(model.parameters(), cap))
        case "accumulation":
            run.accumulate = 3
        case "zero in place":
            run.to_none = False
        case "noise":
            run.since(1, "gradient", lambda: _add_noise(model))
        case "average":
            average = copy.deepcopy(model)
            run.since(1, "end", lambda: _average(average, model))
        case "evaluation":
            run.since(1, "end", lambda: _evaluate(run))
        case "swapped weights":
            run.since(1, "begin", lambda: _swapped(model))
        case "autocast":
            _under(run, torch.autocast("cpu", torch.bfloat16))
        case "scaler":
            _with_scaler(run)
        case "frozen from the start":
            for p in r.sample(list(model.parameters()), 2):
                p.requires_grad_(False)
        case "custom function":
            for m in model.modules():
                if isinstance(m, Activation):
                    m.function = rectifier(lambda g, x: g * (x > 0))
        case "two optimizers":
            _two_optimizers(run)
        case "closure":
            _with_closure(run)
        case "random depth":
            (path,) = [m for m in model.modules() if isinstance(m, Path)]
            path.function = lambda x: x * (torch.rand(len(x), *[1] * (x.ndim - 1)) < 0.8)
        case "overfit":
            run.x, run.y = run.x[:4], run.y[:4]
            _loss(run, lambda y, t: F.cross_entropy(y, t))
        case "smoothed labels":
            _loss(run, lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1))
        case "full batch":
            run.batch = 256
        case "large rate":
            group["lr"] *= 5


def _add_noise(model: nn.Module) -> None:
    for p in model.parameters():
        if p.grad is not None:
            p.grad.add_(torch.randn_like(p), alpha=0.01)


def _average(average: nn.Module, model: nn.Module) -> None:
    with torch.no_grad():
        for a, b in zip(average.parameters(), model.parameters(), strict=True):
            a.lerp_(b, 0.01)


def _evaluate(run: Loop) -> None:
    if run.step % 10 == 0:
        run.model.eval()
        with torch.set_grad_enabled(run.step % 20 == 0):  # some forget no_grad, which costs memory and nothing else
            run.model(run.x[:16])
        run.model.train()


def _swapped(model: nn.Module) -> None:
    kept = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    model.load_state_dict(kept)


def _loss(run: Loop, of: Any) -> None:
    def loss() -> Tensor:
        rows = [run.random.randrange(len(run.x)) for _ in range(run.batch)]
        loss: Tensor = of(run.model(run.x[rows]), run.y[rows])
        return loss

    run.loss = loss  # type: ignore[method-assign]


def _under(run: Loop, context: Any) -> None:
    plain = run.loss

    def loss() -> Tensor:
        with context:
            return plain()

    run.loss = loss  # type: ignore[method-assign]


def _with_scaler(run: Loop) -> None:
    """As with float16: the scale is searched for from above, and tried again now and then."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=25)

    def iterate() -> None:
        run.step += 1
        run.clear()
        scaler.scale(run.loss()).backward()
        scaler.unscale_(run.optimizer)
        scaler.step(run.optimizer)
        scaler.update()

    run.iterate = iterate  # type: ignore[method-assign]


def _two_optimizers(run: Loop) -> None:
    params = list(run.model.parameters())
    half = len(params) // 2
    run.optimizer = torch.optim.SGD(params[:half], lr=0.02, momentum=0.9)
    second = torch.optim.AdamW(params[half:], lr=1e-3)
    run.clear = run.model.zero_grad  # type: ignore[method-assign]
    run.since(1, "end", second.step)


def _with_closure(run: Loop) -> None:
    def iterate() -> None:
        run.step += 1

        def closure() -> Tensor:
            run.clear()
            loss = run.loss()
            loss.backward()
            return loss

        run.optimizer.step(closure)  # type: ignore[arg-type]

    run.iterate = iterate  # type: ignore[method-assign]
