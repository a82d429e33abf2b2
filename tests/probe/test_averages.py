"""Averaged weights beside a run, from the user's end."""

import copy
import gc

import pytest
import torch
from test_probe import sgd, small, train
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import neuromech
from neuromech import InstrumentError
from neuromech.dynamics.average import averaging_weight
from neuromech.monitor import Fault
from neuromech.record import read
from tests.families import fast


@pytest.mark.parametrize("decay", [None, 0.9])
def test_charges_of_averaged_weights_follow_those_of_the_weights(decay: float | None) -> None:
    model = small()
    probe, optimizer = neuromech.instrument(model), sgd(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay) if decay else None)
    for _ in range(30):
        train(model, optimizer, 1)
        with probe.averaging(average, averaging_weight(int(average.n_averaged), decay)):
            average.update_parameters(model)
    rows = probe.averages
    assert len(rows) == 30 * len(probe.symmetries)
    assert rows["residual"].max() < 1e-12
    assert list(rows["step"].unique()) == [*range(1, 31)]
    for s, (_, own) in zip(probe.symmetries, rows.groupby("symmetry"), strict=True):
        by_hand = s.charge(dict(average.module.named_parameters())).sum()
        assert own["observed"].iloc[-1] == pytest.approx(float(by_hand), rel=1e-10, abs=1e-12)
        assert own["spread"].abs().max() > 0 or s.is_linear


def test_the_decay_is_all_that_one_needs_to_know() -> None:
    """As in the README: the first update of an `AveragedModel` copies, and is followed as that."""
    model = small()
    probe, optimizer = neuromech.instrument(model), sgd(model)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    for _ in range(5):
        train(model, optimizer, 1)
        with probe.averaging(ema, 1 - 0.99):
            ema.update_parameters(model)
    assert probe.averages["residual"].max() < 1e-13


@pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning")
def test_an_average_that_does_otherwise_breaks_its_law() -> None:
    """A hand-made average that takes in twice the weight that was told."""
    model = small()
    probe, optimizer, mean = neuromech.instrument(model), sgd(model), copy.deepcopy(model)
    for _ in range(5):
        train(model, optimizer, 1)
        with probe.averaging(mean, 0.1), torch.no_grad():
            for p, q in zip(mean.parameters(), model.parameters(), strict=True):
                p.lerp_(q, 0.2)
    assert probe.averages["residual"].max() > 1e-4
    (said,) = [m for m in probe.events["message"] if "declared" in m]
    assert "with 0.2 and not, as declared, with 0.1" in said


@pytest.mark.parametrize("dtype", fast([torch.float32, torch.bfloat16], [torch.bfloat16]))
@pytest.mark.parametrize("taken", [0.01, 0.0])
def test_a_monitor_names_an_average_of_another_decay(dtype: torch.dtype, taken: float, tmp_path) -> None:
    """Whatever its format: one that takes in nothing, too, as where a small weight is lost to rounding."""
    model = small()
    probe, optimizer, mean = neuromech.instrument(model), sgd(model), copy.deepcopy(model).to(dtype)
    faults: list[Fault] = []
    probe.monitor(faults.append)
    for _ in range(5):
        train(model, optimizer, 5)
        with probe.averaging(mean, 0.3), torch.no_grad():
            for p, q in zip(mean.parameters(), model.parameters(), strict=True):
                p.copy_(p.double().lerp(q.double(), taken))
    assert [fault.cause for fault in faults] == ["average"]
    assert "0.3" in str(faults[0])
    assert "takes them in otherwise" in probe.report(tmp_path / "report.html").read_text()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight", [1.0, 0.3, 1e-3, 0.0])
def test_an_average_that_does_as_it_says_is_left_alone(dtype: torch.dtype, weight: float) -> None:
    """Rounded once an update: in bfloat16 nothing is claimed of what rounding could have done."""
    model = small()
    probe, optimizer, mean = neuromech.instrument(model), sgd(model), copy.deepcopy(model).to(dtype)
    monitor = probe.monitor("raise")
    for _ in range(5):
        train(model, optimizer, 1)
        with probe.averaging(mean, weight), torch.no_grad():
            for p, q in zip(mean.parameters(), model.parameters(), strict=True):
                p.mul_(1 - weight).add_(q.to(dtype), alpha=weight)
    assert monitor.faults == []


def test_bad_averages_are_refused() -> None:
    model = small()
    probe = neuromech.instrument(model)
    with pytest.raises(InstrumentError, match="from the first step on"):
        probe.averaging(model, 0.1)
    train(model, sgd(model), 1)
    with pytest.raises(InstrumentError, match="a number from 0 to 1"), probe.averaging(copy.deepcopy(model), 1.5):
        pass
    with pytest.raises(InstrumentError, match="does not average this model"), probe.averaging(nn.Linear(3, 3), 0.1):
        pass
    assert probe.averages.empty


def test_nothing_is_lost_if_the_probe_is_forgotten(tmp_path) -> None:
    def run() -> None:
        model = small()
        probe, optimizer, mean = neuromech.instrument(model, run=tmp_path / "run"), sgd(model), copy.deepcopy(model)
        train(model, optimizer, 1)
        for _ in range(3):
            probe.flush()
            with probe.averaging(mean, 0.0):
                pass

    run()
    gc.collect()
    rows = read(tmp_path / "run").frame("averages")
    assert rows.groupby("symmetry").size().eq(3).all()
