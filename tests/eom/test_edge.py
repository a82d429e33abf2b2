"""Flows at the edge of stability: on losses whose edge can be worked out, and against the steps themselves."""

import math

import pytest
import torch
from torch import nn

from experiments.edge_of_stability import both_sides
from neuromech import EoMError
from neuromech.eom import Rule, as_function, central_flow, charge_rate, descend, edge_flow, gradient_flow, sharpness
from neuromech.eom.central import complementary
from neuromech.params import Params, combine
from tests.families import fast

LR, DRIVE = 0.1, 0.02
RULES = {
    "gradient descent": Rule(),
    "heavy ball": Rule(momentum=0.6),
    "dampening": Rule(momentum=0.5, dampening=0.3),
    "nesterov": Rule(momentum=0.5, nesterov=True),
}


def steepening(rule: Rule, start: float = 1.001):
    """(s + y) x^2 / 2 - c y: curvature along x grows at the rate c, and oscillations of x lower it."""
    edge = rule.edge / (rule.kappa * LR)

    def loss(p: Params) -> torch.Tensor:
        return (edge * start + p["y"]) * p["x"] ** 2 / 2 - DRIVE * p["y"]

    zero = torch.zeros((), dtype=torch.float64)
    return loss, {"x": zero.clone(), "y": zero.clone()}, edge


def binomial(path: list[Params], k: int, sign: float) -> Params:
    """The centre (1) or the swing (-1) of steps around step k, to the fourth order."""
    return combine([(sign**j * math.comb(4, j) / 16, path[k - 2 + j]) for j in range(5)])


@pytest.mark.parametrize("name", fast(RULES, list(RULES)[:1]))
def test_steps_stay_around_the_edge_flow(name: str) -> None:
    """From the first swing to the burst that pushes the curvature back: both as the steps have it."""
    rule = RULES[name]
    loss, params, edge = steepening(rule)
    params["x"] += 0.05
    path = [params, *descend(rule, loss, params, LR, 160)]
    times = (20, 60, 100, 140)
    for k, point in zip(times, edge_flow(rule, loss, params, LR).points([LR * k for k in times]), strict=True):
        swing, centre = abs(float(binomial(path, k, -1.0)["x"])), float(binomial(path, k, 1.0)["y"])
        assert math.log(point.amplitude / swing) == pytest.approx(0.0, abs=0.07)  # it goes over decades
        assert edge * 1.001 + float(point.centre["y"]) == pytest.approx(edge * 1.001 + centre, rel=1e-3)
    assert abs(float(binomial(path, 100, -1.0)["x"])) > 0.02


@pytest.mark.parametrize("rule", fast([Rule(), Rule(momentum=0.5)], [Rule(momentum=0.5)]))
def test_below_the_edge_it_follows_the_steps_to_second_order(rule: Rule) -> None:
    """A bowl without an edge in reach: the centre is the steps, the better the smaller lr, and no swing is left."""

    def loss(p: Params) -> torch.Tensor:
        return torch.cosh(p["w"]).sum() + p["w"].prod()

    start = {"w": torch.tensor([1.0, -0.4], dtype=torch.float64)}
    errors = []
    for lr in (0.04, 0.02):
        count = round(2.0 / lr)
        point = edge_flow(rule, loss, start, lr).points([2.0])[0]
        errors.append(float((point.centre["w"] - descend(rule, loss, start, lr, count)[-1]["w"]).norm()))
        assert point.amplitude < 1e-10
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.25)


@pytest.mark.slow
def test_rmsprop_reaches_the_edge_of_its_preconditioned_curvature() -> None:
    """On h x^2 / 2 with a gradient that its squares settle on: p = |h a|, and 2 / lr = h / p fixes the amplitude."""
    h, lr = 3.0, 0.01
    rule = Rule("rmsprop", betas=(0.0, 0.9), eps=1e-8)
    start = {"x": torch.tensor(1.0, dtype=torch.float64)}
    point = edge_flow(rule, lambda p: h * p["x"] ** 2 / 2, start, lr, seed=1e-5).points([4.0])[0]
    assert point.amplitude == pytest.approx(lr / 2, rel=0.05)  # around which it still rings, as the steps do
    optimizer_end = [float(p["x"]) for p in descend(rule, lambda p: h * p["x"] ** 2 / 2, start, lr, 400)[-2:]]
    assert abs(optimizer_end[0] - optimizer_end[1]) / 2 == pytest.approx(lr / 2, rel=0.05)


