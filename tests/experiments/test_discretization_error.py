"""The experiment on errors of discretisation, small: orders come out, and it goes on where it was."""

from pathlib import Path

import pytest

from analysis.discretization_error import figure, table
from experiments.discretization_error import Config, run
from neuromech.record import read


@pytest.mark.slow
def test_errors_fall_with_their_orders(tmp_path: Path) -> None:
    config = Config(networks=("mlp",), gains=(1.0,), samples=16, halvings=3)
    done = run(config, tmp_path / "run")
    frame = read(done).frame("errors", every_session=True)
    assert len(frame) == 9
    row = table(frame).iloc[0]
    for order in (0, 1, 2):
        assert row[f"slope {order}"] == pytest.approx(order + 1, abs=0.1)
    assert row["predicted / measured"] == pytest.approx(1.0, abs=0.1)
    run(config, done)
    assert len(read(done).frame("errors", every_session=True)) == 9
    figure(frame, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
