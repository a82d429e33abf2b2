"""The error of discretisation, predicted and measured; the largest eigenvalue; the edge of stability."""

import math

import pytest
import torch
from torch import nn

from neuromech import EoMError, EoMOptimizer, NeuromechWarning
from neuromech.eom import (
    ErrorMeter,
    Point,
    Rule,
    descend,
    equation_of_motion,
    flow_of,
    gradient_flow,
    largest,
    path_error,
)
from neuromech.params import combine, norm
from tests.families import fast

from .cases import distance, problem, slope, squares

TIGHT = {"rtol": 1e-11, "atol": 1e-13}


@pytest.mark.parametrize("order", fast(range(3), [0]))
def test_path_error_is_the_leading_term(order: int) -> None:
    loss, params = problem()
    predicted = path_error(loss, params, 0.4, order)

    def measured(lr: float):
        # The field by gradients alone has terms of its own at the order of the error: take the truncated series.
        end = equation_of_motion(loss, params, lr, order, "hvp" if order else None).at(0.4, **TIGHT)
        return combine([(1.0, descend(Rule(), loss, params, lr, round(0.4 / lr))[-1]), (-1.0, end)])

    def left(lr: float) -> float:
        return distance(measured(lr), predicted.at(lr)) / float(norm(predicted.at(lr)))

    assert slope(left, (0.02, 0.01)) == pytest.approx(1, abs=0.15)
    tolerance = 1e-5 if order else 1e-3  # at order 0 the smaller one would need thousands of steps
    lr = 0.4 / math.ceil(0.4 / predicted.lr_for(tolerance))
    assert (
        0.8 * tolerance
        < float(norm(measured(lr))) * (predicted.lr_for(tolerance) / lr) ** (order + 1)
        < 1.2 * tolerance
    )


@pytest.mark.parametrize("order", range(3))
def test_step_error_is_the_leading_term(order: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(9, 4).double(), torch.randn(9, 3).double()
    loss, params = problem()
    lr = 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    row = ErrorMeter(model, optimizer, order).measure(lambda: squares(model(x), y), sharpness=False)
    model_params = {n: p.detach().clone() for n, p in model.named_parameters()}

    def function(p):
        return squares(torch.func.functional_call(model, p, (x,)), y)

    end = equation_of_motion(function, model_params, lr, order, "hvp").at(lr, rtol=1e-13, atol=1e-15)
    step = descend(Rule(), function, model_params, lr, 1)[-1]
    off = combine([(1.0, step), (-1.0, end)])
    assert float(norm(off)) == pytest.approx(row.total, rel=0.1)
    for name, size in row.layers.items():
        assert float(norm({name: off[name]})) == pytest.approx(size, rel=0.2)
    assert row.lr_for(row.total) == pytest.approx(lr)
    assert math.isnan(row.sharpness)
    assert params.keys() == model_params.keys()
    assert float(loss(params)) > 0


def test_largest_eigenvalue_is_that_of_the_dense_matrix() -> None:
    torch.manual_seed(0)
    for shift in (0.0, -30.0):  # also where the largest in size is negative
        a = torch.randn(40, 40).double()
        a = a + a.T + shift * torch.eye(40)
        found = largest(lambda v, a=a: {"x": a @ v["x"]}, {"x": torch.zeros(40).double()}, tolerance=1e-10, most=40)
        exact = torch.linalg.eigvalsh(a)[-1].item()
        assert found.value == pytest.approx(exact, rel=1e-8)
        assert found.residual < 1e-6
    loss, params = problem()
    point = Point(loss, params)
    top = largest(point.hvp, params)
    again = largest(point.hvp, params, start=top.vector)
    assert again.steps <= top.steps
    assert abs(again.value - top.value) <= top.residual + again.residual


def test_eigenvalue_of_nothing_finite_is_refused() -> None:
    with pytest.raises(EoMError, match="not finite"):
        largest(lambda v: {"x": v["x"] * float("nan")}, {"x": torch.zeros(3)})


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.5}, {"momentum": 0.5, "nesterov": True}, {"momentum": 0.5, "dampening": 0.3}]
)
def test_the_edge_is_where_steps_become_unstable(options: dict) -> None:
    """On h x^2 / 2: just below the edge steps shrink, just above they grow; the meter warns of the second only."""
    for factor, stable in ((0.98, True), (1.02, False)):
        x = nn.Parameter(torch.ones(1).double())
        holder = nn.Module()
        holder.x = x
        h = 2.0
        lr = factor * Rule(**options).edge / (h * Rule(**options).kappa)
        optimizer = torch.optim.SGD([x], lr=lr, **options)
        meter = ErrorMeter(holder, optimizer)

        def loss(x=x, h=h):
            return h * x.square().sum() / 2

        if stable:
            row = meter.measure(loss)
        else:
            with pytest.warns(NeuromechWarning, match="past the edge of stability"):
                row = meter.measure(loss)
        assert row.sharpness == pytest.approx(h)
        assert row.sharpness / row.edge == pytest.approx(factor)
        for _ in range(400):  # 2 % off the edge the size of x moves by 0.4 % a step at least: a factor of five
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        assert (abs(float(x.detach())) < 1) == stable


