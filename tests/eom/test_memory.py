"""Flows of optimizers that remember: their order, against torch or steps written out, and that they come back."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuromech import EoMError, NeuromechWarning
from neuromech.eom import Rule, as_function, descend, flow_of
from neuromech.eom.memory import ages
from neuromech.params import Params
from tests.families import fast

from .cases import distance, problem, slope

SMOOTH = {"betas": (0.6, 0.7), "eps": 0.1}
FAMILY = {
    "adam": Rule("adam", weight_decay=0.1, **SMOOTH),
    "adamw": Rule("adam", weight_decay=0.1, decoupled=True, **SMOOTH),
    "nadam": Rule("nadam", drift=0.0, **SMOOTH),
    "nadam, drifting": Rule("nadam", drift=0.01, **SMOOTH),
    "nadamw": Rule("nadam", weight_decay=0.1, decoupled=True, drift=0.0, **SMOOTH),
}


@pytest.mark.parametrize("beta", [0.0, 0.6, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7, 400, math.inf])
def test_ages_are_those_of_the_weights(beta: float, steps: float) -> None:
    k = torch.arange(steps if steps < math.inf else 5_000, dtype=torch.float64)
    weights = beta**k
    weights = weights / weights.sum()
    mean = float((weights * k).sum())
    assert ages(beta, steps) == pytest.approx((mean, float((weights * (k - mean) ** 2).sum())), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("order", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize("name", fast(FAMILY, ["adamw"]))
def test_order(name: str, order: int) -> None:
    loss, params = problem()

    def error(lr: float) -> float:
        steps = descend(FAMILY[name], loss, params, lr, round(0.2 / lr))[-1]
        return distance(steps, flow_of(FAMILY[name], loss, params, lr, order).at(0.2, rtol=1e-7, atol=1e-8))

    assert slope(error, (0.004, 0.002)) == pytest.approx(order + 1, abs=0.1)


def gradient(loss, params: Params) -> Params:
    live = {n: p.detach().requires_grad_() for n, p in params.items()}
    return dict(zip(live, torch.autograd.grad(loss(live), list(live.values())), strict=True))


def lion(rule: Rule, loss, params: Params, lr: float, steps: int) -> Params:
    (b1, b2), m = rule.betas, {n: torch.zeros_like(p) for n, p in params.items()}
    for _ in range(steps):
        g = gradient(loss, params)
        u = {n: torch.sign(b1 * m[n] + (1 - b1) * x) for n, x in g.items()}
        m = {n: b2 * m[n] + (1 - b2) * x for n, x in g.items()}
        params = {n: (1 - lr * rule.weight_decay) * p - lr * u[n] for n, p in params.items()}
    return params


def muon(rule: Rule, loss, params: Params, lr: float, steps: int) -> Params:
    b = {n: torch.zeros_like(p) for n, p in params.items()}
    for _ in range(steps):
        g = gradient(loss, params)
        b = {n: b[n].lerp(x, 1 - rule.momentum) for n, x in g.items()}
        mixed = {n: x.lerp(b[n], rule.momentum) if rule.nesterov else b[n] for n, x in g.items()}
        params = {n: (1 - lr * rule.weight_decay) * p - lr * orthogonal(mixed[n]) for n, p in params.items()}
    return params


CUBIC = (1.5, -0.5, 0.0)  # Newton and Schulz's own: Muon's coefficients bend too much for an order to be seen


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """Newton and Schulz through the singular values; Muon's factor for the shape is max(1, rows / columns)^(1/2)."""
    u, s, v = torch.linalg.svd(x / x.norm(), full_matrices=False)
    for _ in range(5):
        s = CUBIC[0] * s + CUBIC[1] * s**3
    return (u * s) @ v * max(1.0, x.shape[0] / x.shape[1]) ** 0.5


def matrices() -> tuple:
    torch.manual_seed(0)
    x, y = torch.randn(12, 4).double(), torch.randn(12, 3).double()
    params = {"a": torch.randn(5, 4).double(), "b": torch.randn(3, 5).double()}
    return lambda p: ((x @ p["a"].T).tanh() @ p["b"].T - y).square().mean(), params


@pytest.mark.parametrize("nesterov", fast([False, True], [True]))
@pytest.mark.parametrize("order", fast([0, 1], [1]))
def test_order_of_muon(order: int, nesterov: bool) -> None:
    loss, params = matrices()
    rule = Rule("muon", momentum=0.5, nesterov=nesterov, weight_decay=0.1, decoupled=True, coefficients=CUBIC)

    def error(lr: float) -> float:
        steps = muon(rule, loss, params, lr, round(0.05 / lr))
        return distance(steps, flow_of(rule, loss, params, lr, order).at(0.05, rtol=1e-8, atol=1e-9))

    assert slope(error, (0.00125, 0.000625)) == pytest.approx(order + 1, abs=0.15)


@pytest.mark.parametrize("order", [0, 1])
def test_order_of_lion(order: int) -> None:
    """While no component of the gradient changes its sign, decay is all that bends its path."""
    params = matrices()[1]

    def loss(p: Params) -> torch.Tensor:
        return sum(x.exp().sum() for x in p.values())

    rule = Rule("lion", betas=(0.5, 0.6), weight_decay=0.5, decoupled=True)
    time = 0.02

    def error(lr: float) -> float:
        return distance(lion(rule, loss, params, lr, round(time / lr)), flow_of(rule, loss, params, lr, order).at(time))

    assert slope(error, (0.002, 0.001)) == pytest.approx(order + 1, abs=0.1)


def kinked() -> tuple:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 4), nn.Tanh(), nn.Linear(4, 5)).double()
    x, y = torch.randn(64, 20).double(), torch.randint(0, 5, (64,))
    return model, *as_function(model, F.cross_entropy, x, y)


@pytest.mark.parametrize(
    "kind",
    fast(
        [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adam],
        [torch.optim.AdamW],
    ),
)
def test_flows_with_a_tiny_eps_come_back(kind) -> None:
    """50 steps of lr for at most 50 gradients each, a product counted as three."""
    model, loss, params = kinked()
    evaluations = 0

    def counted(p: Params) -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        return loss(p)

    flow = flow_of(kind(model.parameters(), lr=1e-2), counted, params)
    evaluations = 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        end = flow.at(0.5, rtol=1e-5, atol=1e-7)
    assert all(torch.isfinite(x).all() for x in end.values())
    assert 3 * evaluations <= 50 * 50
    assert [w for w in told if issubclass(w.category, NeuromechWarning) and "kinks" in str(w.message)]


def test_rules_of_optimizers() -> None:
    p = [nn.Parameter(torch.ones(2, 2))]
    assert Rule.of(torch.optim.NAdam(p, momentum_decay=0.01)).drift == 0.01
    assert Rule.of(torch.optim.RAdam(p)).kind == "radam"
    if hasattr(torch.optim, "Muon"):  # since torch 2.9
        muon_rule = Rule.of(torch.optim.Muon(p, momentum=0.9))
        assert (muon_rule.kind, muon_rule.momentum, muon_rule.nesterov) == ("muon", 0.9, True)
    with pytest.raises(EoMError, match="take the steps yourself"):
        descend(Rule("lion"), problem()[0], problem()[1], 0.1, 1)
