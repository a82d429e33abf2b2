"""Counter terms in both directions and both backends: equal to a slow oracle, of the right order and sign."""

from math import factorial

import pytest
import torch

from neuromech.eom import Point, Rule, equation_of_motion, gradient_flow
from neuromech.eom.derivatives import gradient_at
from neuromech.eom.landscape import PureLandscape
from neuromech.eom.terms import (
    calls,
    cost,
    counter_terms,
    directional,
    flow_gradient,
    flow_gradient_by_gradients,
    lie_powers,
    lie_powers_by_gradients,
    motion,
    motion_by_gradients,
)
from neuromech.errors import EoMError
from neuromech.params import Params, combine, norm

from .cases import distance, problem, slope


def compositions(n: int, parts: int):
    if parts == 1:
        yield (n,)
        return
    for first in range(1, n - parts + 2):
        for rest in compositions(n - first, parts - 1):
            yield (first, *rest)


def nested(gradient, j: int):
    """f_j of Hairer, Lubich, Wanner IX by closures: every Lie derivative is a jvp of a function, no tree anywhere."""
    if j == 1:
        return lambda p: combine([(-1.0, gradient(p))])

    def along(direction, field):
        return lambda p: torch.func.jvp(field, (p,), (direction(p),))[1]

    def field(p: Params) -> Params:
        terms = []
        for i in range(2, j + 1):
            for ks in compositions(j, i):
                inner = nested(gradient, ks[-1])
                for k in reversed(ks[:-1]):
                    inner = along(nested(gradient, k), inner)
                terms.append((-1.0 / factorial(i), inner(p)))
        return combine(terms)

    return field


@pytest.mark.parametrize("form", ["jvp", "reverse", "forward"])
def test_explicit_terms_equal_nested_closures(form: str) -> None:
    loss, params = problem()
    gradient = torch.func.grad(loss)
    at = directional(gradient, params) if form == "jvp" else Point(loss, params, form).derivative
    for k, xi in enumerate(counter_terms(at, 3)):
        wanted = combine([(-1.0, nested(gradient, k + 2)(params))])
        assert distance(xi, wanted) < 1e-14 * float(norm(wanted))


@pytest.mark.parametrize("order", range(5))
def test_gradients_alone_agree_to_the_order(order: int) -> None:
    loss, params = problem()
    at = Point(loss, params).derivative

    def gradient(p: Params) -> Params:
        return gradient_at(PureLandscape(loss, p))

    def analysis(lr: float) -> float:
        return distance(motion(at, params, Rule(), lr, order), motion_by_gradients(gradient, params, Rule(), lr, order))

    def steps(lr: float) -> float:
        return distance(flow_gradient(at, lr, order), flow_gradient_by_gradients(gradient, params, lr, order))

    if order == 0:
        assert analysis(0.1) == steps(0.1) == 0
    else:
        assert slope(analysis, (0.04, 0.02)) == pytest.approx(order + 1, abs=0.2)
        assert slope(steps, (0.04, 0.02)) == pytest.approx(order + 1, abs=0.2)


def test_lie_powers_by_gradients_are_each_of_the_order() -> None:
    loss, params = problem()

    def error(size: float, j: int) -> float:
        def field(p: Params) -> Params:
            return combine([(size, gradient_at(PureLandscape(loss, p)))])

        exact = [combine([(size ** (k + 1), x)]) for k, x in enumerate(lie_powers(Point(loss, params).derivative, 3))]
        return distance(exact[j], lie_powers_by_gradients(field, params, 3)[j])

    for j in (1, 2, 3):
        assert slope(lambda s, j=j: error(s, j), (0.04, 0.02)) == pytest.approx(5, abs=0.3)


def test_wrong_sign_doubles_the_error() -> None:
    """Both directions at once: Euler's step of g - lr/2 Hg follows the flow, that of g + lr/2 Hg is off by twice."""
    loss, params = problem()
    flow = gradient_flow(loss, params).at(0.5)

    def error(sign: float, lr: float) -> float:
        at = params
        for _ in range(round(0.5 / lr)):
            point = Point(loss, at)
            at = combine([(1.0, at), (-lr, point.gradient), (-sign * lr**2 / 2, point.hvp(point.gradient))])
        return distance(at, flow)

    plain = error(0.0, 0.01)
    assert error(+1.0, 0.01) / plain == pytest.approx(2.0, abs=0.05)
    assert error(-1.0, 0.01) / plain < 0.05
    steps = [distance(combine([(1.0, params), (-0.05, Point(loss, params).gradient)]), f.at(0.05)) for f in (
        gradient_flow(loss, params),
        equation_of_motion(loss, params, 0.05, 1, "hvp"),
    )]  # fmt: skip
    assert steps[1] < 0.1 * steps[0]


def test_costs_are_those_that_are_promised() -> None:
    for order in range(7):
        assert calls(order, "analysis", "gradients") == {0: order + 1}
        assert cost(order, "analysis", "gradients") == order + 1
    assert [cost(p, "steps", "gradients") for p in range(6)] == [1, 2, 3, 4, 11, 16]
    assert calls(1, "analysis", "hvp") == calls(1, "steps", "hvp") == {0: 1, 1: 1}
    assert calls(2, "analysis", "hvp") == {0: 1, 1: 2, 2: 1}
    assert cost(1) == 4


def test_calls_are_counted_right() -> None:
    loss, params = problem()
    seen: list[int] = []

    def gradient(p: Params) -> Params:
        seen.append(1)
        return gradient_at(PureLandscape(loss, p))

    for order in range(6):
        seen.clear()
        flow_gradient_by_gradients(gradient, params, 0.1, order)
        assert len(seen) == cost(order, "steps", "gradients")
        seen.clear()
        motion_by_gradients(gradient, params, Rule(), 0.1, order)
        assert len(seen) == cost(order, "analysis", "gradients")


@pytest.mark.parametrize("order", [-1, 7, 1.0, True, "1", None])
def test_orders_that_make_no_sense_are_refused(order: object) -> None:
    with pytest.raises(EoMError, match="whole number from 0 to 6"):
        counter_terms(lambda *_: {}, order)  # type: ignore[arg-type]
    with pytest.raises(EoMError, match="whole number from 0 to 6"):
        flow_gradient(lambda *_: {}, 0.1, order)  # type: ignore[arg-type]
