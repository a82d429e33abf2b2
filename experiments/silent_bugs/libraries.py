"""Clean runs with the optimizers of other libraries, all that can be made from parameters and a learning rate."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from experiments.silent_bugs.nets import Watched, perceptron, steps

STEPS = 12


def optimizers() -> Iterator[tuple[str, Callable[[nn.Module], Any]]]:
    """(name, made from a model), of the libraries that are installed, and of torch."""
    for kind in vars(torch.optim).values():
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer:
            yield f"torch {kind.__name__}", _of(kind)
    if importlib.util.find_spec("pytorch_optimizer"):
        import pytorch_optimizer

        for name in pytorch_optimizer.get_supported_optimizers():
            yield f"pytorch_optimizer {name}", _of(pytorch_optimizer.load_optimizer(name))
    if importlib.util.find_spec("schedulefree"):
        import schedulefree  # type: ignore[import-untyped]

        for name in ("SGDScheduleFree", "AdamWScheduleFree", "RAdamScheduleFree"):
            yield f"schedulefree {name}", _of(getattr(schedulefree, name))


def _of(kind: Any) -> Callable[[nn.Module], Any]:
    def make(model: nn.Module) -> Any:
        optimizer = kind(model.parameters(), lr=1e-3)
        if hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer

    return make


def runs_bare(make: Callable[[nn.Module], Any], seed: int) -> bool:
    """True if this loop trains with the optimizer when nobody watches: some want arguments or closures of their own."""
    model = perceptron(seed)
    try:
        optimizer = make(model)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(4, 12)).sum().backward()
            optimizer.step()
    except Exception:
        return False
    return True


def watched_run(make: Callable[[nn.Module], Any], seed: int) -> Watched:
    model = perceptron(seed, norm=bool(seed % 2))
    watched = Watched(model)
    steps(watched, model, make(model), STEPS)
    return watched
