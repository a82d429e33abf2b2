"""A training loop with places where something can go wrong."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from experiments.faults.networks import CLASSES, MODELS
from neuromech.monitor import Fault, Monitor

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "weight_decay": 1e-3}),
    "momentum": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3}),
    "nesterov": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    "dampening": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "dampening": 0.3}),
    "adam": (torch.optim.Adam, {"lr": 2e-3, "weight_decay": 1e-3}),
    "adamw": (torch.optim.AdamW, {"lr": 2e-3, "weight_decay": 1e-2}),
    "amsgrad": (torch.optim.AdamW, {"lr": 2e-3, "amsgrad": True}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 1e-3}),
    "adagrad": (torch.optim.Adagrad, {"lr": 1e-2}),
    "nadam": (torch.optim.NAdam, {"lr": 2e-3}),
    "adamax": (torch.optim.Adamax, {"lr": 2e-3}),
}


@dataclass
class Loop:
    """A training run, one iteration at a time; each of its parts can be exchanged, and `at` adds to it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    x: Tensor
    y: Tensor
    random: random.Random
    clip: float | None = None
    schedule: Any = None
    batch: int = 16
    accumulate: int = 1
    step: int = 0
    to_none: bool = True
    faults: list[Fault] = field(default_factory=list)
    plans: dict[tuple[int, str], list[Callable[[], Any]]] = field(default_factory=lambda: defaultdict(list))
    lasting: dict[str, list[tuple[int, Callable[[], Any]]]] = field(default_factory=lambda: defaultdict(list))
    probe: neuromech.Probe | None = None
    monitor: Monitor | None = None
    skips: bool = False

    def watch(self, **options: Any) -> Loop:
        """Instrument the model and monitor it."""
        self.probe = neuromech.instrument(self.model)
        self.monitor = self.probe.monitor(self.faults.append, **options)
        return self

    def at(self, step: int, moment: str, do: Callable[[], Any]) -> None:
        """`moment`: begin, gradient (after the backward), clipped, end (after the step)."""
        self.plans[step, moment].append(do)

    def since(self, step: int, moment: str, do: Callable[[], Any]) -> None:
        self.lasting[moment].append((step, do))

    def run(self, steps: int) -> Loop:
        for _ in range(steps):
            self.iterate()
        return self

    def iterate(self) -> None:
        self.step += 1
        self._do("begin")
        self.clear()
        for _ in range(self.accumulate):
            self.backward()
        self._do("gradient")
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self._do("clipped")
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not (self.skips and not all(bool(torch.isfinite(g).all()) for g in grads)):
            self.optimizer.step()
        self._do("end")
        if self.schedule is not None:
            self.schedule.step()

    def clear(self) -> None:
        self.optimizer.zero_grad(set_to_none=self.to_none)

    def backward(self) -> None:
        self.loss().backward()

    def loss(self) -> Tensor:
        rows = [self.random.randrange(len(self.x)) for _ in range(self.batch)]
        return F.cross_entropy(self.model(self.x[rows]), self.y[rows]) / self.accumulate

    def _do(self, moment: str) -> None:
        for do in self.plans.pop((self.step, moment), ()):
            do()
        for first, do in self.lasting[moment]:
            if self.step >= first:
                do()


def loop(
    model: str,
    optimizer: str,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    clip: float | None = None,
    schedule: bool = False,
    groups: bool = False,
) -> Loop:
    """A run of one of `MODELS` with one of `OPTIMIZERS` on data with something to learn."""
    torch.manual_seed(seed)
    net = MODELS[model]().to(dtype)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(256, 8, 4, generator=g).to(dtype)
    y = (x.float().flatten(1) @ torch.randn(32, CLASSES, generator=g)).argmax(1)
    kind, settings = OPTIMIZERS[optimizer]
    params: Any = list(net.parameters())
    if groups:
        params = [
            {"params": [p for p in params if p.ndim > 1]},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ]
    made = kind(params, **settings)
    plan = torch.optim.lr_scheduler.CosineAnnealingLR(made, 400) if schedule else None
    return Loop(net, made, x, y, random.Random(seed), clip, plan)


def add_to_loss(run: Loop, at: int, extra: Callable[[Tensor], Tensor]) -> None:
    """From step `at` on, `extra(output)` is part of the loss."""

    def loss() -> Tensor:
        rows = [run.random.randrange(len(run.x)) for _ in range(run.batch)]
        output = run.model(run.x[rows])
        plain = F.cross_entropy(output, run.y[rows])
        return plain + extra(output) if run.step >= at else plain

    run.loss = loss  # type: ignore[method-assign]
