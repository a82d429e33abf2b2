"""Orders of convergence, measured: the flow that steps follow, and the steps that follow the flow."""

from functools import cache

import pytest
import torch

from neuromech import EoMOptimizer
from neuromech.eom import (
    Point,
    Rule,
    descend,
    equation_of_motion,
    flow_of,
    gradient_flow,
    minibatch_flow,
    second_order_flow,
)
from neuromech.eom.derivatives import gradient_at
from neuromech.eom.landscape import PureLandscape
from neuromech.params import Params
from tests.families import fast

from .cases import distance, problem, slope

TIGHT = {"rtol": 1e-11, "atol": 1e-13}


def analysis(
    name: str,
    rule: Rule,
    order: int,
    startup: str = "torch",
    backend: str | None = None,
    time: float = 0.2,
    **tolerance,
):
    """The distance between the steps of `rule` and the flow that they should follow, as a function of lr."""
    loss, params = problem(name)

    def error(lr: float) -> float:
        flow = flow_of(rule, loss, params, lr, order, backend, startup=startup)
        matched = startup == "matched"
        buffers = flow.buffers(lambda p: gradient_at(PureLandscape(loss, p))) if matched else None
        return distance(
            descend(rule, loss, params, lr, round(time / lr), buffers)[-1], flow.at(time, **(tolerance or TIGHT))
        )

    return error


