"""The experiment on loss spikes in small, and its judge on spikes that are foreseen, and on some that are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.loss_spikes import spikes, warnings
from experiments.loss_spikes import Config, run
from neuromech.record import read


def test_runs_are_recorded(tmp_path: Path) -> None:
    run(replace(Config(), models=("mlp",), seeds=(0,), steps=12, batch=8), tmp_path)
    frame = read(tmp_path).frame("spikes", every_session=True)
    assert len(frame) == 12 * 3
    assert (frame[["turn", "first", "second"]] > 0).all(axis=None)


@pytest.mark.parametrize("lead", [3, 0])
def test_a_quantity_that_rises_ahead_of_spikes_is_found(lead: int) -> None:
    draw = np.random.default_rng(0)
    rows = []
    for seed in range(4):
        loss, turn = 1 + 0.01 * draw.normal(size=300), np.exp(0.1 * draw.normal(size=300))
        for k in (80, 140, 200, 260):
            loss[k] = 2.0
            if lead:
                turn[k - lead] *= 4
        assert set(spikes(loss)) >= {80, 140, 200, 260}
        rows.append(pd.DataFrame({"model": "m", "seed": seed, "step": range(300), "tensor": "w", "loss": loss,
                                  "turn": turn, "first": turn, "second": 1.0 + draw.random(300)}))  # fmt: skip
    found = pd.DataFrame(warnings(pd.concat(rows))).set_index("quantity")
    if lead:
        assert found.loc["turn", "foreseen"] > 0.7
        assert found.loc["turn", "p"] < 1e-6
        # A quantity of step k - 3 is known ahead of the loss of step k - 2.
        assert found.loc["turn", "median lead"] == lead
    else:
        assert found.loc["turn", "p"] > 0.01
    assert found["false alarms"].max() < 0.06
