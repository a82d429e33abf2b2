"""A classifier that fits its data to the last digit is healthy: what is left of its gradients is rounding."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech


def fitted(seed: int, samples: int, classes: int, steps: int) -> neuromech.Probe:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, classes))
    x, y = 3 * torch.randn(samples, 6), torch.randint(0, classes, (samples,))
    optimizer, probe = torch.optim.Adam(model.parameters(), lr=0.1), neuromech.instrument(model)
    probe.monitor()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return probe


@pytest.mark.parametrize(("seed", "samples", "classes"), [(0, 2, 4), (1, 2, 4), (7, 1, 10)])
def test_probabilities_that_round_to_one_break_no_translation(seed: int, samples: int, classes: int) -> None:
    assert not fitted(seed, samples, classes, 12).monitor().faults


def test_gradients_too_small_to_be_squared_are_not_called_zero() -> None:
    assert not fitted(16, 2, 4, 58).monitor().faults


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_fitting_is_no_fault(seed: int) -> None:
    for samples, classes in ((1, 10), (2, 4), (8, 3), (16, 5)):
        assert not fitted(seed, samples, classes, 80).monitor().faults
