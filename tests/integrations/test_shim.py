"""What the callbacks of all frameworks share."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuromech.errors import FaultError, NeuromechWarning
from neuromech.integrations.shim import Shim


def broken_run(shim: Shim) -> None:
    """Weights are edited between two steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    shim.begin(model)
    for k in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 2).backward()
        optimizer.step()
        if k == 2:
            with torch.no_grad():
                model[0].weight.mul_(1.5)
    shim.end()


@pytest.mark.parametrize("how", ["function", "mapping"])
def test_a_fault_reaches_whom_it_is_meant_for(how: str) -> None:
    told: list[Any] = []
    shim = Shim(None, told.append if how == "function" else {"on_fault": told.append}, {})
    broken_run(shim)
    assert [fault.cause for fault in told] == ["edited weights"]


def test_a_run_may_be_stopped_or_left_unwatched() -> None:
    with pytest.raises(FaultError):
        broken_run(Shim(None, "raise", {}))
    with pytest.warns(NeuromechWarning, match="changed otherwise than by an optimizer step"):
        broken_run(unwatched := Shim(None, False, {}))
    assert unwatched.probe is not None
    assert unwatched.probe.faults.empty
