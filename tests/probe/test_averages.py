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
from neuromech.record import read


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
