"""The experiment past the edge, small: tables are made, go on where they were, and are judged."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.edge_of_stability import area_under_curve, figure, row, windows
from experiments.edge_of_stability import Config, Forecasts, run
from neuromech.record import read


def test_area_under_the_curve() -> None:
    score = pd.Series([0.1, 0.4, 0.35, 0.8])
    assert area_under_curve(score, pd.Series([False, False, True, True])) == 0.75
    assert area_under_curve(score, pd.Series([False, True, False, True])) == 1.0


def test_windows_begin_at_the_edge() -> None:
    path = pd.DataFrame(
        [
            {"step": s, "series": name, "loss": 1.0, "sharpness": 0.9 + s / 1000}
            for s in range(10, 301, 10)
            for name in ("steps", "edge flow")
        ]
    )
    assert list(windows(path).index) == [2, 3, 4, 5]
    assert windows(path.assign(sharpness=0.5)).empty


@pytest.mark.slow
def test_a_run_is_followed_and_judged(tmp_path: Path) -> None:
    done = run(Config(steps=60, settle=150, samples=32, begin=0.98), tmp_path / "mlp")
    before = (done / "path.csv").read_bytes()
    assert run(Config(steps=60, settle=150, samples=32, begin=0.98), done) == done
    assert (done / "path.csv").read_bytes() == before
    path = read(done).frame("path")
    assert set(path["series"]) == {"steps", "edge flow", "central flow", "gradient flow"}
    assert row(done)["edge charges"] < row(done)["gradient charges"]  # type: ignore[operator]
    assert figure(done, tmp_path / "figures" / "mlp.png").stat().st_size > 10_000


@pytest.mark.slow
def test_forecasts_are_made_before_they_come_true(tmp_path: Path) -> None:
    told = read(run(Forecasts(runs=4), tmp_path / "forecasts")).frame("forecasts")
    assert len(told) == 4
    assert told["forecast"].between(0.0, 1.0).all()
