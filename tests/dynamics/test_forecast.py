"""Forecasts against weights that really train: a vector whose length the loss does not see, under white gradients."""

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuromech.dynamics import forecast, outlook
from neuromech.dynamics.extrapolation import KNEE
from neuromech.dynamics.forecast import Balance
from neuromech.dynamics.trend import Trend
from neuromech.optimizers import Hyperparameters, hyperparameters_of, rule_of
from tests.families import fast

D = 64


def wander(
    optimizer: torch.optim.Optimizer, w: Tensor, steps: int, seed: int = 0, sizes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Squared lengths and sin^2 of the angles of `steps` steps under gradients that are white, orthogonal to w and of
    mean squared length D at unit weights, times the squares of `sizes`."""
    g = torch.Generator().manual_seed(seed)
    lengths, turns = [], []
    for size in (torch.ones(steps) if sizes is None else sizes).tolist():
        noise = torch.randn(D, generator=g, dtype=torch.float64)
        before = w.detach().clone()
        noise -= before * (noise @ before) / (before @ before)
        w.grad = size * noise / before.norm()
        optimizer.step()
        after = w.detach()
        lengths.append(float(after @ after))
        turns.append(1 - float(before @ after) ** 2 / float(before @ before) / float(after @ after))
    return torch.tensor(lengths), torch.tensor(turns)


def weights(length2: float = 1.0) -> nn.Parameter:
    w = torch.randn(D, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return nn.Parameter(w * math.sqrt(length2) / w.norm())


@pytest.mark.parametrize(("momentum", "dampening"), fast([(0.0, 0.0), (0.9, 0.0), (0.5, 0.3)], [(0.5, 0.3)]))
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


@pytest.mark.slow
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
@pytest.mark.parametrize("trend", [Trend(20, 1.5, 0.5, lr=0.1), Trend(20, rest=0.3)])
def test_a_trend_is_followed_step_by_step(power: int, trend: Trend) -> None:
    """One step at a time with the strength of that step, as an oracle."""
    b, lrs = Balance(0.3, 2.0, power, trend), [0.1, 0.05] * 20
    length2 = 1.7
    for k, lr in enumerate(lrs, 21):
        length2 = Balance(0.3, 2.0 * trend.factor(k, lr), power).advance(length2, [lr])
    assert b.advance(1.7, lrs) == pytest.approx(length2, rel=1e-12)


def test_trends_go_where_they_should() -> None:
    low, high = Trend(100, 1.0, 0.0), Trend(100, 1.0, 1e9)
    assert low.factor(400, 0.1) == pytest.approx(1 / 4)  # a low loss: gradients fall with it
    assert high.factor(400, 0.1) == pytest.approx(1.0)  # a high one: they do not
    assert Trend(100, lr=0.8).factor(100, 0.1) == pytest.approx(1 / 2)  # by the cube root of the learning rate
    assert Trend(100, rest=0.3).factor(10**7, 0.1) == pytest.approx(0.3)


def test_a_grip_is_coupled_decay_behind_a_preconditioner() -> None:
    """C falls by decay lr C^1.5: against the closed form without a drive, and at rest."""
    free = Balance(0.3, 0.0, 0, grip=0.5)
    assert free.advance(4.0, [1e-3] * 2000) == pytest.approx((4.0**-0.5 + 0.5 * 0.3 * 2.0) ** -2, rel=1e-3)
    b = Balance(0.3, 2.0, 0, grip=0.5)
    rest = b.equilibrium(0.01)
    assert 0.3 * rest**1.5 == pytest.approx(0.01 * 2.0)
    assert b.advance(rest, [0.01] * 500) == pytest.approx(rest, rel=1e-3)
    after = b.advance(rest * 1.001, [0.01] * round(b.time_constant(0.01)))
    assert (after - rest) / (0.001 * rest) == pytest.approx(math.exp(-1), rel=0.03)


def test_intervals_hold_as_often_as_they_say() -> None:
    b, lrs = Balance(0.3, 2.0, 1, spread=0.4), [0.1] * 60
    low, high = b.interval(3.0, lrs, 0.8)
    draw = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = [dataclasses.replace(b, strength=2.0 * math.exp(0.4 * x)).advance(3.0, lrs) for x in draw[:1000].tolist()]
    assert sum(low <= end <= high for end in ends) / len(ends) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("power", [0, 1])
def test_in_equilibrium_the_angle_is_that_of_the_settings(power: int) -> None:
    b = Balance(0.3, 2.0, power)
    expected = forecast.angular_update(0.1, 0.3, 0.9)
    assert b.angles(b.equilibrium(0.1), [0.1], 1.9 / 0.1) == pytest.approx([expected])


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
    told = Hyperparameters(lr, decay, power, memory, 2 * decay, (1 + memory) / (1 - memory))
    turned = [0.0, *turns[:seen]]
    balance = outlook(lengths[: seen + 1], turned, [lr] * seen, told, 4000, [1.0] * seen)
    assert balance.advance(lengths[seen], [lr] * (1199 - seen)) == pytest.approx(lengths[-1], rel=0.03)
    # What is seen at some steps only says the same.
    steps = [*range(16), *range(16, seen + 1, 8)]
    some = [sum(turned[a + 1 : b + 1]) for a, b in itertools.pairwise([-1, *steps])]
    rare = outlook([lengths[k] for k in steps], some, [lr] * seen, told, 4000, [1.0] * seen, steps)
    assert rare.strength == pytest.approx(balance.strength, rel=0.02)
    # Without a loss, gradients are taken to fade; updates that do not follow them are not.
    fading = outlook(lengths[: seen + 1], turned, [lr] * seen, told, 4000)
    ends = [b.advance(lengths[seen], [lr] * 900) for b in (fading, balance)]
    assert ends[0] < ends[1] if power == 1 else ends[0] == ends[1]


@pytest.mark.parametrize(("name", "decay"), [("Adam", 0.3), ("AdamW", 0.3), ("Lion", 0.3), ("SGD", 0.02)])
def test_an_outlook_of_a_real_optimizer_foresees_its_weights(name: str, decay: float) -> None:
    """White gradients, from far above the equilibrium; half of the way is seen. Adam's decay is coupled."""
    po = pytest.importorskip("pytorch_optimizer") if name == "Lion" else torch.optim
    w = weights(30.0 if name == "SGD" else 9.0)
    told: dict[str, Any] = {"lr": {"Lion": 1e-3}.get(name, 4e-3), "weight_decay": decay}
    optimizer = getattr(po, name)([w], **told | ({"momentum": 0.9} if name == "SGD" else {}))
    start = float(w.detach() @ w.detach())
    lengths, turns = wander(optimizer, w, 1200)
    hyper = hyperparameters_of(rule_of(optimizer), optimizer.param_groups[0], w.shape)
    seen = 300
    c, turned = [start, *lengths.tolist()], [0.0, *turns.tolist()]
    balance = outlook(c[: seen + 1], turned[: seen + 1], [told["lr"]] * seen, hyper, D, [1.0] * seen)
    end = balance.advance(c[seen], [told["lr"]] * 900)
    assert end == pytest.approx(c[-1], rel=0.15)
    assert abs(end - c[-1]) < 0.4 * abs(c[seen] - c[-1])  # better than that nothing changes
    assert balance.grip == (0.5 if name == "Adam" else 0.0)


def test_second_moments_remember_larger_gradients() -> None:
    """The loss falls by a power of the step, and gradients fade with it once it is low: angles of AdamW at the end."""
    steps, seen, lr = 1200, 240, 4e-3
    loss = torch.arange(1, steps + 1, dtype=torch.float64) ** -0.7
    knee = KNEE * float(loss[:3].mean())
    w = weights(4.0)
    optimizer = torch.optim.AdamW([w], lr=lr, weight_decay=0.02, eps=0.0)
    lengths, turns = wander(optimizer, w, steps, sizes=(loss / (loss + knee)).sqrt())
    told = hyperparameters_of(rule_of(optimizer), optimizer.param_groups[0], w.shape)
    c, turned = [4.0, *lengths.tolist()], [0.0, *turns.tolist()]
    balance = outlook(c[: seen + 1], turned[: seen + 1], [lr] * seen, told, D, loss[:seen].tolist())

    def off(b: Balance) -> float:
        angles = b.angles(c[seen], [lr] * (steps - seen), told.accumulation)[-200:]
        return float(torch.tensor(angles).square().mean() / turns[-200:].mean()) ** 0.5

    assert off(balance) == pytest.approx(1.0, abs=0.05)
    blind = dataclasses.replace(balance, wake=None, trend=Trend(seen, rest=told.unit * D / balance.strength))
    assert off(blind) > 1.2


@pytest.mark.parametrize(("first", "loss"), [(1.0, 0.0), (1.0, -1.0), (0.0, 1.0)])
def test_a_start_without_a_length_or_a_loss_leaves_numbers(first: float, loss: float) -> None:
    told = hyperparameters_of(rule_of(o := torch.optim.AdamW([weights()])), o.param_groups[0], (D,))
    lengths, losses = [first, *[1.0] * 20], [loss, *[3.0] * 19]
    balance = outlook(lengths, [0.0, *[1e-3] * 20], [1e-3] * 20, told, D, losses)
    assert math.isfinite(balance.advance(1.0, [1e-3] * 50))


def test_an_outlook_says_what_it_needs() -> None:
    told = Hyperparameters(0.1, 0.0, 1, 0.9, 0.0, 19.0)
    with pytest.raises(ValueError, match="8 steps or more"):
        outlook([1.0] * 4, [0.1] * 4, [0.1] * 3, told, 5)
    with pytest.raises(ValueError, match="10 lengths, 9 turns, 9 learning rates"):
        outlook([1.0] * 10, [0.1] * 9, [0.1] * 9, told, 5)
