"""Exported programs are read as the modules that they came from: as exported, and taken apart."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import neuromech
from neuromech.detect import Findings


class Net(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(4, 6), norm, nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(nn.functional.dropout(self.norm(self.a(x)), 0.5, self.training))))


class ByHand(nn.Module):
    """An eps that is added in plain sight: a constant of the program."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


NORMS = {
    "batch": lambda: nn.BatchNorm1d(6),
    "layer": lambda: nn.LayerNorm(6),
    "group": lambda: nn.GroupNorm(2, 6),
    "rms": lambda: nn.RMSNorm(6, eps=1e-5),
    "by hand": ByHand,
}


def claims(found: Findings) -> list[tuple[Any, ...]]:
    return sorted((s.kind, s.size, s.name) for s in found.symmetries)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", ["layer", *(pytest.param(n, marks=pytest.mark.slow) for n in NORMS if n != "layer")])
def test_claims_are_those_of_the_module(name: str, train: bool) -> None:
    torch.manual_seed(0)
    model, x = Net(NORMS[name]()).train(train), torch.randn(9, 4)
    program = torch.export.export(model, (x,))
    plain = neuromech.find_symmetries(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about itself
        apart = program.run_decompositions()
    for form, differentiable in ((program.module(), True), (apart.module(), not (name == "batch" and train))):
        found = neuromech.find_symmetries(form, x)
        assert claims(found) == claims(plain)
        assert not found.rejected
        assert not found.opaque
        # Taken apart, batch norm in training writes over what its own backward needs: PyTorch cannot differentiate it.
        assert all(s.defect == s.defect for s in found.symmetries) is differentiable


def test_what_a_norm_has_measured_may_not_be_read() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, mean, _ = torch.ops.aten.native_layer_norm(self.a(x), [6], None, None, 1e-5)
            return y.sum(-1, keepdim=True).relu() + mean

    found = neuromech.find_symmetries(Read(), torch.randn(3, 4))
    assert not found.symmetries
    assert found.opaque[0].op == "native_layer_norm"
    assert "measured on the way" in found.opaque[0].why
