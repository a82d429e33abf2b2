"""What users do with optimizers while a probe watches: said in words, followed by the laws, and nothing is lost."""

import copy
import json
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import neuromech
from neuromech.errors import NeuromechWarning
from neuromech.record import read


def small(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)
    ).to(dtype)  # fmt: skip


X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


def backward(model: nn.Module) -> None:
    model.zero_grad()
    F.cross_entropy(model(X.to(next(model.parameters()).dtype)), Y).backward()


def worst(history: pd.DataFrame) -> float:
    return float(history.query("member == -1")["residual"].max())


def test_terms_sum_to_the_observed_change() -> None:
    model = small()
    probe = neuromech.instrument(model, every=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2)
    for _ in range(12):
        backward(model)
        optimizer.step()
    probe.flush()
    charges, terms = probe._record.frame("charges"), probe._record.frame("terms")
    both = charges.merge(terms, on=["step", "symmetry", "member"])
    assert len(both) == len(terms)
    start = both[both["step"] == 0].set_index(["symmetry", "member"])["observed"]
    change = both["observed"] - start.reindex(pd.MultiIndex.from_frame(both[["symmetry", "member"]])).to_numpy()
    named = ["discretization", "weight_decay", "momentum", "preconditioner", "leak", "outside", "rounding"]
    assert (both[named].sum(axis=1) - change).abs().max() < 1e-15 * both["scale"].max() * 8
    assert both["rounding"].abs().max() < 1e-13
    assert both["weight_decay"].abs().max() > 1e-4
    assert both["step"].max() == 12


def test_a_resumed_run_goes_on_with_its_terms(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    probe = neuromech.instrument(model, run=tmp_path / "run")
    for _ in range(5):
        backward(model)
        optimizer.step()
    state, saved = copy.deepcopy(probe.state_dict()), copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    probe.remove()
    again = small()
    again.load_state_dict(saved[0])
    restored = torch.optim.AdamW(again.parameters(), lr=1e-2)
    restored.load_state_dict(saved[1])
    probe = neuromech.instrument(again, run=tmp_path / "run", resume=True)
    probe.load_state_dict(state)
    for _ in range(5):
        backward(again)
        restored.step()
    probe.remove()
    run = read(tmp_path / "run")
    terms = run.frame("terms").query("member == -1")
    assert sorted(set(terms["step"])) == list(range(11))
    assert terms["rounding"].abs().max() < 1e-13
    assert worst(run.frame("charges")) < 1e-13


def test_hands_other_than_the_optimizer_are_booked() -> None:
    """Weights are clipped between steps: predictions start over, and what the clipping did has a term of its own."""
    model = small()
    probe = neuromech.instrument(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def clipped() -> None:
        for k in range(8):
            backward(model)
            optimizer.step()
            if k in (3, 5):
                with torch.no_grad():
                    model[3].weight.mul_(0.9)

    with pytest.warns(NeuromechWarning, match="start over"):
        clipped()
    probe.flush()
    terms = probe._record.frame("terms").query("member == -1 and step == 8")
    assert (terms["outside"].abs() > 1e-3).any()
    assert terms["rounding"].abs().max() < 1e-13
    assert worst(probe.history) < 1e-13


def test_add_param_group_reaches_the_records(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if n[0] != "5"], lr=0.1)
    probe = neuromech.instrument(model, run=tmp_path / "run")
    for k in range(6):
        if k == 3:
            optimizer.add_param_group({"params": list(model[5].parameters()), "lr": 0.01, "momentum": 0.5})
        backward(model)
        optimizer.step()
    probe.remove()
    (known,) = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][0]["meta"]["optimizers"]
    assert [(g["lr"], g["momentum"], g["parameters"]) for g in known["groups"]] == [(0.1, 0, 6), (0.01, 0.5, 2)]
    assert worst(probe.history) < 1e-13
    said = " ".join(probe._record.frame("events")["message"])
    assert "the optimizer has 2 parameter groups (it had 1)" in said


def test_changed_settings_are_said_once_and_followed() -> None:
    model = small()
    probe = neuromech.instrument(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for k in range(6):
        optimizer.param_groups[0]["weight_decay"] = 0.1 * (k // 2)
        optimizer.param_groups[0]["lr"] = 1e-2 / (k + 1)
        backward(model)
        optimizer.step()
    events = probe._record.frame("events")
    assert events["kind"].tolist() == ["settings"]
    assert "from step 3 on parameter group 0 has weight_decay 0.1 instead of 0" in events["message"][0]
    assert worst(probe.history) < 1e-13


def test_two_optimizers_with_momentum_share_all_parameters() -> None:
    model = small()
    probe = neuromech.instrument(model)
    both = [torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9) for lr in (0.05, 0.01)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            for optimizer in both:
                backward(model)
                optimizer.step()
    assert worst(probe.history) < 1e-13
    assert probe.history["step"].max() == 20


@pytest.mark.parametrize("every", [1, 3])
def test_averages_of_weights_are_left_alone(every: int) -> None:
    """The averaged model is no business of the probe; weights swapped in for evaluation and back are the same."""
    model = small()
    probe = neuromech.instrument(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in range(12):
            backward(model)
            optimizer.step()
            averaged.update_parameters(model)
            if k % every == 0:
                kept = copy.deepcopy(model.state_dict())
                model.load_state_dict(averaged.module.state_dict())
                model.load_state_dict(kept)
    assert worst(probe.history) < 1e-13


def test_a_gradient_that_is_no_number_is_said_and_nothing_is_lost() -> None:
    model = small()
    probe = neuromech.instrument(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for k in range(6):
        backward(model)
        if k == 3:
            model[0].weight.grad[0, 0] = torch.nan
        optimizer.step()
    history = probe.history
    assert history["step"].max() == 6
    assert worst(history.query("step <= 3")) < 1e-13
    assert "the run has diverged" in probe._record.frame("events")["message"].iloc[-1]


def test_the_dtype_of_autocast_is_recorded_and_judged_by() -> None:
    model = small(torch.float32)
    probe = neuromech.instrument(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(X).float(), Y)
        loss.backward()
        optimizer.step()
    probe.flush()
    from neuromech.report import families

    assert probe._record.meta["autocast"] == "bfloat16"
    found = families(probe._record.meta, probe._record.frame("charges"))
    assert {f.dtype for f in found} == {"float32, bfloat16"}
    assert {f.verdict.status for f in found} == {"rounding"}


def test_warnings_point_at_the_line_of_the_user() -> None:
    model = small()
    probe = neuromech.instrument(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def halved() -> None:
        for _ in range(3):
            backward(model)
            optimizer.step()
            with torch.no_grad():
                model[3].weight.mul_(0.5)

    with pytest.warns(NeuromechWarning) as caught:
        halved()
    assert {w.filename for w in caught} == {__file__}
    probe.remove()
