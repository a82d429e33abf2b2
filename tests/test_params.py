"""The algebra of parameters: `dict[str, Tensor]`, scalars in float64."""

import torch
from torch import nn

from neuromech import params as P


def test_a_tied_parameter_is_named_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert list(P.named_parameters(model)) == ["0.weight"]


def test_dot_and_norm_are_taken_over_common_names_in_float64() -> None:
    x, y = {"a": torch.tensor([3.0, 4.0]), "b": torch.ones(1)}, {"a": torch.tensor([1.0, 2.0]), "c": torch.ones(5)}
    assert P.dot(x, y) == 11
    assert P.dot(x, y).dtype == torch.float64
    assert P.norm({"a": x["a"]}) == 5
    assert P.dot(x, {}) == 0
    # 1 is lost beside 1e8 in float32
    assert P.dot({"a": torch.tensor([1e8, 1.0, -1e8])}, {"a": torch.ones(3)}) == 1
