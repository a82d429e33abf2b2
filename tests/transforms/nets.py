"""Small models with rescale symmetries of every form, far from balanced."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Example = Tensor


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Squared(nn.Module):
    """Weights 1 and 2: the square of a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)) ** 2)))


class Recurrent(nn.Module):
    """W -> D W D^-1: one family moves rows and columns of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w, self.c = nn.Linear(3, 5), nn.Linear(5, 5, bias=False), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.u(x))
        for _ in range(3):
            h = F.relu(self.w(h) + self.u(x))
        return self.c(h)


class Tied(nn.Module):
    """One weight under two names, twice in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 6)
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.LeakyReLU(), nn.Linear(6, 3))


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "two layers": (two_layers, (4, 5)),
    "mlp": (mlp, (4, 5)),
    "convolutions": (convolutions, (4, 2, 8, 8)),
    "gated": (Gated, (4, 5)),
    "squared": (Squared, (4, 5)),
    "recurrent": (Recurrent, (4, 3)),
}


def build(name: str, spread: float = 2.0) -> tuple[nn.Module, Tensor]:
    """The model in float64, its rows spread over e^(+-spread), and an example."""
    make, shape = MODELS[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = make().double()
        with torch.no_grad():
            for p in model.parameters():
                p *= torch.exp(spread * torch.randn(p.shape[0], *[1] * (p.ndim - 1), dtype=p.dtype))
        return model, torch.randn(shape, dtype=torch.float64)
