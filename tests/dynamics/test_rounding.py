"""How rounding grows in real training: as the square root of the steps, and below the bound that is derived for it."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from neuromech.rounding import CHANCE, CONFIDENCE, rounding_bound


def test_the_chance_that_counts_as_none() -> None:
    assert pytest.approx(2 * math.exp(-(CONFIDENCE**2) / 2)) == CHANCE
    assert CHANCE < 1e-13


@pytest.mark.parametrize(
    ("momentum", "steps"),
    [(0.9, 250), pytest.param(0.0, 1000, marks=pytest.mark.slow), pytest.param(0.9, 1000, marks=pytest.mark.slow)],
)
def test_the_residual_of_the_exact_law_grows_as_the_square_root_of_the_steps(momentum: float, steps: int) -> None:
    """float32, no decay: the exponent fitted over all steps, root mean square over the members of a family."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    x, y = torch.randn(256, 16), torch.randint(0, 4, (256,))
    probe = neuromech.instrument(model, members=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * (1 - momentum), momentum=momentum)
    for _ in range(steps):
        rows = torch.randint(0, 256, (32,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    history, kinds = probe.history, [s.kind for s in probe.symmetries]
    single = history[(history["symmetry"] == kinds.index("rescale")) & (history["member"] >= 0) & (history["step"] > 0)]
    off = single.assign(off=(single["observed"] - single["exact"]) ** 2)  # weights grow here, so not relative to them
    typical = off.groupby("step")["off"].mean() ** 0.5
    exponent = np.polyfit(np.log(typical.index), np.log(typical.to_numpy()), 1)[0]
    print(f"momentum {momentum}: residual of the exact law ~ steps^{exponent:.2f}")
    assert 0.35 < exponent < 0.65
    bound = rounding_bound(single["step"].to_numpy(float), torch.finfo(torch.float32).eps)
    assert (single["residual"].to_numpy() <= bound).all()
    assert float((single["residual"] / bound).max()) > 1e-3  # it is no empty promise
