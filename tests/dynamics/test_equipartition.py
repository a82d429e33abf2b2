"""Charges of rescalings against matrices of rank one that really train, on noise that is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuromech.dynamics import TwoSides, two_sides
from neuromech.dynamics.trend import Trend
from neuromech.optimizers import hyperparameters_of, rule_of

RUNS, ROWS, COLUMNS = 200, 3, 12
NOISE, BATCH = 0.5, 4
SIDES = TwoSides(0.02, 3.0, 5.0, 6.0, 0.1, Trend(100, 0.3, 0.5, lr=0.1))


def train(sgd: torch.optim.SGD, a: Tensor, b: Tensor, steps: int) -> tuple[list[list[float]], list[list[float]]]:
    """a_i b_i^T learns a matrix of ones from noisy samples, in all runs at once: squared lengths of both sides before
    each step and after the last, and of the gradients of each step."""
    g = torch.Generator().manual_seed(1)
    lengths, gradients = [], []
    for _ in range(steps):
        x = torch.randn(RUNS, BATCH, COLUMNS, generator=g, dtype=torch.float64)
        y = x.sum(-1, keepdim=True) + NOISE * torch.randn(RUNS, BATCH, ROWS, generator=g, dtype=torch.float64)
        sgd.zero_grad()
        out = (x @ b.unsqueeze(-1)) * a.unsqueeze(1)
        (0.5 * (out - y).square().sum() / BATCH).backward()
        lengths.append([float(p.detach().square().sum()) for p in (a, b)])
        gradients.append([float(p.grad.square().sum()) for p in (a, b)])
        sgd.step()
    return [*lengths, [float(p.detach().square().sum()) for p in (a, b)]], gradients


def out_of_balance(factor: float) -> tuple[nn.Parameter, nn.Parameter]:
    one = torch.ones(RUNS, ROWS, dtype=torch.float64), torch.ones(RUNS, COLUMNS, dtype=torch.float64)
    return nn.Parameter(one[0] * factor), nn.Parameter(one[1] / factor)


@pytest.mark.parametrize(("momentum", "dampening", "within"), [(0.0, 0.0, 1e-4), (0.8, 0.0, 0.01), (0.5, 0.2, 0.01)])
def test_noise_shares_length_as_the_energies_of_gradients_say(momentum: float, dampening: float, within: float) -> None:
    """Under momentum gradients resemble the last ones a little, which energies alone do not say."""
    a, b = out_of_balance(1.5)
    gain = (1 - dampening) / (1 - momentum) if momentum else 1.0
    lr = 0.02 / gain
    sgd = torch.optim.SGD([a, b], lr=lr, momentum=momentum, dampening=dampening)
    lengths, gradients = train(sgd, a, b, 900)
    charges, product = [u - d for u, d in lengths], float(np.prod(lengths[0]))
    up, down = (gain**2 * np.array(gradients) * np.array(lengths[:-1])).mean(0).tolist()
    sides = TwoSides(0.0, up, down, product)
    size = sum(sides.lengths(0.0))
    assert abs(charges[-1] - charges[0]) > 0.1 * size
    assert abs(sides.path(charges[0], [lr] * 900)[-1] - charges[-1]) < within * size
    u, d = sides.lengths(sides.equilibrium(lr))
    assert u / d == pytest.approx(up / down)  # both carry the same energy
    assert up / down == pytest.approx(ROWS / COLUMNS, rel=0.2)  # as that of noise alone, at small steps


def test_a_forecast_from_the_first_third_meets_the_end() -> None:
    a, b = out_of_balance(1.5)
    sgd = torch.optim.SGD([a, b], lr=0.01, momentum=0.5, weight_decay=0.02)
    lengths, gradients = train(sgd, a, b, 600)
    charges, first = [u - d for u, d in lengths], 200
    some = range(first // 2, first)
    sides = two_sides(
        charges[first // 2 : first + 1], range(first // 2, first + 1), [lengths[k] for k in some],
        [gradients[k] for k in some], [0.01] * first, hyperparameters_of(rule_of(sgd), sgd.param_groups[0]), 2.0,
    )  # fmt: skip
    ahead = [0.01] * 400
    end, came, size = sides.path(charges[first], ahead)[-1], charges[-1], sum(lengths[-1])
    assert abs(end - came) < 0.01 * size
    assert abs(charges[first] - came) > 0.05 * size
    low, high = sides.interval(charges[first], ahead)
    assert low < came < high
    assert sides.interval(charges[first], ahead, 0.95)[0] < low
    assert abs(replace(sides, decay=0.0).path(charges[first], ahead)[-1] - came) > 2 * abs(end - came)


def test_sides_may_change_places() -> None:
    other = replace(SIDES, up=SIDES.down, down=SIDES.up, rest=-SIDES.rest)
    lrs = [0.1 * 0.99**k for k in range(50)]
    assert other.path(-2.0, lrs) == pytest.approx([-q for q in SIDES.path(2.0, lrs)])
    assert other.equilibrium(0.1) == pytest.approx(-SIDES.equilibrium(0.1))
    assert other.interval(-2.0, lrs) == pytest.approx([-q for q in SIDES.interval(2.0, lrs)[::-1]])


def test_lengths_are_those_of_the_charge() -> None:
    for charge in (-1e6, -3.0, 0.0, 1e-3, 1e6):
        u, d = SIDES.lengths(charge)
        assert u * d == pytest.approx(SIDES.product)
        assert u - d == pytest.approx(charge, abs=1e-12)


def test_it_rests_at_the_equilibrium_and_comes_there_at_its_rate() -> None:
    steady = replace(SIDES, trend=Trend(1))
    rest, tau = steady.equilibrium(0.05), steady.time_constant(0.05)
    assert steady.path(rest, [0.05] * 10)[-1] == pytest.approx(rest)
    n = round(tau)
    left = (steady.path(rest + 1e-3, [0.05] * n)[-1] - rest) / 1e-3
    assert left == pytest.approx(math.exp(-n / tau), rel=0.01)


def test_without_a_balance_there_is_no_equilibrium() -> None:
    only = TwoSides(0.0, 0.0, 2.0, 1.0)  # nothing but the right side grows
    assert only.equilibrium(0.1) == -math.inf
    assert replace(only, up=2.0, down=0.0).equilibrium(0.1) == math.inf
    assert only.time_constant(0.1) == math.inf
    assert math.isnan(SIDES.equilibrium(0.0))


def test_a_short_side_does_not_throw_the_charge_to_and_fro() -> None:
    path = TwoSides(0.0, 1.0, 1.0, 1e-8).path(3.0, [10.0] * 30)
    assert max(abs(q) for q in path[1:]) < 1e-6


def test_too_little_is_refused() -> None:
    told = hyperparameters_of(rule_of(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)), {"lr": 0.1})
    with pytest.raises(ValueError, match="say too little"):
        two_sides([1.0, 1.0], [0, 1], [(1.0, 1.0)], [(1.0, 1.0)], [0.1], told, 1.0)
    with pytest.raises(ValueError, match="say too little"):
        two_sides([1.0] * 9, range(9), [], [], [0.1] * 8, told, 1.0)
    with pytest.raises(ValueError, match="no length"):
        two_sides([1.0] * 9, range(9), [(0.0, 1.0)], [(1.0, 1.0)], [0.1] * 8, told, 1.0)
