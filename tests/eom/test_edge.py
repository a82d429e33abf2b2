"""Flows at the edge of stability: on a loss whose edge can be worked out, and against the steps themselves."""

import math

import pytest
import torch
from torch import nn

from neuromech import EoMError
from neuromech.eom import Rule, descend, edge_flow, sharpness
from neuromech.params import Params

LR, DRIVE = 0.1, 0.02


def steepening(rule: Rule, start: float = 1.001, a: float = 1e-3):
    """(s + y) x^2 / 2 - c y: curvature along x grows at the rate c, and oscillations of x lower it."""
    edge = rule.edge / (rule.kappa * LR)

    def loss(p: Params) -> torch.Tensor:
        return (edge * start + p["y"]) * p["x"] ** 2 / 2 - DRIVE * p["y"]

    zero = torch.zeros((), dtype=torch.float64)
    return loss, {"x": zero.clone(), "y": zero.clone()}, edge, a


def test_steps_stay_around_the_edge_flow() -> None:
    rule = Rule()
    loss, params, edge, a = steepening(rule)
    x = torch.tensor(a, dtype=torch.float64)
    steps = descend(rule, loss, params | {"x": x}, LR, 180)
    points = edge_flow(rule, loss, params, LR, seed=a).points([LR * k for k in (40, 80, 120, 160)], "dopri5")

    def swing(k: int) -> float:
        return abs(float(steps[k - 1]["x"]) - float(steps[k]["x"])) / 2  # after k steps, and one more

    for k, point in zip((40, 80, 120, 160), points, strict=True):
        y = float(steps[k - 1]["y"])
        assert float(point.centre["y"]) == pytest.approx(y, abs=LR * DRIVE)  # a step's worth
        grown, wanted = math.log(point.amplitude / points[0].amplitude), math.log(swing(k) / swing(40))
        assert grown == pytest.approx(wanted, rel=0.02, abs=0.03)
        assert sharpness(loss, point.centre).value == pytest.approx(edge * 1.001 + y, rel=1e-3)
    assert points[-1].amplitude > 5 * a


def test_below_the_edge_it_is_the_gradient_flow() -> None:
    loss, params, edge, _ = steepening(Rule(), start=0.5)
    point = edge_flow(Rule(), loss, params, LR, seed=1e-6).points([5.0])[0]
    assert float(point.centre["y"]) == pytest.approx(5.0 * DRIVE, rel=1e-6)
    assert point.amplitude == pytest.approx(1e-6)
    assert edge > 0


def test_rmsprop_reaches_the_edge_of_its_preconditioned_curvature() -> None:
    """On h x^2 / 2 with a gradient that its squares settle on: p = |h a|, and 2 / lr = h / p fixes the amplitude."""
    h, lr = 3.0, 0.01
    rule = Rule("rmsprop", betas=(0.0, 0.9), eps=1e-8)
    start = {"x": torch.tensor(1.0, dtype=torch.float64)}
    point = edge_flow(rule, lambda p: h * p["x"] ** 2 / 2, start, lr).points([3.0], "dopri5")[0]
    assert point.amplitude == pytest.approx(lr / 2, rel=0.02)
    optimizer_end = [float(p["x"]) for p in descend(rule, lambda p: h * p["x"] ** 2 / 2, start, lr, 400)[-2:]]
    assert abs(optimizer_end[0] - optimizer_end[1]) / 2 == pytest.approx(lr / 2, rel=0.05)


def test_charges_break_by_the_oscillation() -> None:
    """Two linear layers, u v x: u^2 - v^2 is kept by the gradient flow, and lost past the edge as steps lose it."""
    target = 1.0

    def loss(p: Params) -> torch.Tensor:
        return (p["u"] * p["v"] - target) ** 2 / 2

    def charge(p: Params) -> float:
        return float(p["u"] ** 2 - p["v"] ** 2)

    start = {"u": torch.tensor(2.6, dtype=torch.float64), "v": torch.tensor(0.40, dtype=torch.float64)}
    lr, count = 0.33, 400  # the minimum that the gradient flow finds has sharpness 7 > 2 / lr
    steps = descend(Rule(), loss, start, lr, count)
    point = edge_flow(Rule(), loss, start, lr, seed=1e-3).points([lr * count], "dopri5")[0]
    lost = charge(start) - charge(steps[-1])
    assert lost > 0.5
    assert point.mean_of(charge) == pytest.approx(charge(steps[-1]), rel=0.05)
    assert sharpness(loss, point.centre).value <= 2 / lr * 1.01


def test_what_has_no_edge_flow_is_refused() -> None:
    loss, params, _, _ = steepening(Rule())
    for rule, lr, message in (
        (Rule("adam"), 0.1, "not for adam"),
        (Rule(momentum=0.5), 0.1, "not for sgd with momentum"),
        (Rule(weight_decay=0.1), 0.1, "into the loss"),
        (Rule(), None, "lr is"),
    ):
        with pytest.raises(EoMError, match=message):
            edge_flow(rule, loss, params, lr)
    flow = edge_flow(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), loss, params)
    with pytest.raises(EoMError, match="all forwards"):
        flow.points([-1.0])
    assert math.isfinite(flow.points([0.0])[0].amplitude)
