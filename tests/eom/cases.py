"""Small smooth networks in double precision, on one frozen batch, and the slope of an error against lr."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromech.eom import as_function
from neuromech.eom.landscape import LossFunction
from neuromech.params import Params, combine, norm


class Block(nn.Module):
    """A pre-norm attention block with a smooth feed-forward part."""

    def __init__(self, width: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(x)))


def squares(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().mean()


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, torch.randn(9, 4).double(), torch.randn(9, 3).double()


def conv() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    ).double()
    return model, torch.randn(6, 1, 6, 6).double(), torch.randn(6, 3).double()


def attention() -> tuple[nn.Module, Tensor, Tensor]:
    return Block().double(), torch.randn(5, 4, 4).double(), torch.randn(5, 4, 4).double()


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor, Tensor]]] = {"mlp": mlp, "conv": conv, "attention": attention}


def problem(name: str = "mlp", seed: int = 0) -> tuple[LossFunction, Params]:
    torch.manual_seed(seed)
    model, x, y = NETWORKS[name]()
    return as_function(model, squares, x, y)


def distance(x: Params, y: Params) -> float:
    return float(norm(combine([(1.0, x), (-1.0, y)])))


def slope(error: Callable[[float], float], rates: Sequence[float]) -> float:
    """d ln(error) / d ln(lr) at the two smallest of `rates`, which fall."""
    a, b = rates[-2:]
    return math.log(error(a) / error(b)) / math.log(a / b)
