"""Curvature and the implicit penalty against dense matrices and the fields that they come from."""

import pytest
import torch
from torch import nn

from neuromech import EoMError
from neuromech.eom import (
    Point,
    Rule,
    as_function,
    directional_sharpness,
    flow_of,
    implicit_penalty,
    sharpness,
    trace,
)
from neuromech.params import combine, dot

from .cases import problem, squares


def dense(loss, params) -> torch.Tensor:
    names, shapes = list(params), [p.shape for p in params.values()]
    sizes = [p.numel() for p in params.values()]

    def flat(x: torch.Tensor) -> torch.Tensor:
        return loss({n: t.view(s) for n, t, s in zip(names, x.split(sizes), shapes, strict=True)})

    return torch.autograd.functional.hessian(flat, torch.cat([p.reshape(-1) for p in params.values()]))


@pytest.mark.parametrize("form", ["reverse", "forward", "difference"])
def test_against_the_dense_matrix(form: str) -> None:
    loss, params = problem()
    matrix = dense(loss, params)
    top = sharpness(loss, params, form, tolerance=1e-6)
    exact = torch.linalg.eigvalsh(matrix)[-1].item()
    assert abs(top.value - exact) <= top.uncertainty + 1e-9
    assert top.value == pytest.approx(exact, rel=1e-5)
    assert float(dot(top.vector, top.vector)) == pytest.approx(1)
    u = {n: torch.randn_like(p) for n, p in params.items()}
    flat = torch.cat([x.reshape(-1) for x in u.values()])
    along = directional_sharpness(loss, params, u, form)
    assert along.value == pytest.approx(float(flat @ matrix @ flat / (flat @ flat)), rel=1e-5)
    mean, error = trace(loss, params, form, probes=100)
    assert abs(mean - float(matrix.trace())) < 4 * error
    assert error > 0


def test_of_a_live_model_by_a_closure() -> None:
    """Also one that runs backward, whose products are differences; nothing of the run changes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(9, 4).double(), torch.randn(9, 3).double()
    model[0].weight.grad = torch.ones(6, 4).double()
    before = {n: t.clone() for n, t in model.state_dict().items()}

    def with_backward():
        loss = squares(model(x), y)
        loss.backward()
        return loss

    found = [sharpness(f, model, tolerance=1e-5, progress=True) for f in (lambda: squares(model(x), y), with_backward)]
    assert found[1].value == pytest.approx(found[0].value, rel=1e-5)
    assert found[1].uncertainty >= found[0].uncertainty
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones(6, 4).double())
    pure = sharpness(*as_function(model, squares, x, y), tolerance=1e-5)
    assert pure.value == pytest.approx(found[0].value, rel=1e-5)


def test_bad_questions_are_refused() -> None:
    loss, params = problem()
    for call, message in (
        (lambda: directional_sharpness(loss, params, {"x": torch.ones(1)}), "the direction has the names"),
        (lambda: directional_sharpness(loss, params, {n: 0 * p for n, p in params.items()}), "length 0"),
        (lambda: trace(loss, params, probes=1), "at least 2"),
        (lambda: implicit_penalty(Rule(), loss, params), "lr is"),
        (lambda: implicit_penalty(Rule("lion"), loss, params, 0.1), "not the gradient"),
        (lambda: implicit_penalty(Rule(weight_decay=0.1, decoupled=True), loss, params, 0.1), "decoupled"),
    ):
        with pytest.raises(EoMError, match=message):
            call()


RULES = {
    "gd": Rule(),
    "decay": Rule(weight_decay=0.3),
    "heavy ball": Rule(momentum=0.5, dampening=0.2),
    "nesterov": Rule(momentum=0.5, nesterov=True),
    "adam": Rule("adam", betas=(0.5, 0.9), eps=1e-12),
    "nadam": Rule("nadam", betas=(0.5, 0.9), eps=1e-12),
    "rmsprop": Rule("rmsprop", betas=(0.0, 0.9), eps=1e-12),
}


@pytest.mark.parametrize("name", RULES)
def test_the_penalty_is_what_the_flow_descends(name: str) -> None:
    """Along any direction its slope is that of the first counter term, in the metric of the optimizer."""
    loss, params = problem()
    rule, lr, h = RULES[name], 1e-5, 1e-5
    u = {n: torch.randn_like(p) for n, p in params.items()}
    ahead, behind = (implicit_penalty(rule, loss, combine([(1.0, params), (by, u)]), lr) for by in (h, -h))
    first, bare = (
        flow_of(rule, loss, params, lr, order, startup="matched", hvp="reverse").field(params) for order in (1, 0)
    )
    term = combine([(1.0, first), (-1.0, bare)])
    if rule.kind == "sgd":
        wanted = -float(dot(term, u)) / rule.speed
    else:
        g = Point(loss, params).gradient
        wanted = -float(dot({n: term[n] * g[n].abs() for n in term}, u))
    assert (ahead - behind) / (2 * h) == pytest.approx(wanted, rel=1e-2)


def test_the_penalty_of_gradient_descent_is_that_of_barrett_and_dherin() -> None:
    loss, params = problem()
    g = Point(loss, params).gradient
    assert implicit_penalty(torch.optim.SGD([torch.ones(1)], lr=0.1), loss, params) == pytest.approx(
        0.1 / 4 * float(dot(g, g))
    )
