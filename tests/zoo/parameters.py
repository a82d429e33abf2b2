"""Bare parameters, broadcasting, shared weights, products."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from zoo.base import Net, case


@case(
    (5, 3),
    expect="""
        rescale 4  a[:, i] / b[i]
    """,
)
def bare_matrices() -> nn.Module:
    return Net(lambda m, x: torch.addmm(m.c, F.relu(x @ m.a), m.b), a=(3, 4), b=(4, 2), c=(2,))


@case(
    (3, 4),
    expect="""
        rescale 2  a[:, i] / b[i]
    """,
)
def matrix_times_vector() -> nn.Module:
    return Net(lambda m, x: F.relu(x @ m.a).matmul(m.b), a=(4, 2), b=(2,))


@case(
    (5, 3),
    expect="""
        translation 2  c[i] - d[i] x2
    """,
)
def scaled_addmm() -> nn.Module:
    return Net(lambda m, x: torch.addmm(m.c, x, m.a, beta=2, alpha=3) + m.d, a=(3, 2), c=(2,), d=(2,))


@case(
    (3, 2, 4, 4),
    expect="""
        rescale 3  a.weight[i], a.bias[i] / b.weight[:, i]
        rescale 3  gain[i] / b.weight[:, i]
    """,
)
def gain_per_channel() -> nn.Module:
    return Net(lambda m, x: m.b(F.relu(m.gain * m.a(x))), a=nn.Conv2d(2, 3, 2), gain=(3, 1, 1), b=nn.Conv2d(3, 2, 2))


@case(
    (5, 3),
    expect="""
        rescale 4  a.weight[i], a.bias[i] / b.weight[:, i]
        rescale 1  b.weight, b.bias / gain
    """,
)
def gain_of_all() -> nn.Module:
    return Net(lambda m, x: m.b(F.relu(m.a(x))) * m.gain, a=nn.Linear(3, 4), b=nn.Linear(4, 2), gain=())


@case(
    (5, 3),
    expect="""
        translation 1  row - all
        translation 1  column - all
    """,
)
def broadcast_sum() -> nn.Module:
    return Net(lambda m, x: (m.row + m.column + m.all) * x, row=(3,), column=(5, 1), all=(1, 1))


@case(
    (5, 3),
    expect="""
        rescale 1  w, v / p
        translation 3  w[i] - v[i] x4
        translation 9  w[:, 0:3][i, j] - w[:, 1:4][i, j]
    """,
)
def expanded_parameter() -> nn.Module:
    return Net(lambda m, x: x.sum(1, keepdim=True) * (m.w @ m.p.expand(4) + m.v * m.p), w=(3, 4), p=(1,), v=(3,))


@case(
    (5, 3),
    expect="""
        rescale 4  stem.weight[i], stem.bias[i], w.weight[i] / w.weight[:, i], out.weight[:, i]
        rescale 1  w.weight / out.weight^2
    """,
)
def shared_layer() -> nn.Module:
    return Net(
        lambda m, x: m.out(F.relu(m.w(F.relu(m.w(m.stem(x)))))),
        stem=nn.Linear(3, 4), w=nn.Linear(4, 4, bias=False), out=nn.Linear(4, 2),
    )  # fmt: skip


@case((5, 3))
def tied_autoencoder() -> nn.Module:
    return Net(lambda m, x: F.relu(F.linear(x, m.w, m.b)) @ m.w + m.c, w=(4, 3), b=(4,), c=(3,))


@case(
    (3, 3),
    expect="""
        rescale 3  w[i], w[:, i] / v[i], v[:, i]
        translation 3  w[i] - w[:, i]
    """,
    missed={
        "scaling": (3, "functions of unordered pairs are no families"),
        "translation": (1, "antisymmetric ones neither"),
    },
)
def symmetric_weight() -> nn.Module:
    return Net(
        lambda m, x: x @ ((m.w + m.w.T) * m.v), w=(3, 3), v=(3, 3),
    )  # fmt: skip


@case(
    (5, 3),
    expect="""
        translation 9  a[i, j] - b[j, i]
    """,
)
def transposed_sum() -> nn.Module:
    return Net(lambda m, x: x @ (m.a + m.b.T), a=(3, 3), b=(3, 3))


@case((4, 3, 2))
def self_product() -> nn.Module:
    return Net(lambda m, x: (h := m.a(x)) @ h.transpose(1, 2), a=nn.Linear(2, 3))


@case(
    (4, 3, 2),
    expect="""
        rescale 2  q.weight[i], q.bias[i] / k.weight[i]
        rescale 2  v.weight[i], v.bias[i] / o.weight[:, i]
        translation 2  k.bias[i]
    """,
)
def attention() -> nn.Module:
    return Net(
        lambda m, x: m.o(torch.softmax(m.q(x) @ m.k(x).transpose(1, 2) / 2**0.5, -1) @ m.v(x)),
        q=nn.Linear(2, 2), k=nn.Linear(2, 2), v=nn.Linear(2, 2), o=nn.Linear(2, 2),
    )  # fmt: skip


@case(
    (3, 4),
    expect="""
        rescale 2  a[:, i] / b[i]
    """,
)
def linear_with_a_vector() -> nn.Module:
    return Net(lambda m, x: F.linear(F.relu(x @ m.a), m.b), a=(4, 2), b=(2,))
