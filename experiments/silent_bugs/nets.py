"""Small networks, data and a loop: what the bugs and the healthy runs are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import Optimizer

import neuromech
from neuromech.monitor import Fault

CLASSES = 4


class Watched:
    """An instrumented model: what the monitor reports comes to `faults`, with the iteration in which it was said."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self.iteration = 0
        self.faults: list[tuple[int, Fault]] = []
        self.probe = neuromech.instrument(model)
        self.monitor = self.probe.monitor(self._hear, **options)

    def _hear(self, fault: Fault) -> None:
        self.faults.append((self.iteration, fault))

    def until(self, last: int) -> Iterator[int]:
        """The iterations from the next one to `last`."""
        while self.iteration < last:
            self.iteration += 1
            yield self.iteration


def data(n: int = 128, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 12, generator=g)
    return x, (x @ torch.randn(12, CLASSES, generator=g)).argmax(1)


def perceptron(seed: int = 0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)]
    return nn.Sequential(*layers[:1], *([nn.BatchNorm1d(16)] if norm else []), *layers[1:])


class Language(nn.Module):
    """A small causal transformer without its causes: embedding, one block, a head."""

    def __init__(self, seed: int = 0, vocabulary: int = 20, width: int = 16, tied: bool = False, **embedding: Any):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(vocabulary, width, **embedding)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids) + self.position[: ids.shape[1]]
        n = self.norm1(h)
        q, k, v = (m(n).unflatten(-1, (2, -1)).transpose(1, 2) for m in (self.query, self.key, self.value))
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        h = h + self.down(F.relu(self.up(self.norm2(h))))
        out: Tensor = self.head(self.norm3(h))
        return out


def tokens(n: int = 16, seed: int = 0, lowest: int = 0) -> Tensor:
    return torch.randint(lowest, 20, (n, 8), generator=torch.Generator().manual_seed(seed))


def rows(k: int, size: int = 16, n: int = 128) -> Tensor:
    return torch.arange(k * size, (k + 1) * size) % n


def loss_of(model: Callable[..., Tensor], k: int, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x[rows(k)]), y[rows(k)])


def _nothing(step: int) -> None:
    pass


def steps(watched: Watched, model: nn.Module, optimizer: Optimizer, n: int, **also: Callable[[int], Any]) -> None:
    """Up to iteration `n`; `also`: what else is done at begin, gradient (after the backward), end of each."""
    x, y = data()
    begin, gradient, end = (also.get(when, _nothing) for when in ("begin", "gradient", "end"))
    for k in watched.until(n):
        begin(k)
        optimizer.zero_grad()
        loss_of(model, k, x, y).backward()
        gradient(k)
        optimizer.step()
        end(k)


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **({"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3} | options))


def gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


def perturb(model: nn.Module, rho: float = 0.05) -> list[Tensor]:
    """Up along the gradient; returns the perturbation."""
    params = [p for p in model.parameters() if p.grad is not None]
    norm = torch.stack([p.grad.norm() for p in params if p.grad is not None]).norm() + 1e-12
    with torch.no_grad():
        es = [rho * p.grad / norm for p in params if p.grad is not None]
        for p, e in zip(params, es, strict=True):
            p.add_(e)
    return es
