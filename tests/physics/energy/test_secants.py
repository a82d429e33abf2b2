"""Every secant and its derivatives against the quotient in fifty digits."""

import math

import mpmath
import pytest
import torch

from neuromech.physics.energy import secants
from tests.families import fast

mpmath.mp.dps = 50

# name: (secant, torch's f, the same in any precision, whether it wants positive arguments)
FUNCTIONS = {
    "tanh": (secants.tanh, torch.tanh, mpmath.tanh, False),
    "sigmoid": (secants.sigmoid, torch.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x)), False),
    "exp": (secants.exp, torch.exp, mpmath.exp, False),
    "sinh": (secants.sinh, torch.sinh, mpmath.sinh, False),
    "cosh": (secants.cosh, torch.cosh, mpmath.cosh, False),
    "sin": (secants.sin, torch.sin, mpmath.sin, False),
    "cos": (secants.cos, torch.cos, mpmath.cos, False),
    "tan": (secants.tan, torch.tan, mpmath.tan, False),
    "atan": (secants.atan, torch.atan, mpmath.atan, False),
    "erf": (secants.erf, torch.erf, mpmath.erf, False),
    "softplus": (
        secants.softplus(1.0, 40.0),
        lambda x: torch.nn.functional.softplus(x, 1.0, 40.0),
        lambda x: mpmath.log(1 + mpmath.exp(x)),
        False,
    ),
    "log": (secants.log, torch.log, mpmath.log, True),
    "log1p": (secants.log1p, torch.log1p, mpmath.log1p, True),
    "sqrt": (secants.sqrt, torch.sqrt, mpmath.sqrt, True),
    "rsqrt": (secants.rsqrt, torch.rsqrt, lambda x: 1 / mpmath.sqrt(x), True),
    "reciprocal": (secants.reciprocal, torch.reciprocal, lambda x: 1 / x, True),
    "power": (secants.power(7), lambda x: x**7, lambda x: x**7, False),
}
DISTANCES = (0.0, 1e-12, 1e-9, 1e-6, 1e-3, 0.1, 0.249, 0.251, 0.299, 0.301, 0.499, 0.501, 0.99, 1.01, 3.0)


def points(positive: bool) -> tuple[torch.Tensor, torch.Tensor]:
    base = torch.linspace(0.05, 2.0, 9) if positive else torch.linspace(-3.0, 3.0, 13)
    a = base.double().repeat(2 * len(DISTANCES))
    d = torch.tensor(DISTANCES, dtype=torch.float64).repeat_interleave(len(base))
    b = torch.cat([a[: len(d)] + d, a[: len(d)] - d])
    keep = (b > 0) | (not positive)
    return a[keep], b[keep]


def quotient(f, a: float, b: float):
    a, b = mpmath.mpf(a), mpmath.mpf(b)
    if a == b:  # a difference quotient, which leaves noise of 1e-264 where the derivative is zero
        return mpmath.chop(mpmath.diff(f, a), tol=1e-200)
    return (f(a) - f(b)) / (a - b)


def derivative(f, a: float, b: float):
    """Of the quotient by a: (f'(a) - f[a, b])/(a - b), f''(a)/2 where a = b."""
    slope = mpmath.diff(f, mpmath.mpf(a))
    if a == b:
        return mpmath.diff(f, mpmath.mpf(a), 2) / 2
    return (slope - quotient(f, a, b)) / (mpmath.mpf(a) - mpmath.mpf(b))


@pytest.mark.parametrize("name", fast(FUNCTIONS, list(FUNCTIONS)[::2]))
def test_value_and_derivative(name: str) -> None:
    secant, f, exact, positive = FUNCTIONS[name]
    a, b = points(positive)
    a.requires_grad_()
    found = secant(a, b, f(a), f(b))
    (slope,) = torch.autograd.grad(found.sum(), a)
    for x, y, s, ds in zip(a.tolist(), b.tolist(), found.tolist(), slope.tolist(), strict=True):
        if name == "tan" and math.cos(x) * math.cos(y) < 0.1:
            continue  # beyond the pole there is another branch
        scale = max(abs(exact(x)), abs(exact(y)), abs(quotient(exact, x, y)), 1e-300)
        assert abs(s - quotient(exact, x, y)) <= 2e-15 * scale / min(1, max(abs(x - y), 0.2)), (x, y)
        assert abs(ds - derivative(exact, x, y)) <= 1e-13 * max(scale, abs(derivative(exact, x, y))), (x, y)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_symmetric(name: str) -> None:
    secant, f, _, positive = FUNCTIONS[name]
    a, b = points(positive)
    torch.testing.assert_close(secant(a, b, f(a), f(b)), secant(b, a, f(b), f(a)), rtol=1e-13, atol=1e-13)


def test_kinks_take_the_share_of_the_positive_side() -> None:
    a = torch.tensor([1.0, 1.0, -1.0, 0.0, 3.0, 0.0, 2.0])
    b = torch.tensor([2.0, -1.0, -2.0, 0.0, -1.0, 1.0, 2.0])
    relu = secants.relu(a, b, a.relu(), b.relu())
    torch.testing.assert_close(relu, torch.tensor([1.0, 0.5, 0.0, 0.0, 0.75, 1.0, 1.0]))
    absolute = secants.absolute(a, b, a.abs(), b.abs())
    torch.testing.assert_close(absolute, torch.tensor([1.0, 0.0, -1.0, 0.0, 0.5, 1.0, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_kinks_have_finite_derivatives_that_scale(dtype: torch.dtype) -> None:
    """Also where both states sit at the kink; and a common factor of both arguments changes no slope."""
    a = torch.tensor([0.0, 0.0, 1.0, -1.0, 2.0, -0.0], dtype=dtype, requires_grad=True)
    b = torch.tensor([0.0, 1.0, 0.0, 3.0, 2.0, -1.0], dtype=dtype)
    for secant, f in ((secants.relu, torch.relu), (secants.absolute, torch.abs)):
        slope = secant(a, b, f(a), f(b))
        (derivative,) = torch.autograd.grad(slope.sum(), a)
        assert torch.isfinite(derivative).all()
        for factor in (1e-12, 1e12):
            torch.testing.assert_close(secant(factor * a, factor * b, f(factor * a), f(factor * b)), slope)


def test_softplus_beyond_its_threshold_is_the_identity() -> None:
    a, b = torch.tensor([21.0, 30.0, 20.5]), torch.tensor([21.5, 25.0, 20.5])
    secant = secants.softplus(1.0, 20.0)
    torch.testing.assert_close(secant(a, b, a, b), torch.ones(3))


def test_logarithmic_mean_lies_between() -> None:
    log_p = torch.linspace(-300, 0, 31, dtype=torch.float64)
    log_q = log_p.flip(0)
    mean = secants.logarithmic_mean(log_p, log_q)
    assert (mean >= torch.exp(torch.minimum(log_p, log_q))).all()
    assert (mean <= torch.exp(torch.maximum(log_p, log_q))).all()


def test_gauss_legendre_is_exact_for_polynomials() -> None:
    for n in (1, 2, 5):
        moments = [sum(w * x**k for x, w in secants.gauss_legendre(n)) for k in range(2 * n)]
        assert moments == pytest.approx([1 / (k + 1) if k % 2 == 0 else 0 for k in range(2 * n)], abs=1e-15)