def test_a_live_run_is_measured_step_by_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = torch.randn(16, 4), torch.randn(16, 2)
    optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=0.05))
    meter = ErrorMeter(model, optimizer, order=1)
    for _ in range(3):
        meter.measure(lambda: squares(model(x), y))
        optimizer.step(lambda: squares(model(x), y))
    table = meter.history
    assert list(table["step"]) == [1, 2, 3]
    assert (table["total"] > 0).all()
    assert (table["sharpness"] > 0).all()
    assert {"0.weight", "2.bias"} <= set(table.columns)
    total = (table[["0.weight", "0.bias", "2.weight", "2.bias"]] ** 2).sum(axis=1) ** 0.5
    assert total.to_numpy() == pytest.approx(table["total"].to_numpy(), rel=1e-5)


def test_what_cannot_be_measured_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(EoMError, match="not for Adam"):
        ErrorMeter(model, torch.optim.Adam(model.parameters()))
    with pytest.raises(EoMError, match="none of this model's"):
        ErrorMeter(nn.Linear(2, 2), torch.optim.SGD(model.parameters(), lr=0.1))
    meter = ErrorMeter(model, torch.optim.SGD(model.parameters(), lr=0.1))
    row = meter.measure(lambda: model(torch.ones(1, 2)).square().sum(), sharpness=False)
    with pytest.raises(EoMError, match="tolerance is 0"):
        row.lr_for(0)


def test_bad_flows_are_refused() -> None:
    loss, params = problem()
    for lr in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(EoMError, match="lr is"):
            equation_of_motion(loss, params, lr)
    for call, message in (
        (lambda: equation_of_motion(loss, params, 0.1, -1), "whole number from 0 to 6"),
        (lambda: flow_of(Rule("adam"), loss, params, 0.1, 2), "worked out to order 1"),
        (lambda: flow_of(Rule(momentum=0.5), loss, params), "lr is"),
        (lambda: flow_of(Rule(momentum=0.5), loss, params, 0.1, 1, "gradients"), "without memory"),
        (lambda: flow_of(Rule(), loss, params, 0.1, backend="jvp"), "backend is 'jvp'"),
        (lambda: flow_of(Rule(momentum=0.5), loss, params, 0.1, startup="rest"), "startup is 'rest'"),
        (lambda: gradient_flow(loss, params).along([1.0, 0.5]), "all forwards or all backwards"),
        (lambda: gradient_flow(loss, params).along([]), "give at least one"),
        (lambda: gradient_flow(lambda p: p["0.weight"], params).at(0.1), "has to be a scalar"),
        (lambda: Rule(momentum=1.0), "momentum is 1.0"),
        (lambda: Rule(nesterov=True), "nesterov needs momentum"),
        (lambda: Rule.of(torch.optim.Adagrad([torch.ones(1)])), "Adagrad"),
        (lambda: Rule.of(torch.optim.SGD([torch.ones(1)], maximize=True, lr=0.1)), "maximize"),
    ):
        with pytest.raises(EoMError, match=message):
            call()


def test_a_flow_outside_of_its_radius_says_so() -> None:
    loss, params = problem()
    flow = flow_of(Rule(momentum=0.9), loss, params, 0.01, 1)
    assert flow.valid(0.2)
    assert not flow.valid(0.3)  # (1 - sqrt(0.9))^2 = 2.6e-3
    assert flow_of(torch.optim.SGD([torch.ones(1)], lr=0.1), loss, params).lr == 0.1
