"""Laws follow the gradients that a step is handed, with a monitor and without; flows do not."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech

Edit = Callable[[nn.Module], Any]
RELATIVE = 1e-12


def noise(model: nn.Module) -> None:
    for p in model.parameters():
        assert p.grad is not None
        p.grad.add_(torch.randn_like(p), alpha=0.01)


def each(model: nn.Module) -> None:
    for p in model.parameters():
        nn.utils.clip_grad_norm_([p], 0.05)


def by_value(model: nn.Module) -> None:
    nn.utils.clip_grad_value_(model.parameters(), 0.01)


def by_norm(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)


def trained(
    edit: Edit | None, monitor: bool = False, term: Callable[[Tensor], Tensor] | None = None
) -> neuromech.Probe:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    x, y = torch.randn(32, 6).double(), torch.randint(0, 4, (32,))
    probe = neuromech.instrument(model)
    if monitor:
        probe.monitor(lambda fault: None, allow="noise")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for k in range(12):
        optimizer.zero_grad()
        out = model(x)
        loss = F.cross_entropy(out, y)
        if term is not None and k >= 6:
            loss = loss + term(out)
        loss.backward()  # type: ignore[no-untyped-call]
        if edit is not None:
            edit(model)
        optimizer.step()
    probe.flush()
    return probe


def residuals(probe: neuromech.Probe, law: str) -> list[float]:
    rows = probe.history
    rows = rows[(rows["member"] < 0) & (rows["step"] == rows["step"].max())]
    return [float(r) for r in ((rows[law] - rows["observed"]).abs() / rows["scale"])]


@pytest.mark.parametrize("monitor", [False, True])
@pytest.mark.parametrize("edit", [noise, each, by_value])
def test_the_exact_law_follows_and_the_ideal_one_shows_what_was_done(edit: Edit, monitor: bool) -> None:
    probe = trained(edit, monitor)
    assert max(residuals(probe, "exact")) < RELATIVE
    assert max(residuals(probe, "ideal")) > 1e-5
    told = probe.events
    assert "torque" in set(told["kind"])


@pytest.mark.parametrize("edit", [None, by_norm])
def test_a_common_factor_leaves_the_prediction_a_prediction(edit: Edit | None) -> None:
    probe = trained(edit)
    assert max(residuals(probe, "exact")) < RELATIVE
    assert "torque" not in set(probe.events["kind"])


def test_a_loss_that_sees_the_translation_turns_the_headline() -> None:
    """The z-loss sees the shift that a softmax does not; it comes when the symmetries are known already."""
    probe = trained(None, term=lambda out: 0.1 * out.logsumexp(-1).square().mean())
    assert max(residuals(probe, "exact")) < RELATIVE
    rows = probe.history
    last = rows[(rows["member"] < 0) & (rows["step"] == 12) & rows["name"].str.contains("4.bias")]
    assert float((last["flow"] - last["observed"]).abs().max()) > 1e-3
    assert "torque" in set(probe.events["kind"])


def test_sharpness_aware_gradients_have_a_measured_torque() -> None:
    climb = partial(_climbed, 0.05)
    probe = climb()
    assert max(residuals(probe, "exact")) < RELATIVE
    assert max(residuals(probe, "ideal")) > 1e-6


def _climbed(rho: float) -> neuromech.Probe:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    x, y = torch.randn(32, 6).double(), torch.randint(0, 4, (32,))
    probe = neuromech.instrument(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(12):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        kept = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for p in model.parameters():
                assert p.grad is not None
                p.add_(p.grad, alpha=rho / float(p.grad.norm()))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for p, old in zip(model.parameters(), kept, strict=True):
                p.copy_(old)
        optimizer.step()
    probe.flush()
    return probe


def test_rounding_of_a_bias_behind_dead_units_breaks_nothing() -> None:
    """Nothing is left but the gradient of the last bias, which cancels up to the rounding of its own terms."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    x, y = torch.randn(64, 6), torch.randint(0, 4, (64,))
    probe = neuromech.instrument(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(12):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert "torque" not in set(probe.events["kind"])
