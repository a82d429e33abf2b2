"""Rooted trees against what is known: their number, a solvable scalar equation, derivatives by autograd."""

from fractions import Fraction

import pytest
import torch

from neuromech.eom.bseries import GRADIENT, IDENTITY, Tree, evaluate, lie, size, tree
from neuromech.eom.rule import Rule
from neuromech.eom.terms import counter_series, directional, lie_powers, logarithm_weights, taylor
from neuromech.params import Params

from .cases import distance


def scalar(t: Tree, n: int = 2) -> Fraction:
    """The elementary differential of f(y) = y^n at y = 1."""
    factor = Fraction(1)
    for k in range(len(t)):
        factor *= n - k
    for child in t:
        factor *= scalar(child, n)
    return factor


def test_modified_equation_of_a_scalar_square() -> None:
    """y' = y^2 under Euler's method: the series that Hairer, Lubich and Wanner (IX.1) print."""
    signed = [
        sum((c * (-1) ** (k + 1) * scalar(t) for t, c in field.items()), Fraction(0))
        for k, field in enumerate(Rule().fields(5))
    ]  # f = -g, a tree of n nodes has n factors of g
    assert signed == [1, -1, Fraction(3, 2), Fraction(-8, 3), Fraction(31, 6), Fraction(-157, 15)]


def test_grafting_everywhere_counts_increasing_labellings() -> None:
    """Growing a tree one node at a time in all ways gives n! / symmetry: (n-1)! in all."""
    grown, total = {GRADIENT: Fraction(1)}, 1
    for n in range(1, 6):
        grown = lie({GRADIENT: Fraction(1)}, grown)
        total *= n
        assert sum(grown.values()) == total
        assert all(size(t) == n + 1 for t in grown)
    assert len(grown) == 20  # unlabelled rooted trees of 6 nodes


def test_lie_derivative_is_differentiation_along_a_field(float64: None) -> None:
    def field(p: Params) -> Params:
        return {"x": torch.sin(p["x"]) * p["x"].roll(1) ** 2}

    theta = {"x": torch.randn(4)}
    at = directional(field, theta)
    a = {tree(GRADIENT): Fraction(1, 3), IDENTITY: Fraction(2)}
    b = {tree(GRADIENT, GRADIENT): Fraction(1, 2), tree(IDENTITY): Fraction(-1), GRADIENT: Fraction(1)}

    def value(series: dict[Tree, Fraction]):
        return lambda p: evaluate(series, directional(field, p), p)

    wanted = torch.func.jvp(value(b), (theta,), (value(a)(theta),))[1]
    assert distance(evaluate(lie(a, b), at, theta), wanted) < 1e-13


def test_lie_powers_are_time_derivatives(float64: None) -> None:
    def field(p: Params) -> Params:
        return {"x": torch.sin(p["x"]) * p["x"].roll(1) ** 2}

    def pushed(f):
        return lambda p: torch.func.jvp(f, (p,), (field(p),))[1]

    theta, wanted = {"x": torch.randn(4)}, field
    for power in lie_powers(directional(field, theta), 4):
        assert distance(power, wanted(theta)) < 1e-12 * (1 + float(power["x"].norm()))
        wanted = pushed(wanted)


def test_known_coefficients() -> None:
    h2g, t = tree(tree(GRADIENT)), tree(GRADIENT, GRADIENT)
    assert counter_series(2) == [
        {tree(GRADIENT): Fraction(1, 2)},
        {h2g: Fraction(1, 3), t: Fraction(1, 12)},
    ]
    assert taylor(3) == [1, Fraction(-1, 2), Fraction(1, 6), Fraction(-1, 24)]
    assert logarithm_weights(4) == tuple(Fraction(n, 60) for n in (137, -163, 137, -63, 12))


@pytest.mark.parametrize("mu", [0.5, 0.9])
def test_momentum_fields_have_the_published_form(mu: float) -> None:
    """Heavy ball: -(L + lr (1 + mu) / (4 (1 - mu)^2) |g|^2) / (1 - mu), differentiated (Ghosh et al. 2023)."""
    m = Fraction(str(mu))
    heavy, nesterov = Rule(momentum=mu).fields(1), Rule(momentum=mu, nesterov=True).fields(1)
    assert heavy == ({GRADIENT: -1 / (1 - m)}, {tree(GRADIENT): -(1 + m) / (2 * (1 - m) ** 3)})
    assert nesterov[1] == {tree(GRADIENT): -(1 - m + 2 * m**2) / (2 * (1 - m) ** 3)}


@pytest.mark.parametrize("rule", [Rule(), Rule(momentum=0.4), Rule(momentum=0.4, nesterov=True)])
def test_field_on_a_quadratic_is_the_logarithm_of_its_root(rule: Rule) -> None:
    """Steps on h theta^2 / 2 shrink theta by the slow root z of the recursion, so the field is ln(z) theta / lr."""
    h, lr = 1.0, 0.01
    mu, kappa = rule.momentum, rule.kappa
    b, c = (1 + mu) * (1 - lr * h) if rule.nesterov else 1 + mu - lr * kappa * h, mu
    c = mu * (1 - lr * h) if rule.nesterov else mu
    z = (b + (b * b - 4 * c) ** 0.5) / 2
    field = sum(
        float(coefficient) * lr**k * h ** size(t)
        for k, series in enumerate(rule.fields(6))
        for t, coefficient in series.items()
        if _chain(t)
    )
    exact = torch.log(torch.tensor(z, dtype=torch.float64)).item() / lr
    assert abs(field - exact) < 1e-8 * abs(exact)


def _chain(t: Tree) -> bool:
    """True for trees of a linear field: no node has two children."""
    return len(t) <= 1 and all(map(_chain, t))