@pytest.mark.parametrize("order", fast(range(4), [0, 1]))
@pytest.mark.parametrize("backend", ["gradients", "hvp"])
def test_descent_lies_on_the_equation_of_motion(order: int, backend: str) -> None:
    error = analysis("mlp", Rule(weight_decay=0.1), order, backend=backend)
    assert slope(error, (0.025, 0.0125)) == pytest.approx(order + 1, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("name", ["conv", "attention"])
def test_descent_of_networks_lies_on_the_equation_of_motion(name: str, order: int) -> None:
    assert slope(analysis(name, Rule(), order, time=0.4), (0.01, 0.005)) == pytest.approx(order + 1, abs=0.1)


MOMENTUM = {
    "heavy ball": Rule(momentum=0.5),
    "dampening, coupled decay": Rule(momentum=0.5, dampening=0.3, weight_decay=0.1),
    "nesterov": Rule(momentum=0.5, nesterov=True),
    "nesterov, coupled decay": Rule(momentum=0.5, nesterov=True, weight_decay=0.1),
    "decoupled decay": Rule(momentum=0.5, weight_decay=0.1, decoupled=True),
    "nesterov, decoupled decay": Rule(momentum=0.5, nesterov=True, weight_decay=0.1, decoupled=True),
}
COUPLED = [k for k, rule in MOMENTUM.items() if not rule.decoupled]
GENERAL = ["nesterov, coupled decay", "nesterov, decoupled decay"]  # the others are special cases of these


@pytest.mark.parametrize("order", fast(range(3), [1]))
@pytest.mark.parametrize("kind", fast(MOMENTUM, GENERAL))
def test_momentum_follows_its_flow(kind: str, order: int) -> None:
    error = analysis("mlp", MOMENTUM[kind], order, "matched")
    assert slope(error, (0.0125, 0.00625)) == pytest.approx(order + 1, abs=0.1)


@pytest.mark.parametrize("kind", fast(COUPLED, GENERAL[:1]))
def test_a_fresh_buffer_settles_on_the_shadow_point(kind: str) -> None:
    rule = MOMENTUM[kind]
    assert slope(analysis("mlp", rule, 1), (0.0125, 0.00625)) == pytest.approx(2, abs=0.1)
    loss, params = problem()

    def unshifted(lr: float) -> float:
        flow = flow_of(rule, loss, params, lr, 1, startup="matched")
        return distance(descend(rule, loss, params, lr, round(0.2 / lr))[-1], flow.at(0.2))

    assert slope(unshifted, (0.0125, 0.00625)) == pytest.approx(1, abs=0.1)


def test_decoupled_decay_without_momentum() -> None:
    for order in range(3):
        error = analysis("mlp", Rule(weight_decay=0.3, decoupled=True), order)
        assert slope(error, (0.025, 0.0125)) == pytest.approx(order + 1, abs=0.1)


ADAPTIVE = {
    "adam": Rule("adam", betas=(0.5, 0.6), eps=0.1),
    "adam, coupled decay": Rule("adam", betas=(0.5, 0.6), eps=0.1, weight_decay=0.1),
    "adamw": Rule("adam", betas=(0.5, 0.6), eps=0.1, weight_decay=0.1, decoupled=True),
    "rmsprop": Rule("rmsprop", betas=(0.0, 0.6), eps=0.1),
}


@pytest.mark.parametrize("order", fast(range(2), [1]))
@pytest.mark.parametrize("kind", fast(ADAPTIVE, []))
def test_the_adam_family_follows_its_flow(kind: str, order: int) -> None:
    """RMSprop does not correct its start, so its squares begin where they belong."""
    startup = "matched" if kind == "rmsprop" else "torch"
    error = analysis("mlp", ADAPTIVE[kind], order, startup, time=0.2, rtol=1e-7, atol=1e-8)
    assert slope(error, (0.004, 0.002)) == pytest.approx(order + 1, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", fast(COUPLED, GENERAL[:1]))
def test_the_second_order_flow_remembers(kind: str) -> None:
    rule, (loss, params) = MOMENTUM[kind], problem()

    def error(lr: float) -> float:
        return distance(
            descend(rule, loss, params, lr, round(0.2 / lr))[-1], second_order_flow(rule, loss, params, lr).at(0.2)
        )

    assert slope(error, (0.0125, 0.00625)) == pytest.approx(2, abs=0.15)


# -- steps that follow the flow ----------------------------------------------------------------------------------------

BASES = {
    "gd": {},
    "decay": {"weight_decay": 0.1},
    "heavy ball": {"momentum": 0.4},
    "dampening": {"momentum": 0.4, "dampening": 0.3, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.4, "nesterov": True},
}


@cache
def target(name: str, time: float, **base) -> Params:
    """Where the gradient flow of the clock of `base` ends: the same for every order and backend of the steps."""
    loss, params = problem(name)
    return flow_of(Rule.of(torch.optim.SGD([torch.zeros(1)], lr=1.0, **base)), loss, params, 1.0, 0).at(time, **TIGHT)


def following(name: str, base: dict, order: int, backend: str, time: float = 0.2):
    """The distance between EoMOptimizer's end and the gradient flow of the same clock, as a function of lr."""
    loss, params = problem(name)
    end = target(name, time, **base)

    def error(lr: float) -> float:
        live = {n: p.clone().requires_grad_() for n, p in params.items()}
        optimizer = EoMOptimizer(torch.optim.SGD(live.values(), lr=lr, **base), order, backend=backend)
        for _ in range(round(time / lr)):
            optimizer.step(lambda: loss(live))
        return distance({n: p.detach() for n, p in live.items()}, end)

    return error


# Both backends make the same terms (test_terms.py): one of them is tried to every order among the fast tests.
@pytest.mark.parametrize("order", fast(range(4), [0, 1]))
@pytest.mark.parametrize("backend", ["hvp", pytest.param("gradients", marks=pytest.mark.slow)])
@pytest.mark.parametrize("base", fast(BASES, ["decay", "dampening", "nesterov"]))
def test_steps_follow_the_flow(base: str, backend: str, order: int) -> None:
    fine, time = 1 + ("momentum" in BASES[base]), 0.2
    if base == "nesterov":  # its series converges latest
        fine, time = 4, 0.4
    error = following("mlp", BASES[base], order, backend, time)
    assert slope(error, (0.025 / fine, 0.0125 / fine)) == pytest.approx(order + 1, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("name", ["conv", "attention"])
def test_steps_of_networks_follow_the_flow(name: str, order: int) -> None:
    for backend in ("hvp", "gradients"):
        assert slope(following(name, {}, order, backend, 0.4), (0.02, 0.01)) == pytest.approx(order + 1, abs=0.1)


@pytest.mark.slow
def test_order_four_and_five_follow_too() -> None:
    for order in (4, 5):
        for backend in ("hvp", "gradients"):
            assert slope(following("mlp", {}, order, backend, 0.4), (0.1, 0.05)) == pytest.approx(order + 1, abs=0.3)


@pytest.mark.slow
def test_schedules_keep_the_order_with_momentum() -> None:
    """Time is the sum of lr; an lr that changes at every step, a drop by half, and a momentum buffer all along."""
    loss, params = problem()
    base = {"momentum": 0.4, "nesterov": True}
    shape = torch.cat([torch.linspace(0.2, 1.0, 4), torch.linspace(1.0, 0.5, 4), torch.full((8,), 0.25)]).double()

    def error(lr: float, order: int) -> float:
        rates = [lr * r for r in shape.repeat_interleave(round(0.05 / lr)).tolist()]
        live = {n: p.clone().requires_grad_() for n, p in params.items()}
        optimizer = EoMOptimizer(torch.optim.SGD(live.values(), lr=1.0, **base), order)
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step(lambda: loss(live))
        rule = Rule(momentum=0.4, nesterov=True)
        return distance({n: p.detach() for n, p in live.items()}, flow_of(rule, loss, params, 1.0, 0).at(sum(rates)))

    for order in (1, 2):
        assert slope(lambda lr, order=order: error(lr, order), (0.0125, 0.00625)) == pytest.approx(order + 1, abs=0.15)


# -- minibatches -------------------------------------------------------------------------------------------------------


def minibatches(count: int) -> tuple[list, Params]:
    _, params = problem()
    return [problem(seed=s)[0] for s in range(count)], params


@pytest.mark.parametrize("order", fast(range(3), [1]))
def test_sgd_is_the_composition_of_minibatch_flows(order: int) -> None:
    losses, params = minibatches(4)

    def error(lr: float) -> float:
        often = [loss for loss in losses for _ in range(round(0.1 / lr))]
        rates = [lr * (1.0 + k / len(often)) for k in range(len(often))]
        steps = descend(Rule(), often, params, rates)
        return distance(steps[-1], minibatch_flow(often, params, rates, order)[-1])

    assert slope(error, (0.025, 0.0125)) == pytest.approx(order + 1, abs=0.15)


def test_gradient_flow_is_order_zero() -> None:
    loss, params = problem()
    assert distance(gradient_flow(loss, params).at(0.3), equation_of_motion(loss, params, 0.1, 0).at(0.3)) == 0
    there = gradient_flow(loss, params).at(0.3, **TIGHT)
    assert distance(gradient_flow(loss, there).at(-0.3, **TIGHT), params) < 1e-9
    assert float(Point(loss, there).loss) < float(Point(loss, params).loss)
