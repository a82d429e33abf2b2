"""Matrix families beside a training run: followed, recorded, judged; and the run is what it would be without."""

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neuromech
from neuromech.monitor import Fault


class LowRank(nn.Module):
    """A factored layer of rank 3 and one of rank 12: one is followed whole, one along directions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 3, bias=False), nn.Linear(3, 5)
        self.c, self.d = nn.Linear(5, 12, bias=False), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.d(self.c(torch.tanh(self.b(self.a(x)))))
        return out


def net() -> LowRank:
    torch.manual_seed(0)
    return LowRank()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        g = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(8, 6, generator=g)).square().mean().backward()
        optimizer.step()


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bits_of_training_are_unchanged_and_the_law_is_judged(name: str) -> None:
    bare, model = net(), net()
    train(bare, OPTIMIZERS[name](bare.parameters()), 12)
    told: list[object] = []
    probe = neuromech.instrument(model)
    probe.monitor(on_fault=told.append)
    train(model, OPTIMIZERS[name](model.parameters()), 12)
    for p, q in zip(bare.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert told == []

    verdicts = probe.verdicts.query("kind == 'matrix'")
    assert [*verdicts["size"]] == [6, 10]
    assert {*verdicts["evidence"]} == {"predicted" if name == "SGD" else "checked"}
    assert {*verdicts["status"]} <= {"rounding", "close"}
    assert verdicts["worst"].max() < 2e-6
    assert {*probe.latest().query("symmetry in @verdicts.symmetry")["symmetry"]} == {*verdicts["symmetry"]}

    rows = probe.matrices
    assert [*rows["step"].unique()] == [*range(12)]
    start = net()
    c, d = start.c.weight.detach().double(), start.d.weight.detach().double()
    charge = c @ c.T - d.T @ d
    first = rows.query("step == 0").iloc[-1]
    assert first["norm"] == pytest.approx(float(charge.norm()), rel=1e-12)
    probe.remove()


def test_a_step_that_also_edits_one_weight_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    probe = neuromech.instrument(model)
    told: list[Fault] = []
    probe.monitor(on_fault=told.append)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    module = importlib.import_module("torch.optim.sgd")
    sgd = module.sgd

    def meddles(*args: Any, **kwargs: Any) -> None:
        sgd(*args, **kwargs)
        model.c.weight[7, 2] += 1e-2

    train(model, optimizer, 6)
    assert told == []
    monkeypatch.setattr(module, "sgd", meddles)
    train(model, optimizer, 1, start=6)
    verdicts = probe.verdicts.query("kind == 'matrix'")
    assert [*verdicts["status"]] == ["rounding", "broken"]
    assert [fault.step for fault in told] == [7]
    assert "c.weight" in str(told[0].suspects[0])
    probe.remove()


def test_the_report_says_how_matrices_were_followed(tmp_path: Path) -> None:
    from neuromech.report.facts import gather
    from neuromech.report.judgement import decide

    model = net()
    probe = neuromech.instrument(model, run=tmp_path / "run")
    train(model, torch.optim.SGD(model.parameters(), 0.05), 4)
    probe.remove()
    run = neuromech.open_run(tmp_path / "run")
    limits = [s.text for s in decide(gather(run._recorded())).limits]
    assert any("Of 1 matrix family 10 charges along fixed random directions" in x and "78 entries" in x for x in limits)
    assert not any("not followed" in x for x in limits)
    assert "W₁W₁ᵀ" in run.report().read_text()
    assert len(run.matrices)


def test_resuming_goes_on() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    probe = neuromech.instrument(model)
    train(model, optimizer, 5)
    state, weights, held = probe.state_dict(), copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, 3, start=5)
    wanted = probe.latest()
    probe.remove()

    model.load_state_dict(weights)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    optimizer.load_state_dict(held)
    probe = neuromech.instrument(model)
    probe.load_state_dict(state)
    train(model, optimizer, 3, start=5)
    for column in ("observed", "exact"):
        assert [*probe.latest()[column]] == [*wanted[column]]
    probe.remove()


def test_rotations_have_no_charge_and_do_not_shift_the_others() -> None:
    """Embeddings compared with each other: O(n), between two families with laws."""

    class Compared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.a, self.b = nn.Linear(5, 4, bias=False), nn.Linear(5, 3, bias=False), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = (self.e(x) @ self.e(x).mT).sum() + self.b(self.a(x)).square().sum()
            return out

    torch.manual_seed(0)
    model = Compared()
    probe = neuromech.instrument(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(7, 5)).backward()
        optimizer.step()
    rows = probe.verdicts.query("kind == 'matrix'")
    assert [(n, "rotation" in name) for n, name in zip(rows["size"], rows["name"], strict=True)] == [
        (6, False), (6, True),
    ]  # fmt: skip
    assert [*rows["evidence"]] == ["predicted", "found"]
    assert rows["worst"].iloc[0] < 1e-6
    probe.remove()
