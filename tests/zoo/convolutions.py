"""Convolutions."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from zoo.base import Net, case


@case(
    (4, 2, 8),
    loss="cross entropy",
    expect="""
        rescale 3  0.weight[i], 0.bias[i] / 4.weight.view(3, 3, 3)[:, i]
        translation 9  4.weight[:, i]
        translation 1  4.bias
    """,
)
def conv1d_flatten() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.MaxPool1d(3, 2, padding=1), nn.Flatten(), nn.Linear(9, 3))


@case(
    (4, 1, 6, 6),
    loss="cross entropy",
    expect="""
        scale 3  0.weight[i]
        rescale 3  1.weight[i], 1.bias[i] / 4.weight[:, i]
        scale 2  4.weight[i]
        rescale 2  5.weight[i], 5.bias[i] / 9.weight[:, i]
        rescale 3  9.weight[i], 9.bias[i] / 11.weight[:, i]
        translation 3  0.bias[i]
        translation 3  11.weight[:, i]
        translation 1  11.bias
    """,
)
def vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2),
    )  # fmt: skip


@case(
    (4, 1, 4, 4, 4),
    expect="""
        rescale 2  0.weight[i], 0.bias[i] / 4.weight.view(2, 2, 8)[:, i]
    """,
)
def conv3d_average_pool() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.AvgPool3d(2, padding=1), nn.Flatten(), nn.Linear(16, 2))


@case(
    (4, 4, 4, 4),
    expect="""
        rescale 4  0.weight.view(2, 2, 2, 2, 2)[i, j], 0.bias.view(2, 2)[i, j] / 2.weight[i, j]
    """,
)
def conv_grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 2, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 2, groups=2))


@case(
    (4, 3, 4, 4),
    loss="cross entropy",
    expect="""
        scale 3  0.weight[i]
        rescale 3  1.weight[i], 1.bias[i] / 3.weight[:, i]
        rescale 4  3.weight[i], 3.bias[i] / 7.weight[:, i]
        translation 3  0.bias[i]
        translation 4  7.weight[:, i]
        translation 1  7.bias
    """,
)
def conv_depthwise_separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


@case(
    (4, 2, 4, 4),
    expect="""
        rescale 4  0.weight[i], 0.bias[i] / 2.weight[i]
        rescale 4  2.weight[i], 2.bias[i] / 4.weight[:, i]
    """,
)
def conv_depth_multiplier() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 2, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=4), nn.ReLU(),
                         nn.Conv2d(4, 2, 1))  # fmt: skip


@case(
    (4, 2, 6, 6),
    expect="""
        rescale 3  0.weight[i], 0.bias[i] / 2.weight[:, i]
    """,
)
def conv_strided_dilated() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 2, stride=2, dilation=2), nn.LeakyReLU(), nn.Conv2d(3, 2, 3, padding="same"))


@case(
    (2, 5, 5),
    expect="""
        rescale 3  0.weight[i], 0.bias[i] / 2.weight[:, i]
    """,
)
def conv_unbatched() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2))


@case(
    (4, 2, 5, 5),
    expect="""
        rescale 3  0.weight[i], 0.bias[i] / 1.weight[:, i]
    """,
)
def conv_linear_chain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 2))


@case(
    (4, 2, 5, 5),
    expect="""
        translation 16  a.weight[i, j, k, l] - b.weight[i, j, k, l]
        translation 2  a.bias[i] - b.bias[i]
    """,
)
def conv_parallel() -> nn.Module:
    return Net(lambda m, x: m.a(x) + m.b(x), a=nn.Conv2d(2, 2, 2), b=nn.Conv2d(2, 2, 2))


@case(
    (4, 2, 3, 3),
    expect="""
        rescale 2  stem.weight[i], stem.bias[i] / a.weight[:, i], b.weight[:, i]
        translation 2  a.bias[i] - b.bias[i]
    """,
)
def conv_of_the_transpose() -> nn.Module:
    return Net(
        lambda m, x: m.a(h := m.stem(x)) + m.b(h.transpose(2, 3)),
        stem=nn.Conv2d(2, 2, 1), a=nn.Conv2d(2, 2, 1), b=nn.Conv2d(2, 2, 1),
    )  # fmt: skip


@case(
    (5, 2, 1, 2),
    expect="""
        rescale 3  a.weight[:, :, 1][i], a.bias[i] / b.weight[:, i]
        translation 36  a.weight[:, :, 0:3:2][j, k, i, l]
    """,
)
def taps_that_meet_nothing_but_zeros() -> nn.Module:
    return Net(lambda m, x: m.b(F.relu(m.a(x))), a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(3, 2, 1))
