"""Forecasts against weights that really train: a vector whose length the loss does not see, under white gradients."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from neuromech.dynamics import forecast, outlook
from neuromech.dynamics.forecast import Balance

D = 64


def wander(optimizer: torch.optim.Optimizer, w: Tensor, steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Squared lengths and sin^2 of the angles of `steps` steps under gradients that are white, orthogonal to w and of
    mean squared length D at unit weights."""
    g = torch.Generator().manual_seed(seed)
    lengths, turns = [], []
    for _ in range(steps):
        noise = torch.randn(D, generator=g, dtype=torch.float64)
        before = w.detach().clone()
        noise -= before * (noise @ before) / (before @ before)
        w.grad = noise / before.norm()
        optimizer.step()
        after = w.detach()
        lengths.append(float(after @ after))
        turns.append(1 - float(before @ after) ** 2 / float(before @ before) / float(after @ after))
    return torch.tensor(lengths), torch.tensor(turns)


def weights(length2: float = 1.0) -> nn.Parameter:
    w = torch.randn(D, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return nn.Parameter(w * math.sqrt(length2) / w.norm())


@pytest.mark.parametrize(("momentum", "dampening"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.3)])
def test_sgd_settles_where_it_should_and_turns_as_it_should(momentum: float, dampening: float) -> None:
    lr, decay = 0.05, 0.02
    kappa = (1 - dampening) if momentum else 1.0
    expected = forecast.sgd_equilibrium(lr, decay, momentum, dampening if momentum else 0.0, D - 1)
    w = weights(expected)
    optimizer = torch.optim.SGD([w], lr=lr, momentum=momentum, dampening=dampening, weight_decay=decay)
    lengths, turns = wander(optimizer, w, 6000)
    assert float(lengths[1000:].mean()) == pytest.approx(expected, rel=0.03)
    rate = 2 * kappa * decay / (1 - momentum)
    angle = float(turns[1000:].mean().sqrt())
    assert angle == pytest.approx(forecast.angular_update(lr, rate, momentum), rel=0.03)
    assert angle == pytest.approx(math.sqrt(2 * lr * kappa * decay / (1 + momentum)), rel=0.03)


def test_adamw_settles_where_it_should_and_turns_as_it_should() -> None:
    lr, decay = 2e-3, 0.5
    expected = forecast.adamw_equilibrium(lr, decay, D)
    w = weights(expected)
    lengths, turns = wander(torch.optim.AdamW([w], lr=lr, weight_decay=decay), w, 8000)
    assert float(lengths[2000:].mean()) == pytest.approx(expected, rel=0.06)
    angle = float(turns[2000:].mean().sqrt())
    assert angle == pytest.approx(forecast.angular_update(lr, 2 * decay, 0.9), rel=0.04)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_way_to_the_equilibrium_and_through_a_schedule(name: str) -> None:
    """From far off, the learning rate halved in mid-run."""
    lr, power = (0.05, 1) if name == "sgd" else (2e-3, 0)
    decay = 0.02 if name == "sgd" else 0.5
    rate = 2 * decay / (1 - 0.9) if name == "sgd" else 2 * decay
    strength = (D - 1) / (1 - 0.9) ** 2 if name == "sgd" else float(D)
    w = weights(4.0)
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD([w], lr=lr, momentum=0.9, weight_decay=decay)
        if name == "sgd"
        else torch.optim.AdamW([w], lr=lr, weight_decay=decay)
    )
    balance, steps = Balance(rate, strength, power), 150 if name == "sgd" else 600
    first, _ = wander(optimizer, w, steps)
    optimizer.param_groups[0]["lr"] = lr / 2
    second, _ = wander(optimizer, w, steps, seed=1)
    assert float(first[-1]) == pytest.approx(balance.advance(4.0, [lr] * steps), rel=0.12)
    ahead = balance.advance(4.0, [lr] * steps + [lr / 2] * steps)
    assert float(second[-1]) == pytest.approx(ahead, rel=0.12)


@pytest.mark.parametrize("power", [1, 0])
def test_time_constant_and_equilibrium_are_those_of_the_way(power: int) -> None:
    balance, lr = Balance(0.4, 3.0, power), 0.01
    rest, tau = balance.equilibrium(lr), balance.time_constant(lr)
    assert balance.advance(rest, [lr] * 1000) == pytest.approx(rest)
    after = balance.advance(rest * 1.001, [lr] * round(tau))
    assert (after - rest) / (0.001 * rest) == pytest.approx(math.exp(-1), rel=0.01)


def test_without_decay_there_is_no_equilibrium_and_the_length_grows() -> None:
    balance = Balance(0.0, 3.0, 1)
    assert balance.equilibrium(0.1) == balance.time_constant(0.1) == math.inf
    assert balance.advance(2.0, [0.1] * 50) ** 2 == pytest.approx(4.0 + 2 * 50 * 0.01 * 3.0)
    assert Balance(0.2, 3.0, -1).advance(2.0, [0.1] * 10) == pytest.approx(2.0 * math.exp(0.1))


