"""A table of architectures: factories with random batches, for the null-space oracle and for detection alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Inputs = dict[str, Tensor] | tuple[Tensor, ...]
Make = Callable[[torch.Generator], Tensor]


def real(*shape: int) -> Make:
    return lambda g: torch.randn(shape, generator=g, dtype=torch.float64)


def ids(n: int, *shape: int, low: int = 0) -> Make:
    """Token numbers from `low`, below n."""
    return lambda g: torch.randint(low, n, shape, generator=g)


def constant(t: Tensor) -> Make:
    return lambda g: t.clone()


def logits_of(output: Any) -> Tensor:
    """The tensor that matters of whatever a model returns."""
    for name in ("logits", "logits_per_image", "last_hidden_state", "pooler_output"):
        if isinstance(t := getattr(output, name, None), Tensor):
            return t
    return output[0] if isinstance(output, (tuple, list)) else output


# -- losses: what the oracle draws targets for ----------------------------------------------------------------------


def projection(output: Any, target: Tensor) -> Tensor:
    """A loss that sees the whole output and nothing else."""
    y = logits_of(output)
    return (y * target.to(y.dtype)).sum()


def mse(output: Any, target: Tensor) -> Tensor:
    y = logits_of(output)
    return F.mse_loss(y, target.to(y.dtype))


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    """Over the last axis, with probabilities for targets."""
    y = logits_of(output)
    return F.cross_entropy(y.flatten(0, -2), target.to(y.dtype).flatten(0, -2))


def numbers(y: Tensor, g: torch.Generator) -> Tensor:
    return torch.randn(y.shape, generator=g, dtype=torch.float64)


def probabilities(y: Tensor, g: torch.Generator) -> Tensor:
    return torch.softmax(2 * numbers(y, g), -1)


Loss = Callable[[Any, Tensor], Tensor]
LOSSES: dict[str, tuple[Loss, Callable[[Tensor, torch.Generator], Tensor]]] = {
    "output": (projection, numbers),
    "mse": (mse, numbers),
    "cross entropy": (cross_entropy, probabilities),
}


@dataclass(frozen=True)
class Architecture:
    """A model (always the same one), what it is called with, and the loss that follows; a `detect.oracle.Subject`."""

    name: str
    group: str
    build: Callable[[], nn.Module]
    inputs: tuple[Make, ...] | dict[str, Make]
    loss: str

    def model(self) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return self.build().double()

    def example(self, g: torch.Generator) -> Inputs:
        if isinstance(self.inputs, dict):
            return {name: make(g) for name, make in self.inputs.items()}
        return tuple(make(g) for make in self.inputs)

    def target(self, output: Any, g: torch.Generator) -> Tensor:
        return LOSSES[self.loss][1](logits_of(output), g)

    def loss_of(self, output: Any, target: Tensor) -> Tensor:
        return LOSSES[self.loss][0](output, target)

    def __str__(self) -> str:
        return self.name


ARCHITECTURES: dict[str, Architecture] = {}

Factory = Callable[[], nn.Module]


def architecture(*inputs: Make, loss: str = "output", **named: Make) -> Callable[[Factory], Factory]:
    """Enter a factory into the table, under its name."""

    def enter(build: Factory) -> Factory:
        group = build.__module__.rpartition(".")[2]
        assert build.__name__ not in ARCHITECTURES, f"two architectures are called {build.__name__}"
        ARCHITECTURES[build.__name__] = Architecture(build.__name__, group, build, named or inputs, loss)
        return build

    return enter
