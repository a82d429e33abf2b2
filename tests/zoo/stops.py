"""What stands still, and what nothing passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.base import Net, case
from zoo.perceptrons import mlp


@case((5, 3))
def frozen_layer() -> nn.Module:
    model = mlp(nn.ReLU())
    model[0] = nn.Linear(3, 3)
    model[2].requires_grad_(False)
    return model


@case(
    (5, 3),
    expect="""
        rescale 4  a.weight[i], a.bias[i] / b.weight[:, i]
    """,
)
def detached_branch() -> nn.Module:
    return Net(
        lambda m, x: m.b(F.relu(m.a(x))) * m.c(x).detach() + m.c(x),
        a=nn.Linear(3, 4), b=nn.Linear(4, 2), c=nn.Linear(3, 2),
    )  # fmt: skip


@case(
    (5, 3),
    missed={"scaling": (4, "the gradient does not see the branch, but the finite transformation moves the loss")},
)
def branch_without_gradient() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = m.a(x).abs().mean()
        return m.b(F.relu(m.a(x))) + scale

    return Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2))


@case(
    (5, 3),
    missed={"scaling": (4, "the gradient does not see the number, but the finite transformation moves the loss")},
)
def read_as_a_number() -> nn.Module:
    return Net(lambda m, x: m.b(F.relu(m.a(x))) * m.a(x).abs().mean().item(), a=nn.Linear(3, 4), b=nn.Linear(4, 2))


@case(
    (5, 3),
    expect="""
        rescale 4  a.weight[i], a.bias[i], c[i] / b.weight[:, i]
        translation 4  a.bias[i] - c[i] x2
    """,
)
def in_place() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x).mul_(2.0)
        h += m.c
        h.relu_()
        return m.b(h)

    return Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2), c=(4,))


@case(
    (5, 3),
    expect="""
        rescale 2  c.weight[i], c.bias[i] / d.weight[:, i]
        translation 2  b.bias[i] - d.bias[i]
    """,
    missed={"scaling": (4, "there is no rule for cumprod")},
)
def unknown_operator() -> nn.Module:
    return Net(
        lambda m, x: m.b(F.relu(m.a(x)).cumprod(1)) + m.d(F.relu(m.c(x))),
        a=nn.Linear(3, 4), b=nn.Linear(4, 2), c=nn.Linear(3, 2), d=nn.Linear(2, 2),
    )  # fmt: skip
