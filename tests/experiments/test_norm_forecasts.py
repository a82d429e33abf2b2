"""The benchmark of forecasts in small: what it records, and that its judge scores what it should."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.norm_forecasts import scores
from experiments.norm_forecasts import Config, factor, lengths, network, run
from neuromech.record import read

SMALL = Config(models=("mlp",), optimizers=("adamw",), schedules=("cosine", "constant"), seeds=(0,), steps=90, batch=16)


def test_runs_are_recorded_and_gone_on_with(tmp_path: Path) -> None:
    run(SMALL, tmp_path)
    frame = read(tmp_path).frame("lengths", every_session=True)
    assert len(frame) == 2 * 90 * 3
    run(SMALL, tmp_path)
    assert len(read(tmp_path).frame("lengths", every_session=True)) == len(frame)
    rows = pd.DataFrame(scores(frame))
    assert len(rows) == 2 * 3 * 3
    assert np.isfinite(rows[["forecast", "published", "persistence", "angle"]].to_numpy()).all()
    assert set(rows["held"]) <= {True, False}
    assert (rows["forecast"] != rows["persistence"]).all()


def test_turns_and_lengths_are_those_of_the_weights() -> None:
    torch.manual_seed(0)
    rows = pd.DataFrame(lengths(SMALL, "mlp", "adamw", "constant", 0))
    one = rows[rows["tensor"] == rows["tensor"].iloc[0]]
    torch.manual_seed(0)
    first = network("mlp").get_parameter("1.weight").detach()
    assert one["length2"].iloc[0] == pytest.approx(float(first.square().sum()), rel=1e-6)
    assert ((one["turn"] >= 0) & (one["turn"] < 1)).all()
    assert [factor("step", k, 10) for k in (0, 5, 6)] == [1.0, 1.0, 0.1]
