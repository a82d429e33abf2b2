"""Which parameters are normalised, against an oracle that knows nothing of symmetries: does the gradient pull along?"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import CASES, Case, build

import neuromech
from neuromech.detect.normalised import ParameterGroups
from neuromech.errors import DetectionError
from tests.families import fast


def pulls(model: nn.Module, case: Case) -> dict[str, float]:
    """|<g, theta>| / |g| |theta| of every parameter, the largest of three draws; 0 where the loss does not see it."""
    params = {n: p for n, p in model.named_parameters() if p.requires_grad}
    worst = dict.fromkeys(params, 0.0)
    for seed in range(3):
        g = torch.Generator().manual_seed(10 + seed)
        x = case.example(g)
        output = model(*x)
        loss = case.loss_of(output, case.target(output, g))
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        for (name, p), grad in zip(params.items(), grads, strict=True):
            if grad is not None and grad.abs().max() > 0:
                worst[name] = max(
                    worst[name], float((grad * p.detach()).sum().abs() / (grad.norm() * p.detach().norm()))
                )
    return worst


def case_model(case: Case) -> nn.Module:
    """No parameter is zero, for scaling it would then be nothing."""
    model = build(case)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and not p.any():
                p.copy_(torch.randn(p.shape, generator=draw, dtype=p.dtype))
    return model


@pytest.mark.parametrize("case", fast(CASES, CASES[::3]), ids=str)
def test_the_gradient_pulls_along_no_parameter_that_is_normalised_and_along_all_others(case: Case) -> None:
    model, g = case_model(case), torch.Generator().manual_seed(0)
    x = case.example(g)
    with torch.no_grad():
        target = case.target(model(*x), g)
    groups = neuromech.parameter_groups(model, x, case.loss_of, target)
    found = pulls(model, case)
    inactive = set(groups.findings.inactive)
    for row in groups.rows:
        if row.normalised:
            assert found[row.name] <= (3e-2 if row.approximate else 1e-12), row
        elif row.name not in inactive and "scaling" not in case.missed:
            assert found[row.name] > 1e-7, row


class Stream(nn.Module):
    """A chain of linear layers ahead of a norm, heads that are normalised one by one, and a layer with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6, bias=False), nn.Linear(6, 8, bias=False)
        self.heads, self.c = nn.Linear(8, 12, bias=False), nn.Linear(12, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(self.b(self.a(x)), (8,), eps=0.0)
        x = F.normalize(self.heads(x).unflatten(-1, (3, 4)), dim=-1, eps=0.0).flatten(-2)
        return self.out(F.layer_norm(self.c(x), (4,), eps=0.0))


def stream() -> ParameterGroups:
    torch.manual_seed(0)
    return neuromech.parameter_groups(Stream().double(), torch.randn(7, 5, dtype=torch.float64))


def test_whole_tensors_rows_blocks_and_those_that_only_scale_together() -> None:
    rows = {r.name: r for r in stream().rows}
    assert {n for n, r in rows.items() if r.normalised} == {"a.weight", "b.weight", "heads.weight"}
    assert rows["a.weight"].reason == "a.weight[i] / b.weight[:, i] and b.weight"
    assert [rows[n].finest for n in ("a.weight", "b.weight", "heads.weight")] == ["tensor", "tensor", "3 blocks"]
    assert rows["c.weight"].jointly == ("c.bias",)
    assert not any(r.approximate for r in rows.values())


def test_the_function_stays_and_the_length_does_not() -> None:
    model = Stream().double()
    x = torch.randn(7, 5, dtype=torch.float64)
    groups, before = neuromech.parameter_groups(model, x), model(x)
    for name in groups["normalised"]:
        scaled = copy.deepcopy(model)
        with torch.no_grad():
            scaled.get_parameter(name).mul_(1.7)
        torch.testing.assert_close(scaled(x), before, rtol=1e-12, atol=1e-13)


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        groups = neuromech.parameter_groups(Stream(), torch.randn(7, 5))
    assert groups["normalised"] == stream()["normalised"]


def test_sets_table_and_groups_for_an_optimizer() -> None:
    groups = stream()
    table = groups.table()
    assert list(table["name"]) == [r.name for r in groups.rows]
    assert set(groups) == {"normalised", "rest", "matrices", "vectors"}
    made = groups.for_optimizer({"normalised": {"weight_decay": 0.0}, "matrices": {}, "rest": {"lr": 1.0}})
    assert [len(g["params"]) for g in made] == [3, 2, 2]
    torch.optim.AdamW(made, lr=0.1)
    assert [g["weight_decay"] for g in groups.decay_matrices(0.1)] == [0.0, 0.1]
    muon, other = groups.for_muon({"lr": 0.02}, {"lr": 1e-3})
    assert (len(muon[0]["params"]), len(other[0]["params"])) == (5, 2)
    with pytest.raises(DetectionError, match=r"4 parameters are in none of normalised: c.weight, .*'rest'"):
        groups.for_optimizer({"normalised": {}})
    with pytest.raises(DetectionError, match="no set of parameters is called 'norms': there are normalised, rest"):
        groups.for_optimizer({"norms": {}, "rest": {}})


def trained(make: Any, steps: int = 30) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(0)
    model = Stream().double()
    x, y = torch.randn(32, 5, dtype=torch.float64), torch.arange(32) % 3
    groups = neuromech.parameter_groups(model, x[:2])
    optimizer, each = make(groups)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (1e8 * F.cross_entropy(model(x), y)).backward()  # eps, and the 1e-15 that AdamC adds, are nothing beside it
        optimizer.step()
        scheduler.step()
    return [p.detach() for p in model.parameters()], each


def test_corrected_decay_is_that_of_adamc() -> None:
    """The same weights as the optimizer of its package, which is told by hand which groups are normalised."""
    po = pytest.importorskip("pytorch_optimizer")

    def adamw(groups: ParameterGroups) -> Any:
        told = {"normalised": {"weight_decay": 0.5}, "rest": {"weight_decay": 0.1}}
        optimizer = torch.optim.AdamW(groups.for_optimizer(told), lr=0.01, eps=1e-8)
        return optimizer, groups.correct_decay(optimizer)

    def adamc(groups: ParameterGroups) -> Any:
        told = {
            "normalised": {"weight_decay": 0.5, "normalized": True},
            "rest": {"weight_decay": 0.1, "normalized": False},
        }
        return po.AdamC(groups.for_optimizer(told), lr=0.01, eps=1e-8), None

    ours, _ = trained(adamw)
    theirs, _ = trained(adamc)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    with pytest.raises(DetectionError, match="no param group holds normalised parameters alone"):
        stream().correct_decay(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1))
