"""Lengths step by step, and forecasts of a run that goes on, against weights that really train."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from neuromech import InstrumentError


class Normalised(nn.Module):
    """One matrix that the loss sees through its direction alone."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.w / self.w.norm()).T


def trained(
    steps: int, optimizer: str = "SGD", schedule: bool = False, watched: bool = True, **told: float
) -> tuple[neuromech.Probe, object, Normalised]:
    """A probe, a scheduler and a model of a run on noise: gradients that stay as they are."""
    torch.manual_seed(0)
    model = Normalised()
    made = getattr(torch.optim, optimizer)(model.parameters(), **({"lr": 0.5, "weight_decay": 0.02} | told))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(made, 400) if schedule else None
    probe = neuromech.instrument(model, members=None) if watched else None
    for _ in range(steps):
        made.zero_grad()
        F.cross_entropy(5 * model(torch.randn(8, 8)), torch.randint(0, 6, (8,))).backward()
        made.step()
        if scheduler is not None:
            scheduler.step()
    return probe, scheduler, model


def test_rows_are_those_of_the_weights() -> None:
    probe, _, model = trained(200)
    rows = probe.norms
    last = rows.iloc[-1]
    assert last["norm"] == pytest.approx(float(model.w.detach().norm()), rel=1e-5)
    assert (np.diff(rows["step"]) > 0).all()
    assert last["angle"] == pytest.approx(last["update_to_weight"], rel=0.1)  # steps are at right angles to weights
    assert last["effective_lr"] == pytest.approx(0.5 / last["norm"] ** 2, rel=1e-5)
    # kappa = gradient^2 for plain SGD: its equilibrium is that of van Laarhoven.
    rest = (0.5 * last["gradient"] ** 2 / (2 * 0.02)) ** 0.25
    assert last["equilibrium_norm"] == pytest.approx(rest, rel=0.02)
    assert last["equilibrium_angle"] == pytest.approx(math.sqrt(2 * 0.5 * 0.02), rel=0.02)
    assert last["time_constant"] == pytest.approx(1 / (4 * 0.02 * 0.5), rel=0.02)
    settled = rows[rows["reached"] == "reached"]
    assert len(settled)
    assert settled["excess"].median() == pytest.approx(1.0, abs=0.3)


def test_it_says_why_there_is_no_equilibrium() -> None:
    assert set(trained(20, weight_decay=0.0)[0].norms["reached"]) == {"never: no weight decay"}
    coupled = trained(20, "Adam", lr=1e-2)[0].norms
    assert set(coupled["reached"]) == {"unknown: weight decay goes through the preconditioner"}


def test_a_schedule_is_asked_ahead() -> None:
    probe, scheduler, _ = trained(120, schedule=True)
    (row,) = probe.forecast(280, scheduler).to_dict("records")  # type: ignore[arg-type]
    (constant,) = probe.forecast(280).to_dict("records")
    _, _, whole = trained(400, schedule=True, watched=False)
    came = float(whole.w.detach().norm()) ** 2
    assert row["low"] < came < row["high"]
    assert abs(row["end"] / came - 1) < 0.15
    assert abs(row["end"] - came) < abs(constant["end"] - came)
    assert row["at"] == 400
    # Without decay it only grows.
    assert row["undecayed"] > row["end"]


def test_bad_input_is_answered() -> None:
    probe, _, _ = trained(5)
    assert probe.forecast(10)["why_not"].tolist() == ["too few steps were recorded"]
    with pytest.raises(InstrumentError, match="1 or more"):
        probe.forecast(0)
    other = torch.optim.AdamW([nn.Parameter(torch.zeros(2))])
    with pytest.raises(InstrumentError, match="0 optimizers of that class"):
        probe.forecast(10, torch.optim.lr_scheduler.ConstantLR(other))


def test_settings_that_were_changed_lately_make_no_forecast() -> None:
    torch.manual_seed(0)
    model = Normalised()
    made = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.02)
    probe = neuromech.instrument(model)
    for k in range(40):
        if k == 30:
            made.param_groups[0]["weight_decay"] = 0.5
        made.zero_grad()
        F.cross_entropy(5 * model(torch.randn(8, 8)), torch.randint(0, 6, (8,))).backward()
        made.step()
    assert "settings were changed lately" in probe.forecast(10)["why_not"].iloc[0]
