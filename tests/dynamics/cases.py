"""Tiny real models with their symmetries written by hand, and the loop that trains them beside their laws."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromech.dynamics import Laws, Reading, read
from neuromech.symmetry import Symmetry, SymmetrySet, Term

Closure = Callable[[int], Tensor]  # step -> loss
EXACT = 1e-12  # what |predicted - observed| / scale may grow to over a few hundred steps in float64


@dataclass
class Case:
    model: nn.Module
    symmetries: SymmetrySet
    loss: Closure

    @property
    def params(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())

    def laws(self) -> Laws:
        return Laws(self.symmetries, self.params)


@dataclass
class Run:
    """Stacked readings: every field is [steps + 1, rows]; `steps` has the settings that the caller wants to keep."""

    laws: Laws
    readings: list[Reading] = field(default_factory=list)

    def __getattr__(self, name: str) -> Tensor:
        return torch.stack([getattr(r, name) for r in self.readings])

    def error(self, law: str, family: int | None = None) -> float:
        """Largest |predicted - observed| / scale over steps and members."""
        rows = slice(None) if family is None else self.laws.slices[family]
        return float(((getattr(self, law) - self.observed).abs() / self.scale)[:, rows].max())


def normed(seed: int = 0) -> Case:
    """Linear, batch norm, ReLU, linear, ReLU, linear, cross entropy: every kind of family; minibatches, float64."""
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)
    ).double()  # fmt: skip
    symmetries = SymmetrySet(
        [
            Symmetry("scale", 5, (Term("0.weight", 0, 1), Term("0.bias", 0, 1)), broken_by=("eps of 1",)),
            Symmetry("translation", 5, (Term("0.bias", 0, 1),)),
            Symmetry("rescale", 5, (Term("1.weight", 0, 1), Term("1.bias", 0, 1), Term("3.weight", 1, -1))),
            Symmetry("rescale", 4, (Term("3.weight", 0, 1), Term("3.bias", 0, 1), Term("5.weight", 1, -1))),
            Symmetry("translation", 4, (Term("5.weight", 1, 1),)),
            Symmetry("translation", 1, (Term("5.bias", None, 1),)),
        ]
    )
    x, y = torch.randn(64, 4, generator=g, dtype=torch.float64), torch.randint(0, 3, (64,), generator=g)

    def loss(step: int) -> Tensor:
        here = (16 * step) % 64
        return F.cross_entropy(model(x[here : here + 16]), y[here : here + 16])

    return Case(model, symmetries, loss)


def smooth(seed: int = 0) -> Case:
    """Linear, linear, cross entropy over the full batch: infinitely smooth, with a quadratic and a linear family."""
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5
    symmetries = SymmetrySet(
        [
            Symmetry("rescale", 2, (Term("0.weight", 0, 1), Term("1.weight", 1, -1))),
            Symmetry("translation", 2, (Term("1.weight", 1, 1),)),
            Symmetry("translation", 1, (Term("1.bias", None, 1),)),
        ]
    )
    x, y = torch.randn(12, 3, generator=g, dtype=torch.float64), torch.randint(0, 3, (12,), generator=g)
    return Case(model, symmetries, lambda step: F.cross_entropy(model(x), y))


def sgd(case: Case, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(case.model.parameters(), **({"lr": 0.05} | options))


def backward(case: Case, step: int) -> None:
    case.model.zero_grad()
    case.loss(step).backward()


@contextmanager
def watched(case: Case, laws: Laws, optimizer: torch.optim.Optimizer) -> Iterator[list[Reading]]:
    """Around one `optimizer.step()`; the reading is in the list afterwards."""
    params = case.params
    grads = {name: p.grad for name, p in params.items() if p.grad is not None}
    laws.before(params, grads, read(optimizer, {p: name for name, p in params.items()}))
    out: list[Reading] = []
    yield out
    out.append(laws.after(params))


def train(
    case: Case,
    optimizer: torch.optim.Optimizer,
    steps: int,
    laws: Laws | None = None,
    each: Callable[[int], None] = lambda step: None,
    start: int = 0,
) -> Run:
    """`each(step)` runs between the backward pass and the step: to change settings, drop gradients."""
    run = Run(laws or case.laws())
    if laws is None:
        run.readings.append(run.laws.initial(case.params))
    for step in range(start, start + steps):
        backward(case, step)
        each(step)
        with watched(case, run.laws, optimizer) as reading:
            optimizer.step()
        run.readings += reading
    return run
