"""How steps add up, against random walks that are taken step by step."""

import pytest
import torch

from neuromech.compat import muon_direction
from neuromech.optimizers import hyperparameters_of, rule_named
from neuromech.optimizers.accumulation import accumulated, accumulated_signs, geometric


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.95])
def test_geometric_memory_adds_up_as_heavy_ball_does(memory: float) -> None:
    assert accumulated(geometric(memory)) == pytest.approx((1 + memory) / (1 - memory), rel=1e-6)


@pytest.mark.parametrize("name", ["SGD", "Lion"])
def test_it_is_that_of_a_walk(name: str) -> None:
    """Squared displacement per step of many independent walkers, over that of one step."""
    group = {"lr": 1.0, "momentum": 0.8, "nesterov": True, "betas": (0.8, 0.9), "weight_decay": 0.0}
    told = hyperparameters_of(rule_named(name), group)
    g, n, steps = torch.Generator().manual_seed(0), 4000, 600
    m, x, start, size = torch.zeros(n), torch.zeros(n), torch.zeros(n), 0.0
    for k in range(steps):
        noise = torch.randn(n, generator=g)
        if name == "Lion":
            u, m = (0.8 * m + 0.2 * noise).sign(), 0.9 * m + 0.1 * noise
        else:
            m = 0.8 * m + noise
            u = noise + 0.8 * m
        x = x + u
        if k == 99:
            start = x.clone()
        if k >= 100:
            size += float(u.square().mean())
    # A walk lacks at its ends what its steps remember of each other: about one memory of 10 steps in 500.
    walked = float((x - start).square().mean()) / size
    assert told.accumulation == pytest.approx(walked, rel=0.08)
    assert told.fixed == (name == "Lion")


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "within"), [((24, 24), 0.12), ((24, 48), 0.06), ((48, 24), 0.06), ((12, 48), 0.06)])
def test_it_is_that_of_muon(shape: tuple[int, int], within: float) -> None:
    group = {"lr": 1.0, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0, "adjust_lr_fn": None}
    told = hyperparameters_of(rule_named("Muon"), group, shape)
    g, m, updates = torch.Generator().manual_seed(0), torch.zeros(shape), []
    for k in range(1600):
        noise = torch.randn(shape, generator=g)
        m = m.lerp(noise, 0.1)
        if k >= 100:
            updates.append(muon_direction(noise.lerp(m, 0.9), (3.4445, -4.775, 2.0315), 5, 1e-7).float().flatten())
    u = torch.stack(updates)
    size = float(u.square().mean())
    correlations = [float((u[k:] * u[: len(u) - k]).mean()) / size for k in range(1, 120)]
    assert told.accumulation == pytest.approx(1 + 2 * sum(correlations), rel=within)


def test_signs_remember_less_than_what_they_are_of() -> None:
    weights = geometric(0.9)
    assert 1.0 < accumulated_signs(weights) < accumulated(weights)
    assert accumulated_signs([1.0]) == 1.0