def drifting(p: Params) -> torch.Tensor:
    """Two linear layers, u v, after a target z that moves on: u^2 - v^2 is kept by the gradient flow, sharpness grows.

    In the valley u v = z it is u^2 + v^2 + 1.
    """
    return (p["u"] * p["v"] - p["z"]) ** 2 / 2 - 0.01 * p["z"]


def charge(p: Params) -> float:
    return float(p["u"] ** 2 - p["v"] ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("rule", fast([Rule(), Rule(momentum=0.5)], [Rule(momentum=0.5)]))
def test_charges_break_by_the_swing(rule: Rule) -> None:
    """Past the edge steps lose the charge as both flows say, at the rate that the covariance of the steps says."""
    start = {n: torch.tensor(x, dtype=torch.float64) for n, x in (("u", 1.9), ("v", 0.55), ("z", 1.0))}
    lr = rule.edge / 5.0
    count, every = round(100 / lr / rule.speed), 5
    steps = descend(rule, drifting, start, lr, count + 2)
    ends = sum(math.comb(4, j) / 16 * charge(steps[count - 3 + j]) for j in range(5))
    lost = charge(start) - ends
    assert lost > 0.25 * charge(start)
    times = [lr * k for k in range(0, count + 1, every)]
    edge, central = (f(rule, drifting, start, lr).points(times) for f in (edge_flow, central_flow))
    assert edge[-1].mean_of(charge) == pytest.approx(ends, abs=0.05 * charge(start))
    assert central[-1].mean_of(charge) == pytest.approx(ends, abs=0.15 * charge(start))  # the steps come in bursts
    at = central[-1].centre
    assert float(at["u"] ** 2 + at["v"] ** 2) + 1.0 == pytest.approx(5.0, rel=2e-3)
    for points in (edge, central):
        rates = torch.tensor([charge_rate(charge, p, rule, lr) for p in points])
        predicted = float(torch.trapezoid(rates, dx=every * lr))
        assert charge(points[-1].centre) - charge(points[0].centre) == pytest.approx(predicted, rel=0.05)
    assert charge(gradient_flow(drifting, start).at(times[-1])) == pytest.approx(charge(start), rel=1e-6)


def test_central_flow_keeps_the_curvature_at_the_edge() -> None:
    """(s + y) x^2 / 2 - c y: y is held where s + y is the edge, by a swing of x with x^2 / 2 = c."""
    for rule in (Rule(), Rule(momentum=0.6)):
        loss, params, edge = steepening(rule, start=0.9985)
        flow = central_flow(rule, loss, params, LR)
        before, after = flow.points([LR, 60 * LR])
        assert before.spread == []
        assert float(before.centre["y"]) == pytest.approx(LR * DRIVE * rule.speed)
        assert edge * 0.9985 + float(after.centre["y"]) == pytest.approx(edge, rel=1e-6)
        assert [float(s["x"] ** 2) for s in after.spread] == pytest.approx([2 * DRIVE], rel=1e-6)


def test_central_flow_of_rmsprop_has_its_amplitude() -> None:
    h, lr = 3.0, 0.01
    rule = Rule("rmsprop", betas=(0.0, 0.9), eps=1e-8)
    start = {"x": torch.tensor(0.1, dtype=torch.float64)}
    point = central_flow(rule, lambda p: h * p["x"] ** 2 / 2, start, lr).points([3.0])[0]
    assert float(point.spread[0]["x"].abs()) == pytest.approx(lr / 2, rel=0.02)


def test_complementary_matrices() -> None:
    """Random monotone problems of three rows: X and Y are no less than 0, and orthogonal."""
    generator = torch.Generator().manual_seed(0)
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    for _ in range(5):
        bends = torch.randn(6, 9, generator=generator, dtype=torch.float64)
        gram = bends @ bends.T

        def symmetric(entries: torch.Tensor) -> torch.Tensor:
            out = torch.zeros(3, 3, dtype=torch.float64)
            for c, (i, j) in zip(entries, pairs, strict=True):
                out[i, j] = out[j, i] = c
            return out

        still = symmetric(torch.randn(6, generator=generator, dtype=torch.float64))
        moved = [symmetric(row) for row in gram]
        x = complementary(still, moved, pairs, rounds=20000)
        y = still + sum((1.0 if i == j else 2.0) * float(x[i, j]) * m for m, (i, j) in zip(moved, pairs, strict=True))
        scale = float(still.abs().max())
        assert float(torch.linalg.eigvalsh(x).min()) >= -1e-12
        assert float(torch.linalg.eigvalsh(y).min()) >= -1e-5 * scale
        assert abs(float((x * y).sum())) <= 1e-5 * scale * float(x.abs().max().clamp_min(1.0))


@pytest.mark.slow
def test_on_a_network_loss_and_sharpness_are_those_of_the_steps() -> None:
    """A perceptron driven past the edge and through its first burst, from where training has become smooth.

    The swing grows by six decades and dies again; sharpness comes back from 14 % past the edge.
    """
    torch.manual_seed(0)
    x, teacher = torch.randn(32, 6).double(), nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2)).double()
    net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 2)).double()
    loss, params = as_function(net, nn.functional.mse_loss, x, 3 * teacher(x).detach())
    lr = 0.45
    for _ in range(4000):
        params = descend(Rule(), loss, params, lr / 10, 20)[-1]
        if sharpness(loss, params).value > 0.9 * 2 / lr:
            break
    count = 200
    path = [params, *descend(Rule(), loss, params, lr, count + 4)]
    losses = [float(loss(p)) for p in path]
    every = 10
    times = range(every, count, every)
    points = edge_flow(Rule(), loss, params, lr).points([lr * k for k in times])
    before, left_out, bursting = points[0].amplitude, 0.0, 0
    for k, point in zip(times, points, strict=True):
        # The flow has the first two powers of the growth per step; a swing is off by what the third adds up to.
        left_out += every * abs(math.log(point.amplitude / before) / every) ** 3 / 6
        before = point.amplitude
        mean = both_sides(losses, k)
        of_swing = 1 - float(loss(point.centre)) / mean
        bursting += of_swing > 0.1
        assert float(point.mean_of(loss)) == pytest.approx(mean, rel=0.01 + 2 * left_out * of_swing)
        assert sharpness(loss, point.centre).value == pytest.approx(
            sharpness(loss, binomial(path, k, 1.0)).value, rel=0.01
        )
    assert max(p.amplitude for p in points) > 1e5 * min(p.amplitude for p in points)
    assert bursting <= 3


def test_what_has_no_edge_flow_is_refused() -> None:
    loss, params, _ = steepening(Rule())
    for flow in (edge_flow, central_flow):
        for rule, lr, message in (
            (Rule("adam"), 0.1, "not for adam"),
            (Rule(weight_decay=0.1, decoupled=True), 0.1, "not for decoupled"),
            (Rule(), None, "lr is"),
        ):
            with pytest.raises(EoMError, match=message):
                flow(rule, loss, params, lr)
        of_torch = flow(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), loss, params)
        with pytest.raises(EoMError, match="all forwards"):
            of_torch.points([-1.0])
        assert of_torch.points([0.0])[0].centre.keys() == params.keys()
    with pytest.raises(EoMError, match="without nesterov"):
        central_flow(Rule(momentum=0.5, nesterov=True), loss, params, 0.1)
    with pytest.raises(EoMError, match="goes by 'euler'"):
        central_flow(Rule(), loss, params, 0.1).at(0.1, method="dopri5")
    with pytest.raises(EoMError, match="keeps no charge"):
        charge_rate(charge, edge_flow(Rule(), loss, params, 0.1).points([0.0])[0], Rule("rmsprop", betas=(0, 0.9)), 1)
