"""Residual streams and parallel branches."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from zoo.base import Net, case


@case(
    (5, 3),
    expect="""
        rescale 3  stem.weight[i], stem.bias[i], c.weight[i], c.bias[i] / b.weight[:, i], out.weight[:, i]
        rescale 2  b.weight[i], b.bias[i] / c.weight[:, i]
    """,
)
def residual() -> nn.Module:
    return Net(
        lambda m, x: m.out((h := F.relu(m.stem(x))) + m.c(F.relu(m.b(h)))),
        stem=nn.Linear(3, 3), b=nn.Linear(3, 2), c=nn.Linear(2, 3), out=nn.Linear(3, 2),
    )  # fmt: skip


@case(
    (5, 3),
    expect="""
        rescale 4  b.weight[i], b.bias[i] / c.weight[:, i]
    """,
)
def residual_of_the_input() -> nn.Module:
    return Net(lambda m, x: m.out(x + m.c(F.relu(m.b(x)))), b=nn.Linear(3, 4), c=nn.Linear(4, 3), out=nn.Linear(3, 2))


@case(
    (5, 3),
    expect="""
        rescale 3  stem.weight[i], stem.bias[i], w.weight[i], w.bias[i] / w.weight[:, i], out.weight[:, i]
    """,
)
def residual_square() -> nn.Module:
    return Net(
        lambda m, x: m.out((h := m.stem(x)) + m.w(h)), stem=nn.Linear(3, 3), w=nn.Linear(3, 3), out=nn.Linear(3, 2)
    )


@case(
    (4, 1, 4, 4),
    loss="cross entropy",
    expect="""
        scale 2  s.0.weight[i]
        rescale 2  s.1.weight[i], s.1.bias[i], f.4.weight[i], f.4.bias[i] / f.0.weight[:, i], head.weight[:, i]
        scale 2  f.0.weight[i]
        rescale 2  f.1.weight[i], f.1.bias[i] / f.3.weight[:, i]
        scale 2  f.3.weight[i]
        translation 2  head.weight[:, i]
        translation 1  head.bias
    """,
)
def resnet() -> nn.Module:
    return Net(
        lambda m, x: m.head(F.relu((h := m.s(x)) + m.f(h)).mean((2, 3))),
        s=nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.ReLU()),
        f=nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.ReLU(),
                            nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)),
        head=nn.Linear(2, 3),
    )  # fmt: skip


@case(
    (4, 2, 4, 4),
    loss="cross entropy",
    expect="""
        scale 2  f.0.weight[i]
        rescale 2  f.1.weight[i], f.1.bias[i] / f.3.weight[:, i]
        scale 3  f.3.weight[i]
        rescale 3  f.4.weight[i], f.4.bias[i], g.1.weight[i], g.1.bias[i] / head.weight.view(2, 3, 4)[:, i]
        scale 3  g.0.weight[i]
        translation 2  f.0.bias[i]
        translation 3  f.3.bias[i]
        translation 3  f.4.bias[i] - g.1.bias[i]
        translation 3  g.0.bias[i]
        translation 12  head.weight[:, i]
        translation 1  head.bias
    """,
)
def resnet_downsample() -> nn.Module:
    return Net(
        lambda m, x: m.head(F.relu(m.f(x) + m.g(x)).flatten(1)),
        f=nn.Sequential(nn.Conv2d(2, 2, 3, 2, padding=1), nn.BatchNorm2d(2), nn.ReLU(),
                            nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)),
        g=nn.Sequential(nn.Conv2d(2, 3, 1, 2), nn.BatchNorm2d(3)),
        head=nn.Linear(12, 2),
    )  # fmt: skip


@case(
    (5, 3),
    expect="""
        rescale 4  a.weight[i], a.bias[i], b.weight[i], b.bias[i] / out.weight[:, i]
        translation 12  a.weight[i, j] - b.weight[i, j]
        translation 4  a.bias[i] - b.bias[i]
    """,
)
def parallel_branches() -> nn.Module:
    return Net(lambda m, x: m.out(F.relu(m.a(x) + m.b(x))), a=nn.Linear(3, 4), b=nn.Linear(3, 4), out=nn.Linear(4, 2))


@case(
    (5, 3),
    expect="""
        translation 6  a.weight[i, j] x10 - w[j, i]
        translation 2  a.bias[i] x10, b.bias[i] x3
        translation 6  b.weight[i, j] x3, w[j, i]
    """,
)
def parallel_branches_weighted() -> nn.Module:
    return Net(lambda m, x: 0.1 * m.a(x) - m.b(x) / 3 + x @ m.w, a=nn.Linear(3, 2), b=nn.Linear(3, 2), w=(3, 2))
