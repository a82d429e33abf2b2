"""Small architectures and the symmetries that they must be found to have: factories -> expected families.

Each factory makes a fresh model; the decorator says what it is called with, what loss follows, and which families are
expected, as `kind size name`. `missed` lists symmetries that exist (the null-space oracle counts them) and are not
found, by domain, with their number and the reason: the tests hold it to exactly that number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Net(nn.Module):
    """`forward` is a function of the model and its inputs; parts are modules, shapes of parameters, or tensors."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | tuple[int, ...] | Tensor) -> None:
        super().__init__()
        self.compute = forward
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                setattr(self, name, part)
            elif isinstance(part, Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, nn.Parameter(torch.randn(part)))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.compute(self, *args, **kwargs)


Loss = Callable[[Any, Tensor], Tensor]
Target = Callable[[Tensor, torch.Generator], Tensor]


def classes(y: Tensor, g: torch.Generator) -> Tensor:
    return torch.randint(y.shape[1], (y.shape[0], *y.shape[2:]), generator=g)


def numbers(y: Tensor, g: torch.Generator) -> Tensor:
    return torch.randn(y.shape, generator=g, dtype=y.dtype)


def fractions(y: Tensor, g: torch.Generator) -> Tensor:
    return torch.rand(y.shape, generator=g, dtype=y.dtype)


def projection(y: Tensor, direction: Tensor) -> Tensor:
    """A loss that sees the whole output and nothing else."""
    return (y * direction).sum()


LOSSES: dict[str, tuple[Loss, Target]] = {
    "cross entropy": (F.cross_entropy, classes),
    "nll": (F.nll_loss, classes),
    "mse": (F.mse_loss, numbers),
    "bce": (F.binary_cross_entropy_with_logits, fractions),
    "output": (projection, numbers),
}


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    loss: str
    expected: tuple[str, ...]
    missed: dict[str, tuple[int, str]] = field(default_factory=dict)

    def inputs(self, g: torch.Generator) -> tuple[Tensor, ...]:
        return tuple(torch.randn(s, generator=g, dtype=torch.float64) for s in self.shapes)

    # What the oracle asks for (see detect/oracle.py).

    def model(self) -> nn.Module:
        return build(self)

    def example(self, g: torch.Generator) -> tuple[Tensor, ...]:
        return self.inputs(g)

    def target(self, output: Tensor, g: torch.Generator) -> Tensor:
        return LOSSES[self.loss][1](output.detach(), g)

    def loss_of(self, output: Tensor, target: Tensor) -> Tensor:
        return LOSSES[self.loss][0](output, target)

    def __str__(self) -> str:
        return self.name


CASES: list[Case] = []


def case(
    *shapes: tuple[int, ...],
    loss: str = "output",
    expect: str = "",
    missed: dict[str, tuple[int, str]] | None = None,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def enter(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        lines = tuple(line.strip() for line in expect.strip().splitlines())
        CASES.append(Case(build.__name__, build, shapes, loss, lines, missed or {}))
        return build

    return enter


def build(c: Case) -> nn.Module:
    """The model of a case in float64, always the same."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return c.build().double()
