"""Layers that do not see a scale or a shift: how their norms and means decay under the equation of motion.

Gradient flow with weight decay shrinks |w|^2 at the rate 2 decay. Descent shrinks it faster, at
2 decay (1 + lr decay / 2 + (lr decay)^2 / 3 + ...), and drives it: this is the paper's experiment, as identities.
"""

import math

import pytest
import torch
from torch import Tensor

from neuromech.eom import Point, Rule, descend, equation_of_motion, flow_of
from neuromech.eom.terms import decayed, motion, motion_by_gradients
from neuromech.params import Params, combine, dot
from tests.families import fast

from .cases import slope

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(1)).double()
Y = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(2))


def scale_invariant(p: Params) -> Tensor:
    """Sees only the direction of w."""
    w = p["w"] / p["w"].norm()
    return torch.tanh(X @ w).square().mean()


def shift_invariant(p: Params) -> Tensor:
    """Softmax does not see a shift of the bias."""
    return torch.nn.functional.cross_entropy(X @ p["w"] + p["b"], Y)


def scale_start() -> Params:
    return {"w": torch.randn(5, generator=torch.Generator().manual_seed(3)).double()}


def shift_start() -> Params:
    generator = torch.Generator().manual_seed(4)
    return {"w": torch.randn(5, 3, generator=generator).double(), "b": torch.randn(3, generator=generator).double()}


def rate(decay: float, lr: float, order: int) -> float:
    """decay * (1 + lr decay / 2 + ...), up to the term of `order`."""
    return decay * sum((lr * decay) ** k / (k + 1) for k in range(order + 1))


@pytest.mark.parametrize("order", range(3))
def test_rate_of_a_norm(order: int) -> None:
    decay, lr, w = 0.7, 0.3, scale_start()
    point = Point(scale_invariant, w)
    g = point.gradient
    assert abs(float(dot(g, w))) < 1e-15
    field = motion(decayed(point.derivative, w, {"w": decay}), w, Rule(), lr, order)
    drive = lr * (order >= 1) * float(dot(g, g)) + lr**2 * (order >= 2) * float(dot(g, point.hvp(g)))
    wanted = -2 * rate(decay, lr, order) * float(dot(w, w)) + drive
    assert 2 * float(dot(w, field)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("order", range(6))
def test_rate_of_a_mean(order: int) -> None:
    """To any order, in both backends, and without a drive."""
    decay, lr, p = 0.7, 0.3, shift_start()
    point = Point(shift_invariant, p)
    rule = Rule(weight_decay=decay)
    fields = [motion_by_gradients(lambda at: Point(shift_invariant, at).gradient, p, rule, lr, order)]
    if order < 4:
        fields.append(motion(decayed(point.derivative, p, {"w": decay, "b": decay}), p, Rule(), lr, order))
    for field in fields:
        assert float(field["b"].sum() / p["b"].sum()) == pytest.approx(-rate(decay, lr, order), rel=1e-12)


@pytest.mark.parametrize("order", fast(range(3), [1]))
def test_norms_and_means_of_descent_are_predicted_to_the_order(order: int) -> None:
    rule, time = Rule(weight_decay=0.5), 1.0

    def norm_off(lr: float) -> float:
        steps = descend(rule, scale_invariant, scale_start(), lr, round(time / lr))
        path = flow_of(rule, scale_invariant, scale_start(), lr, order).along([0.2, 0.6, 1.0], rtol=1e-11, atol=1e-13)
        walked = [steps[round(t / lr) - 1] for t in (0.2, 0.6, 1.0)]
        return max(abs(float(dot(a, a) - dot(b, b))) for a, b in zip(walked, path, strict=True))

    def mean_off(lr: float) -> float:
        exact = (1 - lr * rule.weight_decay) ** round(time / lr)
        steps = descend(rule, shift_invariant, shift_start(), lr, round(time / lr))[-1]
        assert float(steps["b"].sum() / shift_start()["b"].sum()) == pytest.approx(exact, rel=1e-13)
        return abs(exact - math.exp(-rate(rule.weight_decay, lr, order) * time))

    assert slope(norm_off, (0.02, 0.01)) == pytest.approx(order + 1, abs=0.1)
    assert slope(mean_off, (0.05, 0.025)) == pytest.approx(order + 1, abs=0.1)


def test_without_decay_a_norm_grows_by_descent_and_not_by_flow() -> None:
    start, lr = scale_start(), 0.5
    size = float(dot(start, start))
    for order, moves in ((0, False), (1, True)):
        end = equation_of_motion(scale_invariant, start, lr, order).at(5.0, rtol=1e-11, atol=1e-13)
        assert (abs(float(dot(end, end)) - size) > 1e-6) == moves
    g = Point(scale_invariant, start).gradient
    step = combine([(1.0, start), (-lr, g)])
    assert float(dot(step, step)) == pytest.approx(size + lr**2 * float(dot(g, g)), rel=1e-14)
