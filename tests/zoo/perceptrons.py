"""Perceptrons."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from zoo.base import Net, case


def mlp(activation: nn.Module, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3, bias=bias), activation, nn.Linear(3, 3, bias=bias))


@case(
    (6, 4),
    loss="cross entropy",
    expect="""
        rescale 3  0.weight[i], 0.bias[i] / 2.weight[:, i]
        translation 3  2.weight[:, i]
        translation 1  2.bias
    """,
)
def mlp_relu() -> nn.Module:
    return mlp(nn.ReLU())


@case(
    (6, 4),
    loss="mse",
    expect="""
        rescale 3  0.weight[i] / 2.weight[:, i]
    """,
)
def mlp_leaky_relu_without_bias() -> nn.Module:
    return mlp(nn.LeakyReLU(), bias=False)


@case(
    (6, 4),
    loss="bce",
    expect="""
        rescale 3  0.weight[i], 0.bias[i] / 2.weight[:, i]
    """,
)
def mlp_prelu_with_a_constant_slope() -> nn.Module:
    return mlp(nn.PReLU(init=0.3).requires_grad_(False))


@case(
    (6, 4),
    expect="""
        rescale 3  0.weight[i], 0.bias[i] / 2.weight[:, i]
    """,
)
def mlp_prelu() -> nn.Module:
    return mlp(nn.PReLU(3))


@case(
    (6, 4),
    loss="cross entropy",
    expect="""
        translation 3  2.weight[:, i]
        translation 1  2.bias
    """,
)
def mlp_gelu() -> nn.Module:
    return mlp(nn.GELU())


@case(
    (6, 4),
    loss="nll",
    expect="""
        translation 3  2.weight[:, i]
        translation 1  2.bias
    """,
)
def mlp_tanh_log_softmax() -> nn.Module:
    return nn.Sequential(*mlp(nn.Tanh()), nn.LogSoftmax(1))


@case(
    (6, 4),
    loss="mse",
    expect="""
        rescale 3  0.weight[i], 0.bias[i] / 2.weight[:, i]
        translation 3  2.weight[:, i]
        translation 1  2.bias
    """,
)
def mlp_softmax_mse() -> nn.Module:
    return nn.Sequential(*mlp(nn.ReLU()), nn.Softmax(1))


@case(
    (6, 4),
    loss="mse",
    expect="""
        rescale 3  a.weight[i], a.bias[i] / b.weight[:, i]^2
    """,
)
def mlp_squared_relu() -> nn.Module:
    return Net(lambda m, x: m.b(F.relu(m.a(x)) ** 2), a=nn.Linear(4, 3), b=nn.Linear(3, 2))


@case(
    (6, 4),
    loss="mse",
    expect="""
        rescale 3  a.weight[i]^2, a.bias[i]^2 / b.weight[:, i]
    """,
)
def mlp_square_root() -> nn.Module:
    return Net(lambda m, x: m.b(m.a(x).abs().sqrt()), a=nn.Linear(4, 3), b=nn.Linear(3, 2))


@case(
    (6, 4),
    loss="cross entropy",
    expect="""
        rescale 3  0.weight[i], 0.bias[i] / 3.weight[:, i]
        translation 3  3.weight[:, i]
        translation 1  3.bias
    """,
)
def mlp_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3), nn.ReLU(inplace=True), nn.Linear(3, 2))


@case(
    (6, 4),
    expect="""
        rescale 2  0.weight[i], 0.bias[i] / 1.weight[:, i]
        rescale 3  1.weight[i] / 2.weight[:, i]
    """,
)
def deep_linear() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3, bias=False), nn.Linear(3, 2))


@case(
    (6, 4),
    expect="""
        rescale 3  gate.weight[i], gate.bias[i] / out.weight[:, i]
        rescale 3  up.weight[i], up.bias[i] / out.weight[:, i]
    """,
)
def gated() -> nn.Module:
    return Net(
        lambda m, x: m.out(F.relu(m.gate(x)) * m.up(x)),
        gate=nn.Linear(4, 3), up=nn.Linear(4, 3), out=nn.Linear(3, 2),
    )  # fmt: skip


@case(
    (6, 4),
    expect="""
        rescale 3  up.weight[i], up.bias[i] / out.weight[:, i]
    """,
)
def swish_gated() -> nn.Module:
    return Net(
        lambda m, x: m.out(F.silu(m.gate(x)) * m.up(x)),
        gate=nn.Linear(4, 3), up=nn.Linear(4, 3), out=nn.Linear(3, 2),
    )  # fmt: skip


@case((6, 4))
def quotient() -> nn.Module:
    return Net(lambda m, x: m.a(x) / (m.b(x).abs() + 0.1), a=nn.Linear(4, 3), b=nn.Linear(4, 3))


@case(
    (6, 4),
    expect="""
        rescale 3  a.weight[i], a.bias[i], before[i] / b.weight[:, i]
        translation 3  a.bias[i] - before[i]
        translation 2  after[i] - b.bias[i]
    """,
)
def biases_around_dropout() -> nn.Module:
    """A mask stands between the two: only what meets on one side of it can be traded."""
    return Net(
        lambda m, x: m.b(F.dropout(m.a(x) + m.before, 0.5)) + m.after,
        a=nn.Linear(4, 3), before=(3,), b=nn.Linear(3, 2), after=(2,),
    )  # fmt: skip


@case(
    (6, 3),
    expect="""
        translation 3  a[i] - b[i]
    """,
)
def bias_on_both_sides_of_dropout() -> nn.Module:
    return Net(lambda m, x: F.dropout(x + m.a + m.b, 0.5) + m.c, a=(3,), b=(3,), c=(3,))
