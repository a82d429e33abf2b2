"""Small models of many kinds, with places where a fault can be put in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 4


class Activation(nn.Module):
    """ReLU, until somebody exchanges `function`."""

    def __init__(self) -> None:
        super().__init__()
        self.function: Callable[[Tensor], Tensor] = torch.relu

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def rectifier(backward: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """ReLU as a custom function: `backward` makes the gradient of x from that of the output, and x."""

    class Rectifier(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return backward(g, *ctx.saved_tensors)

    function: Callable[[Tensor], Tensor] = Rectifier.apply
    return function


class Path(nn.Module):
    """Hands its input on, until somebody exchanges `function`."""

    def __init__(self) -> None:
        super().__init__()
        self.function: Callable[[Tensor], Tensor] = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.act, self.down = (
            nn.LayerNorm(width), nn.Linear(width, 2 * width), Activation(), nn.Linear(2 * width, width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(self.act(self.up(self.norm(x))))
        return out


class Attention(nn.Module):
    """One block of a transformer over tokens [batch, time, width]."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.query, self.key = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        h = self.norm(x)
        q, k, v = (f(h).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        out: Tensor = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))
        return out


class Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(32, 16), Activation(), Path(), nn.Linear(16, 12), Activation(), nn.Linear(12, CLASSES)
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), Activation(), Path(),
        nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), Activation(), nn.MaxPool2d((2, 1)), nn.Flatten(),
        nn.Linear(128, 12), Activation(), nn.Linear(12, CLASSES),
    )  # fmt: skip


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(32, 12), Residual(12), Path(), Residual(12), nn.LayerNorm(12), nn.Linear(12, 16),
        Activation(), nn.Linear(16, CLASSES),
    )  # fmt: skip


def transformer() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 12), Attention(12), Residual(12), Path(), Attention(12), Residual(12), nn.LayerNorm(12), Pool(),
        nn.Linear(12, 16), Activation(), nn.Linear(16, CLASSES),
    )  # fmt: skip


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(32, 16, bias=False), nn.BatchNorm1d(16), Activation(), Path(), nn.Linear(16, 16),
        nn.BatchNorm1d(16), Activation(), nn.Dropout(0.1), nn.Linear(16, CLASSES),
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {
    f.__name__: f for f in (perceptron, convolutional, residual, transformer, normed)
}
