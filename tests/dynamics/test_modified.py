"""Modified flows, expanded by hand, against the optimizers that they follow; and `eom`, to any order, against them."""

import functools
import math

import pytest
import torch

from neuromech.dynamics import Settings
from neuromech.dynamics.charge import Forms
from neuromech.dynamics.forms.sums import Block
from neuromech.eom import Rule

from .cases import smooth, train
from .modified import drive, highest, modified_step, radius, rate, start

MOMENTA = {
    "heavy ball": {"momentum": 0.5},
    "dampening": {"momentum": 0.5, "dampening": 0.3},
    "nesterov": {"momentum": 0.5, "nesterov": True},
}


def slow(s: Settings) -> float:
    """The rate of the slow root of the step itself, of weights that nothing but weight decay moves."""
    x, mu = s.lr * s.weight_decay, s.momentum
    a, b = ((1 + mu) * (1 - x), mu * (1 - x)) if s.lookahead else (1 + mu - s.force * x, mu)
    return -math.log((a + math.sqrt(a * a - 4 * b)) / 2) / s.lr


@pytest.mark.parametrize("options", [{}, *MOMENTA.values()], ids=["plain", *MOMENTA])
def test_every_order_of_the_rate_agrees_by_one_more_power_of_lr(options: dict[str, float]) -> None:
    for order in range(highest(Settings(0.1, **options)) + 1):  # type: ignore[arg-type]
        errors = []
        for lr in (0.004, 0.002):
            s = Settings(lr, weight_decay=1.0, **options)  # type: ignore[arg-type]
            errors.append(abs(rate(s, order) - (slow(s) if options else -math.log1p(-lr) / lr)))
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.05)


@functools.cache
def errors(lr: float, **options: float) -> dict[tuple[int, int], float]:
    """|flow - observed| at t = 2 by order and family, all along one run on a smooth full-batch loss."""
    case = smooth()
    settings = Settings(lr, weight_decay=0.4, **options)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(case.model.parameters(), lr=lr, weight_decay=0.4, **options)  # type: ignore[arg-type]
    families = {k: case.symmetries[k] for k in (0, 1)}
    degree = {k: 1 if s.is_linear else 2 for k, s in families.items()}
    forms = {k: Forms([Block.of(s)], case.params) for k, s in families.items()}
    flow = {
        (order, k): s.charge(case.params) * (start(settings, degree[k]) if order else 1.0)
        for order in range(highest(settings) + 1)
        for k, s in families.items()
    }

    def each(step: int) -> None:
        grads = {name: p.grad for name, p in case.params.items() if p.grad is not None}
        gradient = {k: 0.0 if s.is_linear else forms[k]([(grads, grads)])[0] for k, s in families.items()}
        for (order, k), charge in flow.items():
            flow[order, k] = modified_step(charge, gradient[k], settings, degree[k], order)

    run = train(case, optimizer, round(2 / lr), each=each)
    ends = {k: run.observed[-1][run.laws.slices[k]] for k in families}
    return {(order, k): float((charge - ends[k]).abs().max()) for (order, k), charge in flow.items()}


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("family", [0, 1])
def test_plain_sgd_follows_its_modified_flow_to_every_order(order: int, family: int) -> None:
    """With kicks under weight decay, which act at the ends of steps, to the order of the rate."""
    coarse, fine = (errors(lr)[order, family] for lr in (0.04, 0.02))
    assert math.log2(coarse / fine) == pytest.approx(order + 1, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    "options",
    [pytest.param(o, id=k, marks=() if k == "nesterov" else pytest.mark.slow) for k, o in MOMENTA.items()],
)
def test_momentum_follows_its_modified_flow(options: dict[str, float], order: int) -> None:
    for family in (0, 1):
        coarse, fine = (errors(lr, **options)[order, family] for lr in (0.01, 0.005))
        assert math.log2(coarse / fine) == pytest.approx(order + 1, abs=0.3)


def test_orders_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="from order 0 to 2"):
        rate(Settings(0.1, 0.9), 3)
    assert highest(Settings(0.1)) == 3


def test_radius_is_where_the_roots_meet() -> None:
    """Beyond it the slow and the fast mode are a pair of complex numbers."""
    for options in (MOMENTA["heavy ball"], MOMENTA["nesterov"]):
        edge = radius(Settings(1.0, **options))  # type: ignore[arg-type]
        for factor, real in ((0.999, True), (1.001, False)):
            s = Settings(1.0, weight_decay=edge * factor, **options)  # type: ignore[arg-type]
            if s.lookahead:
                a, b = (1 + s.momentum) * (1 - s.weight_decay), s.momentum * (1 - s.weight_decay)
                assert s.weight_decay < 1
                meets = a * a - 4 * b
                assert (meets > 0) == real
            else:
                assert ((1 + s.momentum - s.weight_decay) ** 2 > 4 * s.momentum) == real
    assert drive(Settings(0.1)) == 1.0


@pytest.mark.parametrize("options", [{}, *MOMENTA.values()], ids=["plain", *MOMENTA])
def test_the_series_of_eom_says_the_same(options: dict[str, float]) -> None:
    """For weights that nothing but weight decay moves g = decay * theta: every tree of n nodes without branches is
    decay^n theta, and those with branches vanish."""
    rule, order = Rule(**options), highest(Settings(0.1, **options))  # type: ignore[arg-type]
    decay, lr = 0.7, 0.01

    def weight(t: tuple) -> float:  # type: ignore[type-arg]
        return decay if t == () else decay * weight(t[0]) if len(t) == 1 else 0.0

    fields = [sum(float(c) * weight(t) for t, c in field.items()) for field in rule.fields(order)]
    s = Settings(lr, weight_decay=decay, **options)  # type: ignore[arg-type]
    for k in range(order + 1):
        flow = -sum(lr**i * x for i, x in enumerate(fields[: k + 1]))
        assert flow == pytest.approx(rate(s, k), rel=1e-13)
    assert rule.radius == radius(s)
    assert start(s, 1) == pytest.approx(1.0 + lr * decay * rule.startup, rel=1e-14)
