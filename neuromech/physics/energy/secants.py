"""Divided differences (f(a) - f(b)) / (a - b) of functions of one variable, f'(a) where a = b.

The quotient itself loses every digit as a -> b, in its value and worse in the derivatives that training needs. So each
is a closed form where a is near b, smooth through a = b wherever f is, and the quotient where that is well conditioned.

A secant takes (a, b, f(a), f(b)): the values are at hand in the sweep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor

Secant = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _join(d: Tensor, limit: float, close: Callable[[Tensor], Tensor], change: Tensor) -> Tensor:
    """`close(d)` where |d| < limit, else change / d; neither sees the other's arguments, so no gradient is 0 * inf.

    The choice is arithmetic, by a factor that is 1 or 0, so that a recording of the operators has no branch in it.
    """
    near = _is_positive(limit - d.abs())
    far = 1 - near
    return near * close(near * d) + far * change / (near + far * d)


def _is_positive(x: Tensor) -> Tensor:
    """1 or 0."""
    return torch.relu(torch.sign(x))


# -- f(x)/x near 0 ----------------------------------------------------------------------------------------------------


def _series(coefficient: Callable[[int], float], limit: float) -> Callable[[Tensor], Tensor]:
    """sum_k c_k x^(2k), with as many terms as matter in double precision for |x| <= limit; Horner's rule."""
    terms: list[float] = []
    for k in count():
        terms.append(coefficient(k))
        if abs(terms[-1]) * limit ** (2 * k) < 1e-17:
            break

    def value(x: Tensor) -> Tensor:
        y = x * x
        total = y * terms[-1] + terms[-2]
        for c in reversed(terms[:-2]):
            total = total * y + c
        return total

    return value


_sin_over = _series(lambda k: (-1) ** k / math.factorial(2 * k + 1), 0.25)
_sinh_over = _series(lambda k: 1 / math.factorial(2 * k + 1), 0.25)
_atan_over = _series(lambda k: (-1) ** k / (2 * k + 1), 0.26)
_atanh_over = _series(lambda k: 1 / (2 * k + 1), 0.25)


def _tanh_over(x: Tensor) -> Tensor:
    """Lambert's continued fraction 1/(1 + y/(3 + y/(5 + ...))), y = x^2, cut after 11: to 4e-17 for |x| <= 1/4."""
    y = x * x
    return ((21 * y + 1260) * y + 10395) / (((y + 210) * y + 4725) * y + 10395)


def tanh_reach(dtype: torch.dtype) -> float:
    """How far `_short_tanh_over` is right to the rounding of this dtype."""
    return 0.05 if dtype == torch.float64 else 0.4


def _short_tanh_over(x: Tensor) -> Tensor:
    """Lambert's continued fraction, cut after 7."""
    y = x * x
    return (10 * y + 105) / ((y + 45) * y + 105)


# -- secants ----------------------------------------------------------------------------------------------------------


