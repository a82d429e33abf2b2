"""The experiment on rounding weights: what it does is what it says."""

import pytest
import torch
from torch import nn

from analysis.quantisation import UNCHANGED, errors, table, undone
from experiments.quantisation import BITS, Config, quantised, run


def test_weights_are_rounded_to_one_grid_a_tensor_and_biases_are_not() -> None:
    model = nn.Linear(5, 3).double()
    rounded = quantised(model, 4)
    steps = rounded.weight / model.weight.abs().max() * 7
    assert torch.allclose(steps, steps.round())
    assert (rounded.weight - model.weight).abs().max() <= model.weight.abs().max() / 14 * (1 + 1e-12)
    assert torch.equal(rounded.bias, model.bias)


def test_a_short_run_is_recorded_and_judged(tmp_path) -> None:
    pytest.importorskip("sklearn")
    run(Config(epochs=1), tmp_path / "mlp-0")
    rows = errors(tmp_path)
    assert len(rows) == 2 * 3 * len(BITS)
    assert rows["changed"].max() <= UNCHANGED
    assert len(table(rows)) == 2 * len(BITS)
    assert float(undone(rows).max().max()) < 1
