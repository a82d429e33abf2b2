"""The benchmark of charges ahead, in small: it records what was forecast and what came, and goes on."""

from pathlib import Path

import numpy as np
import pytest

from analysis.charge_forecasts import main
from experiments.charge_forecasts import Config, run
from neuromech.record import read

SMALL = Config(models=("perceptron",), momenta=(0.0,), schedules=("cosine",), seeds=(5,), steps=60, batch=16)


def test_runs_are_recorded_gone_on_with_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(SMALL, tmp_path)
    rows = read(tmp_path).frame("forecasts", every_session=True)
    assert len(rows) == 2 * 2
    assert np.isfinite(rows[["end", "came", "low", "high"]].to_numpy()).all()
    assert (rows["low"] < rows["end"]).all()
    assert (rows["end"] < rows["high"]).all()
    run(SMALL, tmp_path)
    assert len(read(tmp_path).frame("forecasts", every_session=True)) == len(rows)
    monkeypatch.setattr("sys.argv", ["charge_forecasts", str(tmp_path)])
    assert main() in (0, 1)
    assert "over 4 charges" in capsys.readouterr().out