@pytest.mark.parametrize("power", [1, 0, -1])
def test_measure_finds_the_balance_that_made_the_data(power: int) -> None:
    true, lr = Balance(0.3, 2.0, power), 1e-3
    length2 = [2.0 + 0.1 * k for k in range(10)]
    decayed = [-true.decay * 5 * lr * c for c in length2]
    driven = [true.strength * 5 * lr**2 / c**power for c in length2]
    found = forecast.measure(length2, decayed, driven, [[lr] * 5] * 10, power)
    assert (found.decay, found.strength) == pytest.approx((true.decay, true.strength))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_equivalent_settings_give_the_same_directions(name: str) -> None:
    """On a loss that does not see the length: the same function at every step, at another length."""
    target = torch.randn(D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    power, start = (1, 0.05) if name == "sgd" else (0, 1e-2)
    lr, decay, length = forecast.equivalent(start, 0.1, 4.0, power)
    paths = []
    for eta, lam, scale in ((start, 0.1, 1.0), (lr, decay, length)):
        w = nn.Parameter(weights().detach() * scale)
        optimizer: torch.optim.Optimizer = (
            torch.optim.SGD([w], lr=eta, weight_decay=lam, momentum=0.9)
            if name == "sgd"
            else torch.optim.AdamW([w], lr=eta, weight_decay=lam, eps=0.0)
        )
        path = []
        for _ in range(100):
            optimizer.zero_grad()
            ((w / w.norm() - target) ** 2).sum().backward()
            optimizer.step()
            path.append((w / w.norm()).detach())
        paths.append(torch.stack(path))
        assert float(w.detach().norm()) > 0
    torch.testing.assert_close(*paths, rtol=1e-9, atol=1e-10)


def test_effective_learning_rates() -> None:
    assert forecast.effective_lr(0.1, 4.0, 0.9, 1) == pytest.approx(0.25)
    assert forecast.effective_lr(0.1, 4.0, 0.9, 0) == pytest.approx(0.05)
    assert forecast.effective_lr(0.1, 4.0, 0.9, -1) == pytest.approx(0.1)


@pytest.mark.parametrize("power", [-1, 0, 1])
def test_a_trend_is_followed_as_far_again_and_no_further(power: int) -> None:
    """One step at a time with the strength of that step, as an oracle."""
    b, lrs = Balance(0.3, 2.0, power, fade=1.5, at=20), [0.1, 0.05] * 20
    length2 = 1.7
    for k, lr in enumerate(lrs, 21):
        length2 = Balance(0.3, 2.0 * min(k / 20, 2.0) ** -1.5, power).advance(length2, [lr])
    assert b.advance(1.7, lrs) == pytest.approx(length2, rel=1e-12)
    assert b.strength_at(20) == 2.0
    assert b.strength_at(40) == b.strength_at(400) == pytest.approx(2.0 * 2**-1.5)


@pytest.mark.parametrize("power", [0, 1])
def test_in_equilibrium_the_angle_is_that_of_the_settings(power: int) -> None:
    b = Balance(0.3, 2.0, power)
    expected = forecast.angular_update(0.1, 0.3, 0.9)
    assert b.angle(0.1, b.equilibrium(0.1), 0.9, 1000) == pytest.approx(expected)


@pytest.mark.parametrize(("power", "memory"), [(1, 0.0), (1, 0.9), (0, 0.9)])
def test_an_outlook_reads_the_strength_off_how_weights_turn(power: int, memory: float) -> None:
    """Weights in many dimensions, pushed at right angles by white noise that is remembered, and decayed."""
    draw = torch.Generator().manual_seed(0)
    w, buffer = torch.randn(4000, generator=draw, dtype=torch.float64), torch.zeros(4000, dtype=torch.float64)
    lr, decay, lengths, turns = 0.1, 0.02, [], []
    for _ in range(1200):
        noise = torch.randn(4000, generator=draw, dtype=torch.float64)
        noise = 0.3 * (noise - w * (noise @ w) / (w @ w)) / w.norm() ** power
        buffer = memory * buffer + (1 - memory) * noise if power == 0 else memory * buffer + noise
        new = (1 - lr * decay) * w - lr * buffer
        lengths.append(float(w @ w))
        turns.append(1.0 - float((w @ new) ** 2 / ((w @ w) * (new @ new))))
        w = new
    seen = 240
    balance = outlook(lengths[:seen], turns[:seen], [lr] * seen, 2 * decay, power, memory)
    steady = dataclasses.replace(balance, fade=0.0, drift=0.0)
    assert steady.advance(lengths[seen], [lr] * (1199 - seen)) == pytest.approx(lengths[-1], rel=0.03)
    assert abs(balance.fade) < 0.15  # half of what noise makes of no trend
    assert balance.advance(lengths[seen], [lr] * (1199 - seen)) < steady.advance(lengths[seen], [lr] * (1199 - seen))


def test_an_outlook_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="8 steps or more"):
        outlook([1.0] * 4, [0.1] * 4, [0.1] * 4, 0.1, 1, 0.9)
    with pytest.raises(ValueError, match="of one length each: 9, 8, 9"):
        outlook([1.0] * 9, [0.1] * 8, [0.1] * 9, 0.1, 1, 0.9)
