"""Hidden units that may change places: found behind any activation, moved by `transform`, and nothing else claimed."""

from __future__ import annotations

import json
import math

import pytest
import torch
from architectures import ARCHITECTURES
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from neuromech import Findings, SymmetryError, find_symmetries


def names(model: nn.Module, x: Tensor) -> list[str]:
    found = find_symmetries(model, x)
    assert all(p.defect < 1e-12 for p in found.permutations)
    return [f"{p.size} {p.name}" for p in found.permutations]


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Dropout(0.5)], ids=str)
def test_units_behind_any_activation(act: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2))
    assert names(model, torch.randn(6, 3)) == [
        "4 0.weight[i], 0.bias[i], 2.weight[:, i]",
        "5 2.weight[i], 2.bias[i], 4.weight[:, i]",
    ]


def test_channels_normalised_and_flattened() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    assert names(model, torch.randn(6, 2, 5, 5)) == [
        "4 0.weight[i], 0.bias[i], 1.weight[i], 1.bias[i], 5.weight.view(3, 4, 4)[:, i]"
    ]
    assert names(model.eval(), torch.randn(6, 2, 5, 5)) == []  # the averages of the norm stay where they are


def test_a_residual_stream_and_its_branches() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        h = h + m.down(F.gelu(m.up(m.norm(h))))
        return m.out(h)

    model = Net(forward, a=nn.Linear(3, 4), up=nn.Linear(4, 5), down=nn.Linear(5, 4), norm=nn.LayerNorm(4),
                out=nn.Linear(4, 2))  # fmt: skip
    found = find_symmetries(model, torch.randn(6, 3)).permutations
    assert {p.size: set(p.parameters) for p in found} == {
        4: {"a.weight", "a.bias", "norm.weight", "norm.bias", "up.weight", "down.weight", "down.bias", "out.weight"},
        5: {"up.weight", "up.bias", "down.weight"},
    }


def test_what_tells_units_apart_keeps_them_in_place() -> None:
    weights = torch.arange(1.0, 5.0)
    for between in (
        lambda h: h * weights,
        lambda h: h.cumsum(1),
        lambda h: h[:, :3],
        lambda h: torch.roll(h, 1, 1),
        lambda h: torch.cat([h, h.flip(1)], 1),
        lambda h: torch.tril(h),
        lambda h: torch.where(weights > 2, h, 0.0),
    ):
        h = between(torch.ones(6, 4))
        model = Net(lambda m, x, f=between: m.b(f(torch.tanh(m.a(x)))), a=nn.Linear(3, 4), b=nn.Linear(h.shape[1], 2))
        assert names(model, torch.randn(6, 3)) == []


def test_units_move_by_transform_and_survive_as_data() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    found = find_symmetries(model, x)
    (p,) = Findings.from_dict(json.loads(json.dumps(found.to_dict()))).permutations
    params = {name: v.detach() for name, v in model.named_parameters()}
    moved = p.transform(params, [2, 0, 3, 1])
    assert torch.equal(moved["0.bias"], params["0.bias"][[2, 0, 3, 1]])
    assert torch.allclose(torch.func.functional_call(model, moved, x), model(x), rtol=1e-12)
    with pytest.raises(SymmetryError, match="each of the 4 units once"):
        p.transform(params, [0, 0, 1, 2])


@pytest.mark.parametrize(
    "name", ["llama", "resnet_basic", "densenet", "vision_transformer", "attention_fused_qkv", "gates"]
)
def test_architectures(name: str) -> None:
    """Nothing is claimed that the numbers contradict: what is found without them is what is found with them."""
    a = ARCHITECTURES[name]
    g = torch.Generator().manual_seed(1)
    model, example = a.model(), a.example(g)
    found = find_symmetries(model, example).permutations
    claimed = find_symmetries(model, example, verify=False).permutations
    print(name, *map(str, claimed), sep="\n  ")
    assert [p.name for p in found] == [p.name for p in claimed]
    assert all(math.isnan(p.defect) for p in claimed)