def tanh(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """tanh a - tanh b = (1 - tanh a tanh b) tanh(a - b)."""
    return _join(a - b, tanh_reach(a.dtype), lambda d: (1 - fa * fb) * _short_tanh_over(d), fa - fb)


def sigmoid(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """tanh's, of half the argument."""
    return _join(a - b, 0.5, lambda d: ((fa + fb) / 2 - fa * fb) * _tanh_over(d / 2), fa - fb)


def exp(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    return _join(a - b, 0.5, lambda d: torch.exp((a + b) / 2) * _sinh_over(d / 2), fa - fb)


def sinh(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    return _join(a - b, 0.5, lambda d: torch.cosh((a + b) / 2) * _sinh_over(d / 2), fa - fb)


def cosh(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    return _join(a - b, 0.5, lambda d: torch.sinh((a + b) / 2) * _sinh_over(d / 2), fa - fb)


def sin(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    return _join(a - b, 0.5, lambda d: torch.cos((a + b) / 2) * _sin_over(d / 2), fa - fb)


def cos(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    return _join(a - b, 0.5, lambda d: -torch.sin((a + b) / 2) * _sin_over(d / 2), fa - fb)


def tan(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """tan a - tan b = sin(a - b) / (cos a cos b)."""
    return _join(a - b, 0.25, lambda d: _sin_over(d) / (torch.cos(a) * torch.cos(b)), fa - fb)


def atan(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """atan a - atan b = atan((a - b) / (1 + a b)) while 1 + a b > 0, as it is for |a - b| < 2."""
    d = a - b
    scale = 1 + _is_positive(0.25 - d.abs()) * a * b
    return _join(d, 0.25, lambda d: _atan_over(d / scale) / scale, fa - fb)


def _log(d: Tensor, total: Tensor, change: Tensor) -> Tensor:
    """log p - log q = 2 atanh(d / (p + q)), with d = p - q: where d is small beside p + q."""
    near = _is_positive(0.25 * total - d.abs())
    far = 1 - near
    return near * 2 / total * _atanh_over(near * d / total) + far * change / (near + far * d)


def log(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    return _log(a - b, a + b, fa - fb)


def log1p(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    return _log(a - b, a + b + 2, fa - fb)


def entr(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """Of -x log x: -(log a + log b)/2 - (a + b)/2 log[a, b]; 0 where both are 0, as of sqrt."""
    zero = 1 - _is_positive(a.abs() + b.abs())
    a, b = a + zero, b + zero
    near = _is_positive(0.25 * (a + b) - (a - b).abs())
    far = 1 - near
    p, q = near * a + far, near * b + far  # 1, where far
    close = -torch.log(p * q) / 2 - _atanh_over((p - q) / (p + q))
    return (1 - zero) * (near * close + far * (fa - fb) / (near + far * (a - b)))


def softplus(beta: float, threshold: float) -> Secant:
    """log(1 + e^a) - log(1 + e^b) = (a - b)/2 + 2 atanh(tanh((a + b)/4) tanh((a - b)/4)).

    Above its threshold PyTorch's softplus is the identity, 2e-9 lower at the usual 20; between two states on either
    side of that jump the slope is the smooth function's.
    """

    def secant(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
        a, b = beta * a, beta * b
        t = torch.tanh((a + b) / 4)

        def close(d: Tensor) -> Tensor:
            quarter = _tanh_over(d / 4)
            slope = (1 + t * quarter * _atanh_over(t * quarter * d / 4)) / 2
            above = _is_positive(a - threshold) * _is_positive(b - threshold)
            return above + (1 - above) * slope

        return _join(a - b, 1.0, close, beta * (fa - fb))

    return secant


def erf(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """The mean of the derivative by Gauss-Legendre: to rounding, for an entire function this near."""
    middle = (a + b) / 2

    def close(d: Tensor) -> Tensor:
        mean = sum((w * torch.exp(-((middle + x * d / 2) ** 2)) for x, w in gauss_legendre(6)), torch.zeros_like(d))
        return 2 / math.sqrt(math.pi) * mean

    return _join(a - b, 0.3, close, fa - fb)


def sqrt(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """Finite where both are 0, so that a distance of 0 has the slope 0."""
    return _ratio(torch.ones_like(fa), fa + fb)


def pointwise(derivative: Callable[[Tensor], Tensor], reach: float = 0.3, nodes: int = 7) -> Secant:
    """Of any function by its derivative: the mean of it by Gauss-Legendre where |a - b| < `reach`, else the quotient.

    Right to rounding where the function is smooth to a few times `reach` around.
    """

    def secant(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
        middle = (a + b) / 2

        def close(d: Tensor) -> Tensor:
            mean = (w * derivative(middle + x * d / 2) for x, w in gauss_legendre(nodes))
            return sum(mean, torch.zeros_like(d))

        return _join(a - b, reach, close, fa - fb)

    return secant


asinh = pointwise(lambda x: torch.rsqrt(1 + x * x))
i0 = pointwise(torch.special.i1)
sinc = pointwise(lambda x: torch.func.vjp(torch.sinc, x)[1](torch.ones_like(x))[0])


def jump(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """Of a function that is flat but for jumps: 0 where it has not jumped."""
    still = a == b
    return torch.where(still, 0.0, (fa - fb) / torch.where(still, 1.0, a - b))


def rsqrt(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    product = fa * fb
    return -product * product / (fa + fb)


def reciprocal(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    return -fa * fb


def power(n: int) -> Secant:
    """x^n for n >= 1: sum_k a^(n-1-k) b^k."""

    def secant(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
        total = b_power = torch.ones_like(a)
        for _ in range(n - 1):
            b_power = b_power * b
            total = total * a + b_power
        return total

    return secant


def relu(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """(relu a + relu b)/(|a| + |b|): 1 or 0 where the signs agree, the positive share where they do not.

    It does not change when a and b are scaled together, which is what leaves a network of ReLU its rescalings.
    """
    return _ratio(fa + fb, a.abs() + b.abs())


def absolute(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
    """(a + b)/(|a| + |b|), a + b by its parts: neither has a slope at 0."""
    return _ratio(torch.relu(a) - torch.relu(-a) + torch.relu(b) - torch.relu(-b), fa + fb)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0/0 = 0 for a denominator that is never negative: the subgradient that autograd takes at a kink.

    The bound is far below any number that matters and far above where its inverse overflows.
    """
    bound: float = torch.finfo(denominator.dtype).tiny ** (1.0 if denominator.dtype == torch.float16 else 0.5)
    return numerator / denominator.clamp_min(bound)


# -- means ------------------------------------------------------------------------------------------------------------


def logarithmic_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(p - q)/(log p - log q), which lies between p and q."""
    return exp(log_p, log_q, torch.exp(log_p), torch.exp(log_q))


def gauss_legendre(n: int) -> Iterator[tuple[float, float]]:
    """Nodes on [-1, 1] with weights that sum to 1: the mean over the interval, exact up to degree 2n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return zip(nodes.tolist(), (weights / 2).tolist(), strict=True)
