"""Batch norm and other norms."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from zoo.base import Net, case


@case(
    (5, 3),
    loss="mse",
    expect="""
        scale 4  0.weight[i]
        rescale 4  1.weight[i], 1.bias[i] / 3.weight[:, i]
        translation 4  0.bias[i]
    """,
)
def batch_norm_1d() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


@case(
    (4, 1, 4, 4),
    expect="""
        rescale 2  1.weight[i], 1.bias[i] / 3.weight[:, i]
    """,
)
def batch_norm_eval() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 2))
    body[1].running_mean.normal_()
    return body.eval()


@case(
    (4, 1, 4, 4),
    expect="""
        scale 2  0.weight[i]
        translation 2  0.bias[i]
    """,
)
def batch_norm_without_gain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2, affine=False), nn.ReLU(), nn.Conv2d(2, 2, 2))


@case(
    (4, 1, 4, 4),
    expect="""
        scale 2  0.weight[i]
        translation 2  0.bias[i]
    """,
)
def batch_norm_without_statistics() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2, track_running_stats=False), nn.ReLU()).eval()


@case(
    (4, 1, 4, 4),
    expect="""
        scale 2  0.weight[i], 0.bias[i]
        rescale 2  2.weight[i], 2.bias[i] / 3.weight[:, i]
    """,
)
def batch_norm_after_relu() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 2))


@case(
    (4, 1, 5, 5),
    expect="""
        rescale 2  0.weight[i] / 1.weight[:, i]
        scale 3  1.weight[i]
        rescale 3  2.weight[i], 2.bias[i] / 3.weight[:, i]
        translation 2  0.bias[i]
        translation 3  1.bias[i]
    """,
)
def batch_norm_after_two_convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))


@case(
    (4, 1, 5, 5),
    expect="""
        rescale 2  0.weight[i], 0.bias[i] / 1.weight[:, i]
        scale 2  1.weight[i]
        rescale 2  2.weight[i], 2.bias[i] / 3.weight[:, i]
        translation 2  1.bias[i]
    """,
)
def batch_norm_after_padding() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))


@case(
    (5, 3),
    expect="""
        scale 1  0.weight, 0.bias
        rescale 4  1.weight[i], 1.bias[i] / 3.weight[:, i]
        translation 3  0.weight[:, i]
        translation 1  0.bias
    """,
)
def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))


@case(
    (5, 3),
    expect="""
        scale 1  a.weight, a.bias, c.weight, c.bias
        rescale 4  norm.weight[i], norm.bias[i] / b.weight[:, i], head.weight[:, i]
        rescale 2  b.weight[i], b.bias[i] / c.weight[:, i]
        translation 3  a.weight[:, i]
        translation 1  a.bias
        translation 2  c.weight[:, i]
        translation 1  c.bias
    """,
)
def layer_norm_stream() -> nn.Module:
    return Net(
        lambda m, x: (h := m.a(x), m.head(m.norm(h + m.c(F.relu(m.b(m.norm(h)))))))[1],
        a=nn.Linear(3, 4), b=nn.Linear(4, 2), c=nn.Linear(2, 4), norm=nn.LayerNorm(4), head=nn.Linear(4, 2),
    )  # fmt: skip


@case(
    (3, 2, 4, 4),
    expect="""
        scale 2  0.weight.view(2, 2, 2, 2, 2)[i], 0.bias.view(2, 2)[i]
        rescale 4  1.weight[i], 1.bias[i] / 3.weight[:, i]
        translation 2  0.bias.view(2, 2)[i]
    """,
)
def group_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 2))


@case(
    (3, 2, 4, 4),
    expect="""
        scale 3  0.weight[i]
        rescale 3  1.weight[i], 1.bias[i] / 3.weight[:, i]
        translation 3  0.bias[i]
    """,
)
def instance_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.InstanceNorm2d(3, affine=True), nn.ReLU(), nn.Conv2d(3, 2, 2))


@case(
    (5, 3),
    expect="""
        scale 1  a.weight, a.bias
    """,
)
def unit_length() -> nn.Module:
    return Net(lambda m, x: (h := m.a(x)) / h.norm(dim=1, keepdim=True), a=nn.Linear(3, 4))


@case(
    (5, 3),
    expect="""
        scale 4  w[:, i]
    """,
)
def weight_rows_of_unit_length() -> nn.Module:
    return Net(lambda m, x: m.b(F.relu(x @ (m.w / m.w.norm(dim=0)))), w=(3, 4), b=nn.Linear(4, 2))


@case(
    (5, 3),
    loss="mse",
    expect="""
        scale 1  0.weight, 0.bias
        translation 3  0.weight[:, i]
        translation 1  0.bias
        translation 2  2.weight[i]
    """,
)
def layer_norm_without_gain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2))


@case(
    (5, 3),
    loss="mse",
    expect="""
        translation 3  0.weight[:, i]
        translation 1  0.bias
        translation 2  2.weight[i] - 2.bias[i]
    """,
)
def softmax_read_by_a_layer() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2))


@case(
    (6, 3),
    expect="""
        scale 4  0.weight[i]
        rescale 4  1.weight[i], 1.bias[i] / 2.weight[:, i]
    """,
)
def batch_norm_after_a_bare_product() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
