"""Modules registered as one operation: followed where the rule is right, refused where it is wrong."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuromech.detect import (
    contraction,
    find_symmetries,
    like,
    movement,
    pointwise,
    register_module,
    register_operator,
    unregister_module,
)
from neuromech.detect.module_rules import MODULES
from neuromech.errors import DetectionError


class _Product(torch.autograd.Function):
    """x w^T by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.T

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return g @ w, g.flatten(0, -2).T @ x.flatten(0, -2)


class Fast(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(o, i))

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self.w)


class FastWithBias(Fast):
    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o)
        self.b = nn.Parameter(torch.randn(o))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.b


class Rectified(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Relu.apply(x)


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (ctx.saved_tensors[0] > 0)


LINEAR, X = contraction("bi,oi->bo"), torch.randn(5, 3)


def net(cls: type[Fast] = Fast) -> nn.Module:
    return nn.Sequential(cls(3, 4), Rectified(), cls(4, 2))


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    for cls in list(MODULES):
        unregister_module(cls)


def test_a_registered_module_is_followed() -> None:
    before = find_symmetries(nn.Sequential(Fast(3, 4), nn.ReLU(), nn.Linear(4, 2)), X)
    assert [o.module for o in before.opaque] == ["0", "0"]
    assert not before
    register_module(Fast, LINEAR, (Fast(3, 4), X))
    register_module(Rectified, pointwise(degree=1), (Rectified(), X))
    after = find_symmetries(net(), X)
    assert [s.name for s in after] == ["0.w[i] / 2.w[:, i]"]
    assert not after.opaque
    assert after.complete()


def test_matrices_pass() -> None:
    register_module(Fast, LINEAR, (Fast(3, 4), X))
    assert find_symmetries(nn.Sequential(Fast(3, 4), Fast(4, 2)), X).dimension["matrix"] == 12


def test_arguments_by_name_and_a_bias() -> None:
    example = FastWithBias(3, 4), X
    register_module(FastWithBias, like("aten::linear"), example)
    unregister_module(FastWithBias)
    register_module(FastWithBias, like("aten::linear"), example, lambda m, x: (x, m.w, m.b))
    register_module(Rectified, pointwise(degree=1), (Rectified(), X))
    assert find_symmetries(net(FastWithBias), X).dimension["scaling"] == 4


def test_a_subclass_has_a_forward_of_its_own() -> None:
    register_module(Fast, LINEAR, (Fast(3, 4), X))
    assert find_symmetries(nn.Sequential(FastWithBias(3, 4), nn.ReLU(), nn.Linear(4, 2)), X).opaque


@pytest.mark.parametrize("rule", [contraction("bi,io->bo"), contraction("bi,oi->ob"), pointwise(degree=1)])
def test_wrong_rules_are_refused_and_forgotten(rule: Any) -> None:
    with pytest.raises(DetectionError, match="the rule for Fast is wrong"):
        register_module(Fast, rule, (Fast(3, 3), torch.randn(3, 3)))
    register_module(Fast, LINEAR, (Fast(3, 3), torch.randn(3, 3)))


def test_a_parameter_that_the_rule_forgets_is_missed() -> None:
    with pytest.raises(DetectionError, match="b reach"):
        register_module(FastWithBias, LINEAR, (FastWithBias(3, 4), X), lambda m, x: (x, m.w))


def test_a_wrong_degree_is_refused() -> None:
    with pytest.raises(DetectionError, match="wrong"):
        register_module(Rectified, pointwise(degree=2), (Rectified(), X))
    with pytest.raises(DetectionError, match="wrong"):
        register_module(Rectified, movement("ab->ab"), (Rectified(), X))


def test_what_cannot_be_registered_is_said() -> None:
    register_module(Fast, LINEAR, (Fast(3, 4), X))
    with pytest.raises(DetectionError, match="already"):
        register_module(Fast, LINEAR, (Fast(3, 4), X))
    with pytest.raises(DetectionError, match="not a class of modules"):
        register_module(Fast(3, 4), LINEAR, (Fast(3, 4), X))  # type: ignore[arg-type]
    with pytest.raises(DetectionError, match="example="):
        register_module(Rectified, pointwise(degree=1), (X,))
    with pytest.raises(DetectionError, match="no rule"):
        unregister_module(Rectified)
    with pytest.raises(DetectionError, match="no operator"):
        register_operator("nmtest::nowhere", LINEAR)


def test_forwards_are_put_back() -> None:
    register_module(Fast, LINEAR, (Fast(3, 4), X))
    model = net()
    mine = model[2].forward = model[2].forward  # type: ignore[method-assign]
    find_symmetries(model, X)
    assert "forward" not in vars(model[0])
    assert model[2].forward is mine
