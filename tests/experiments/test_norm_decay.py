"""The experiment on decay rates: what it records is what layers do, and the judgement can fail."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.norm_decay import figure, fitted, left_over, motion, series, table
from experiments.norm_decay import Config, run
from neuromech.errors import RecordError
from neuromech.record import read

SHORT = Config(rates=(0.2, 0.4), decays=(0.2, 0.4), time=0.5)


@pytest.mark.slow
def test_a_short_run_is_recorded_resumed_and_judged(tmp_path) -> None:
    pytest.importorskip("sklearn")
    run(replace(SHORT, decays=(0.4,)), tmp_path / "part")
    with pytest.raises(RecordError, match="another configuration"):
        run(SHORT, tmp_path / "part")
    run(SHORT, tmp_path / "run")
    before = read(tmp_path / "run").frame("decay", every_session=True)
    run(SHORT, tmp_path / "run")
    frame = read(tmp_path / "run").frame("decay", every_session=True)
    pd.testing.assert_frame_equal(frame, before)  # nothing is done twice
    rates = table(frame)
    assert len(rates) == 4
    for charge in ("norm", "shift"):
        off = [np.abs(rates[charge] - series(rates["lr*decay"], p)).max() for p in range(4)]
        assert off == sorted(off, reverse=True)
        assert off[0] > 50 * off[2]
    slopes = left_over(rates)
    assert (slopes.sub(slopes.index + 1, axis=0).abs() < 0.3).all(axis=None)
    figure(frame, rates, tmp_path / "figure.png")
    # The drive keeps the norm up: only the equation of motion knows.
    one = frame[(frame["lr"] == 0.4) & (frame["weight_decay"] == 0.4)]
    end = one["norm"].iloc[-1]
    assert abs(motion(one, 1)[-1] / end - 1) < 0.1 * abs(motion(one, 0)[-1] / end - 1)


def test_a_wrong_law_is_seen() -> None:
    """Charges whose rate has 1 + lr decay instead of 1 + lr decay / 2 leave over more than the series allows."""
    rows = []
    for lr in (0.1, 0.2, 0.4, 0.8):
        time, rate = lr * np.arange(30), 0.1 * (1 + 0.1 * lr)
        path = {"time": time, "norm": np.exp(-2 * rate * time), "drive": 0.0, "shift": np.exp(-rate * time)}
        rows.append(pd.DataFrame(path).assign(lr=lr, weight_decay=0.1))
    assert fitted(rows[0])["norm"] == pytest.approx(1.01, abs=1e-12)
    slopes = left_over(table(pd.concat(rows)))
    assert (slopes.loc[1:].sub([2, 3, 4], axis=0).abs() > 0.5).all(axis=None)
