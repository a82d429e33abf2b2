"""A closure evaluated many times leaves the world as one plain forward would have left it."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from neuromech.eom import EoMOptimizer, ErrorMeter


def noisy(spectral: bool = True) -> nn.Module:
    last = nn.Linear(8, 2)
    if spectral:  # its power iteration has no forward mode
        last = nn.utils.parametrizations.spectral_norm(last)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), last)


def world(model: nn.Module) -> list[torch.Tensor]:
    numpy = torch.tensor(np.random.get_state()[1].astype(np.int64))
    return [*(b.clone() for b in model.buffers()), torch.get_rng_state(), numpy, torch.tensor(random.getstate()[1])]


def closure_of(model: nn.Module, x: torch.Tensor):
    return lambda: (model(x + random.random() + np.random.rand()) * torch.randn(2)).square().mean()


@pytest.mark.parametrize("steps_before", [0, 2])  # step 1 is audited, step 3 is not
@pytest.mark.parametrize(
    "how", [{"backend": "gradients"}, {"hvp": "reverse"}, {"hvp": "forward"}, {"hvp": "difference"}, {"order": 2}]
)
def test_as_after_one_forward(how, steps_before) -> None:
    options = {"order": 1, **how}
    torch.manual_seed(0)
    model, x = noisy(how != {"hvp": "forward"}), torch.randn(16, 4)
    optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=1e-3), **options)
    for _ in range(steps_before):
        optimizer.step(closure_of(model, x))
    before = [b.clone() for b in model.buffers()], torch.get_rng_state(), np.random.get_state(), random.getstate()
    loss = closure_of(model, x)()
    wanted = world(model)
    with torch.no_grad():
        for b, value in zip(model.buffers(), before[0], strict=True):
            b.copy_(value)
    torch.set_rng_state(before[1])
    np.random.set_state(before[2])
    random.setstate(before[3])
    assert torch.equal(optimizer.step(closure_of(model, x)), loss.detach())
    for a, b in zip(world(model), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_dropout_masks_are_shared_within_a_step() -> None:
    """With the same mask at every evaluation, gradients alone and products agree to the order; else they cannot."""
    ends = []
    for backend in ("hvp", "gradients"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)).double()
        start = [p.detach().clone() for p in model.parameters()]
        x = torch.randn(16, 4).double()
        optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.01), backend=backend)
        for _ in range(5):
            optimizer.step(lambda model=model, x=x: model(x).square().mean())
        ends.append(torch.cat([(p.detach() - s).reshape(-1) for p, s in zip(model.parameters(), start, strict=True)]))
    assert (ends[0] - ends[1]).norm() < 1e-4 * ends[0].norm()


def test_a_measurement_leaves_no_trace_at_all() -> None:
    torch.manual_seed(0)
    model, x = noisy(), torch.randn(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.5)
    closure_of(model, x)().backward()
    before = (
        world(model),
        [p.detach().clone() for p in model.parameters()],
        [p.grad.clone() for p in model.parameters()],
    )
    ErrorMeter(model, optimizer).measure(closure_of(model, x))
    assert all(torch.equal(a, b) for a, b in zip(world(model), before[0], strict=True))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before[1], strict=True))
    assert all(torch.equal(p.grad, q) for p, q in zip(model.parameters(), before[2], strict=True))


def test_autocast_does_not_remember_weights_that_have_moved() -> None:
    ends = []
    for outside in (False, True):
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(16, 4)
        optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.5), backend="gradients")

        def closure(model=model, x=x, inside=not outside):
            with torch.autocast("cpu", torch.bfloat16, enabled=True):
                return model(x).float().square().mean()

        with torch.autocast("cpu", torch.bfloat16, enabled=outside):
            for _ in range(3):
                optimizer.step(closure)
        ends.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-6)
