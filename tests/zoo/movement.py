"""Views, transposes, pools and sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.base import Net, case


@case(
    (3, 2, 4),
    expect="""
        rescale 6  q.weight[i], q.bias[i] / k.weight[i], k.bias[i]
    """,
)
def multi_head() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k = (w(x).view(3, 2, 2, 3).transpose(1, 2) for w in (m.q, m.k))
        return (q @ k.mT).flatten(1)

    return Net(forward, q=nn.Linear(4, 6), k=nn.Linear(4, 6))


@case(
    (4, 1, 4, 4),
    loss="cross entropy",
    expect="""
        rescale 2  0.weight[i], 0.bias[i] / 3.weight.view(2, 2, 4)[:, i]
        translation 8  3.weight[:, i]
        translation 1  3.bias
    """,
)
def flatten_to_linear() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))


@case(
    (3, 4),
    expect="""
        rescale 2  a.weight.view(3, 2, 4)[:, i], a.bias.view(3, 2)[:, i] / b.weight[:, i]
    """,
)
def views_that_do_not_nest() -> nn.Module:
    return Net(
        lambda m, x: m.b(F.relu(m.a(x).view(3, 2, 3)).reshape(3, 3, 2)), a=nn.Linear(4, 6), b=nn.Linear(2, 2),
    )  # fmt: skip


@case(
    (3, 4),
    expect="""
        rescale 6  a.weight.view(2, 3, 4)[i, j], a.bias.view(2, 3)[i, j] / b.weight.view(2, 3, 2)[:, j, i]
    """,
)
def views_that_nest() -> nn.Module:
    return Net(
        lambda m, x: m.b(F.relu(m.a(x).view(3, 2, 3)).transpose(1, 2).reshape(3, 6)),
        a=nn.Linear(4, 6), b=nn.Linear(6, 2),
    )  # fmt: skip


@case(
    (3, 3, 2),
    expect="""
        rescale 1  tokens.weight, tokens.bias / channels.weight
    """,
)
def mixer() -> nn.Module:
    return Net(
        lambda m, x: m.channels(F.relu(m.tokens(x.transpose(1, 2)).transpose(1, 2))),
        tokens=nn.Linear(3, 4), channels=nn.Linear(2, 3),
    )  # fmt: skip


@case(
    (4, 3, 2),
    expect="""
        rescale 3  a.weight[i], a.bias[i] / b.weight[:, i]
    """,
)
def mean_over_tokens() -> nn.Module:
    return Net(lambda m, x: m.b(F.relu(m.a(x)).mean(1)), a=nn.Linear(2, 3), b=nn.Linear(3, 2))


@case((4, 3, 2))
def sum_over_channels() -> nn.Module:
    return Net(lambda m, x: F.relu(m.a(x)).sum(-1) + m.c, a=nn.Linear(2, 3), c=())


@case(
    (4, 3, 2),
    expect="""
        rescale 1  a.weight, a.bias / b.weight
    """,
)
def largest_channel() -> nn.Module:
    return Net(lambda m, x: m.b(F.relu(m.a(x)).amax(-1)), a=nn.Linear(2, 4), b=nn.Linear(3, 2))


@case(
    (4, 3, 2),
    expect="""
        rescale 3  a.weight[i], a.bias[i], p[:, i] / b.weight[:, i]
        translation 3  a.bias[i] - p[:, i]
    """,
)
def positions() -> nn.Module:
    return Net(lambda m, x: m.b(F.relu(m.a(x) + m.p)), a=nn.Linear(2, 3), p=(3, 3), b=nn.Linear(3, 2))


@case(
    (4, 2, 4, 4),
    expect="""
        translation 2  a.bias[i] - c[i]
        translation 2  p[i] - c[i]
    """,
)
def bias_through_pools() -> nn.Module:
    return Net(
        lambda m, x: F.avg_pool2d(m.a(x), 2) + F.max_pool2d(x + m.p, 2) + m.c, a=nn.Conv2d(2, 2, 1), p=(2, 1, 1),
        c=(2, 1, 1),
    )  # fmt: skip


@case(
    (4, 2, 4, 4),
    expect="""
        translation 2  a[i] x3 - d[i] x4
        translation 2  c[i] - d[i]
    """,
)
def bias_through_other_pools() -> nn.Module:
    return Net(
        lambda m, x: F.avg_pool2d(x + m.a, 2, divisor_override=3) + F.avg_pool2d(x + m.b, 3, 2, 1)
        + F.avg_pool2d(x + m.c, 3, 2, 1, count_include_pad=False) + m.d,
        a=(2, 1, 1), b=(2, 1, 1), c=(2, 1, 1), d=(2, 1, 1),
    )  # fmt: skip


@case(
    (3, 2, 2),
    expect="""
        translation 8  a.weight[i, j] - b.weight[i, j]
        translation 2  a.bias[i] - b.bias[i]
    """,
)
def two_views_of_the_input() -> nn.Module:
    return Net(lambda m, x: m.a(x.flatten(1)) + m.b(x.reshape(3, 4)), a=nn.Linear(4, 2), b=nn.Linear(4, 2))


@case(
    (5, 3),
    expect="""
        translation 12  a.weight[:, 0:3][i, j] - b.weight[i, j]
        translation 12  a.weight[:, 3:6][i, j] - b.weight[i, j]
        translation 4  a.bias[i] - b.bias[i]
    """,
)
def beside_itself() -> nn.Module:
    """What multiplies the same numbers can be traded, wherever they stand."""
    return Net(lambda m, x: m.a(torch.cat([x, x], 1)) + m.b(x), a=nn.Linear(6, 4), b=nn.Linear(3, 4))


@case(
    (5, 3),
    expect="""
        rescale 2  b.weight[i], b.bias[i] / a.weight.as_strided((4, 2, 2), (7, 5, 1), 0)[:, :, i]
        translation 8  a.weight[:, 0:2][i, j] - a.weight[:, 5:7][i, j]
    """,
)
def hidden_units_twice() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = F.relu(m.b(x))
        return m.a(torch.cat([h, x, h], 1))

    return Net(forward, a=nn.Linear(7, 4), b=nn.Linear(3, 2))


@case(
    (5, 3),
    expect="""
        translation 4  a.weight[:, 3][i] - a.bias[i]
    """,
)
def a_one_beside_the_input() -> nn.Module:
    return Net(lambda m, x: m.a(torch.cat([x, torch.ones_like(x[:, :1])], 1)), a=nn.Linear(4, 4))


@case(
    (5, 2, 3, 3),
    expect="""
        translation 16  a.weight[:, 0:2][i, j, k, l] - a.weight[:, 2:4][i, j, k, l]
    """,
)
def a_picture_beside_itself() -> nn.Module:
    return Net(lambda m, x: m.a(torch.cat([x, x], 1)), a=nn.Conv2d(4, 2, 2))


@case(
    (5, 4),
    expect="""
        translation 8  a.weight[0:2][i, j] - a.weight[1:3][i, j]
        translation 2  a.bias[0:2][i] - a.bias[1:3][i]
    """,
)
def a_sum_over_rows() -> nn.Module:
    return Net(lambda m, x: m.a(x).sum(1), a=nn.Linear(4, 3))
