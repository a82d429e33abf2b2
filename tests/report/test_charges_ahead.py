"""Forecasts for charges of rescalings, of perceptrons that really train."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech


def trained(steps: int, optimizer: str = "SGD", run: Path | None = None, **told: float) -> neuromech.Probe:
    """A perceptron whose first layer begins longer than its second, on noisy samples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight.mul_(3.0)
    made = getattr(torch.optim, optimizer)(model.parameters(), **({"lr": 0.05, "weight_decay": 0.01} | told))
    probe = neuromech.instrument(model, optimizer=made, run=run)
    for _ in range(steps):
        x = torch.randn(16, 6)
        made.zero_grad()
        F.mse_loss(model(x), x[:, :3] + 0.5 * torch.randn(16, 3)).backward()
        made.step()
    return probe


def rescaling(frame: pd.DataFrame) -> dict[str, object]:
    (row,) = frame[frame["kind"] == "rescale"].to_dict("records")
    return row


def test_a_run_that_goes_on_ends_as_forecast() -> None:
    told = rescaling(trained(150).forecast(450))
    charges = trained(600).history
    came = float(charges[(charges["member"] < 0) & (charges["symmetry"] == told["symmetry"])]["observed"].iloc[-1])
    assert (told["why_not"], told["at"], told["members"]) == ("", 600, 16)
    assert told["low"] < came < told["high"]
    assert abs(told["end"] - came) < 0.1 * abs(told["now"] - came)
    assert abs(told["undecayed"] - came) > abs(told["end"] - came)
    assert math.isfinite(told["equilibrium"])
    assert told["time_constant"] > 0


def test_early_forecasts_are_scored_beside_persistence(tmp_path: Path) -> None:
    probe = trained(400, momentum=0.9, lr=0.02, run=tmp_path / "run")
    row = rescaling(probe.forecasts)
    assert (row["made_at"], row["until"]) == (80, 400)
    assert row["error"] < 0.5 * row["baseline"]
    probe.remove()
    again = rescaling(neuromech.open_run(tmp_path / "run").forecasts)
    assert again["end"] == pytest.approx(row["end"], rel=1e-6)
    page = Path(neuromech.open_run(tmp_path / "run").report()).read_text(encoding="utf-8")
    assert "How the two sides of a rescaling share length" in page
    sides = tmp_path / "run" / "sides.csv"
    sides.write_text(sides.read_text().replace("weights_up", "weight_up"))
    damaged = neuromech.open_run(tmp_path / "run")
    assert not len(damaged.forecasts)
    assert "Table sides: it has no column weights_up" in Path(damaged.report()).read_text(encoding="utf-8")


def test_what_cannot_be_foreseen_is_said() -> None:
    adam = rescaling(trained(60, "Adam", lr=1e-2).forecast(10))
    assert adam["why_not"] == "this optimizer moves its charge in first order, by gradients that are yet to come"
    assert "say too little" in str(rescaling(trained(3).forecast(10))["why_not"])


def test_sides_that_take_other_powers_are_left_alone() -> None:
    class Cubic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.a.square() * self.b).sum(-1)

    torch.manual_seed(0)
    model = Cubic()
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    probe = neuromech.instrument(model, optimizer=sgd)
    for _ in range(60):
        sgd.zero_grad()
        model(torch.randn(8, 4)).sub(torch.randn(8)).square().mean().backward()
        sgd.step()
    assert rescaling(probe.forecast(10))["why_not"] == "its sides take different powers of the factor"
