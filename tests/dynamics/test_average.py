"""Charges of averaged weights, against torch's own averages."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from neuromech.dynamics.average import AverageLaw, averaging_weight
from neuromech.errors import InstrumentError
from tests.families import fast

from .cases import backward, normed, sgd, watched


@pytest.mark.slow
@pytest.mark.parametrize("decay", fast([None, 0.9], [0.9]))
def test_averages_follow_from_the_laws_of_the_weights(decay: float | None) -> None:
    """The charges that they take in are predicted ones, over 200 steps."""
    case = normed()
    laws, optimizer = case.laws(), sgd(case, momentum=0.9, weight_decay=5e-3)
    averaged = AveragedModel(case.model, multi_avg_fn=get_ema_multi_avg_fn(decay) if decay else None)
    mean = dict(averaged.module.named_parameters())
    law, worst, spread = AverageLaw(case.symmetries, mean), 0.0, 0.0
    assert law.slices == laws.slices
    for step in range(200):
        backward(case, step)
        with watched(case, laws, optimizer) as reading:
            optimizer.step()
        law.before(case.params, mean, reading[0].exact)
        weight = averaging_weight(int(averaged.n_averaged), decay)
        averaged.update_parameters(case.model)
        now = law.after(mean, weight)
        worst = max(worst, float(((now.exact - now.observed).abs() / now.scale).max()))
        spread = max(spread, float((now.spread / now.scale).abs().max()))
    print(f"decay {decay}: off by {worst:.1e}, spread {spread:.1e}")
    assert worst < 1e-12
    assert spread > 1e-3


def test_misuse_is_named() -> None:
    case = normed()
    with pytest.raises(InstrumentError, match="call before"):
        AverageLaw(case.symmetries, case.params).after(case.params, 0.5)
    assert averaging_weight(0, 0.9) == 1.0
    assert averaging_weight(3) == pytest.approx(0.25)
    assert torch.isfinite(torch.tensor(averaging_weight(10, 0.99)))
