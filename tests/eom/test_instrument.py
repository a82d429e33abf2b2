"""An instrumented run with EoMOptimizer: charges stay on the law of the gradient flow, to the promised order."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from neuromech import EoMOptimizer
from tests.families import fast


def drifts(lr: float, order: int, base: dict, backend: str = "hvp", time: float = 0.2) -> dict[str, float]:
    """By kind of symmetry, the largest distance of a charge from the flow's law after `time`, relative to its scale."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), nn.Linear(12, 3)).double()  # ReLU kinks would spoil order 2
    x, y = torch.randn(16, 5).double(), torch.randint(0, 3, (16,))
    optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=lr, **base), order, backend=backend)
    with neuromech.instrument(model, members=None) as probe:
        for _ in range(round(time / lr)):
            optimizer.step(lambda: F.cross_entropy(model(x), y))
        rows = probe.history
    kinds = [s.kind for s in probe.symmetries]
    out: dict[str, float] = {}
    decay = base.get("weight_decay", 0.0) / (1.0 - base.get("momentum", 0.0))
    for (symmetry, _), one in rows[rows["member"] >= 0].groupby(["symmetry", "member"]):
        kind = kinds[symmetry]
        degree = 1 if kind == "translation" else 2
        start, end = one.iloc[0], one.iloc[-1]
        law = start["observed"] * math.exp(-degree * decay * end["time"])
        off = abs(end["observed"] - law) / end["scale"]
        out[kind] = max(out.get(kind, 0.0), off)
    return out


BASES: list[dict[str, float]] = [{}, {"weight_decay": 0.1}, {"momentum": 0.5, "weight_decay": 0.05}]


@pytest.mark.parametrize("base", fast(BASES, BASES[-1:]))
def test_charges_stay_on_the_law_of_the_flow(base: dict) -> None:
    coarse, fine = ([drifts(lr, order, base)["rescale"] for order in (0, 1, 2)] for lr in (0.01, 0.005))
    for order in (0, 1, 2):
        assert math.log2(coarse[order] / fine[order]) == pytest.approx(order + 1, abs=0.25)
    for followed in (coarse[1], drifts(0.01, 1, base, "gradients")["rescale"]):
        assert followed < 0.2 * coarse[0]


def test_the_exact_law_of_plain_sgd_is_not_claimed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    x, y = torch.randn(16, 5).double(), torch.randint(0, 3, (16,))
    optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5), 1)
    with neuromech.instrument(model, optimizer=optimizer) as probe:
        for _ in range(10):
            optimizer.step(lambda: F.cross_entropy(model(x), y))
        rows = probe.history
    assert rows["step"].max() == 10
    residual = rows["residual"].dropna()
    assert (residual < 1e-12).all()  # what is predicted, if anything is, is right


def test_the_run_is_the_same_with_and_without_the_instrument() -> None:
    ends = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
        x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
        optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), backend="gradients")
        probe = neuromech.instrument(model) if watched else None
        for _ in range(5):
            optimizer.step(lambda model=model, x=x, y=y: F.cross_entropy(model(x), y))
        if probe:
            kinds = {s.kind for s in probe.symmetries}
            assert {"scale", "translation"} <= kinds
            assert not [e for e in probe.history["observed"] if not math.isfinite(e)]
            probe.remove()
        ends.append(torch.cat([t.detach().reshape(-1).double() for t in model.state_dict().values()]))
    assert torch.equal(*ends)


def test_symmetries_are_found_in_the_first_step() -> None:
    """Where operators are in a form of our own: the tracer has to see torch's."""
    found = {}
    for order in (0, 1):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Conv2d(3, 4, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4, 2),
        )
        x, y = torch.randn(8, 1, 4, 4), torch.randint(0, 2, (8,))
        optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), order)
        with neuromech.instrument(model) as probe:
            optimizer.step(lambda model=model, x=x, y=y: F.cross_entropy(model(x), y))
            found[order] = [(s.kind, s.size) for s in probe.symmetries]
    assert {kind for kind, _ in found[0]} == {"scale", "rescale", "translation"}
    assert found[1] == found[0]


@pytest.mark.slow
def test_the_report_knows_what_plain_momentum_would_have_done(tmp_path: Path) -> None:
    """Plain steps with momentum move charges (1 + mu) / (1 - mu) times as far as the size of their updates says."""
    base, moved = {"lr": 0.01, "momentum": 0.5}, {}
    for follow in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 12), nn.Linear(12, 3)).double()
        x, y = torch.randn(16, 5).double(), torch.randint(0, 3, (16,))
        plain = torch.optim.SGD(model.parameters(), **base)
        optimizer = EoMOptimizer(plain, 1) if follow else plain

        def closure(model: nn.Module = model, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            return F.cross_entropy(model(x), y)

        def backward(optimizer: torch.optim.Optimizer = plain, closure=closure) -> torch.Tensor:
            optimizer.zero_grad()
            loss = closure()
            loss.backward()
            return loss

        with neuromech.instrument(model, members=None) as probe:
            for _ in range(60):
                optimizer.step(closure if follow else backward)
            whole, terms = (t[(t["symmetry"] == 0) & (t["member"] < 0)] for t in (probe.history, probe.terms))
        if follow:
            told = optimizer.described()["plain"] * terms["discretization"].iloc[-1]
            page = Path(probe.report(tmp_path / "r.html")).read_text()
            assert "plain steps would be off by about" in page
        moved[follow] = whole["observed"].iloc[-1] - whole["observed"].iloc[0]
    assert moved[False] == pytest.approx(told, rel=0.05)
    assert abs(moved[True]) < 0.05 * abs(moved[False])
