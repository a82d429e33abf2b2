"""Rules that need the values of both states: matrix inverses, factors and determinants; comparisons and choices.

Each takes the cotangent g of the output and both states' arguments and outputs, and gives a cotangent for every
argument that may vary: what makes <g, y_u - y_v> the sum of <cotangent, x_u - x_v>, exactly.

    inverse      A^-1 - B^-1 = -A^-1 (A - B) B^-1, and the same with A and B exchanged; their mean
    cholesky     A - B = dL M^T + M dL^T with M the mean factor: the derivative of the factor at M M^T
    determinant  a polynomial of degree n along the segment: the mean of its derivative by Gauss-Legendre is exact
    comparison   a step of x - y: the quotient where it changes, 0 where it does not
    where        c a + (1 - c) b, by Leibniz at the midpoint
    x log y      the same, with 0 log 0 = 0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neuromech.physics.energy import secants
from neuromech.physics.energy.secants import Secant, gauss_legendre

# (g, arguments at u, arguments at v, output at u, output at v, keywords) to cotangents of the arguments.
PairRule = Callable[[Any, Sequence[Any], Sequence[Any], Any, Any, dict[str, Any]], Sequence[Any]]


def sum_to(x: Tensor, shape: torch.Size) -> Tensor:
    """What broadcasting has repeated, summed."""
    extra = x.ndim - len(shape)
    x = x.sum(list(range(extra))) if extra else x
    repeated = [k for k, n in enumerate(shape) if n == 1 and x.shape[k] != 1]
    return x.sum(repeated, keepdim=True) if repeated else x


def _inverse(g: Any, at_u: Any, at_v: Any, x: Tensor, y: Tensor, _: Any) -> Sequence[Any]:
    return [-(x.mT @ g @ y.mT + y.mT @ g @ x.mT) / 2]


def _cholesky(g: Any, at_u: Any, at_v: Any, x: Tensor, y: Tensor, keywords: dict[str, Any]) -> Sequence[Any]:
    upper = keywords.get("upper", at_u[1] if len(at_u) > 1 else False)
    m = (x + y) / 2
    m, g = (m.mT, g.mT) if upper else (m, g)
    pulled: Sequence[Any] = torch.func.vjp(torch.linalg.cholesky, m @ m.mT)[1](g)
    return pulled


def _determinant(g: Any, at_u: Any, at_v: Any, x: Tensor, y: Tensor, _: Any) -> Sequence[Any]:
    middle, half = (at_u[0] + at_v[0]) / 2, (at_u[0] - at_v[0]) / 2
    total = torch.zeros_like(middle)
    for node, weight in gauss_legendre(middle.shape[-1] // 2 + 1):
        total = total + weight * torch.func.vjp(torch.linalg.det, middle + node * half)[1](g)[0]
    return [total]


def _slope(change: Tensor, d: Tensor) -> Tensor:
    still = d == 0
    return torch.where(still, 0.0, change / torch.where(still, 1.0, d))


def _comparison(g: Any, at_u: Any, at_v: Any, x: Tensor, y: Tensor, _: Any) -> Sequence[Any]:
    cotangent = g * _slope(x.to(g.dtype) - y.to(g.dtype), (at_u[0] - at_u[1]) - (at_v[0] - at_v[1]))
    first = sum_to(cotangent, at_u[0].shape) if isinstance(at_u[0], Tensor) else None
    return [first, -sum_to(cotangent, at_u[1].shape) if isinstance(at_u[1], Tensor) else None]


def _where(g: Any, at_u: Any, at_v: Any, x: Tensor, y: Tensor, _: Any) -> Sequence[Any]:
    (c, a, b), (d, e, f) = at_u, at_v
    share = (c.to(g.dtype) + d.to(g.dtype)) / 2
    apart = torch.where(c == d, torch.zeros_like(g), g * ((a + e) / 2 - (b + f) / 2))
    to_a = sum_to(g * share, a.shape) if isinstance(a, Tensor) else None
    to_b = sum_to(g * (1 - share), b.shape) if isinstance(b, Tensor) else None
    return [sum_to(apart, c.shape), to_a, to_b]


def _masked_fill(g: Any, at_u: Any, at_v: Any, x: Tensor, y: Tensor, _: Any) -> Sequence[Any]:
    to_mask, to_value, to_x = _where(g, (at_u[1], at_u[2], at_u[0]), (at_v[1], at_v[2], at_v[0]), x, y, _)
    return [to_x, to_mask, to_value]


def _times_log(zero: float, log: Callable[[Tensor], Tensor], secant: Secant) -> PairRule:
    """x log y by Leibniz. Where one state has 0 log 0 = 0, its y is `zero`, the change is that of x at the other y."""

    def rule(g: Any, at_u: Any, at_v: Any, x: Tensor, y: Tensor, _: Any) -> Sequence[Any]:
        (a, b), (c, d) = ([torch.as_tensor(t, dtype=g.dtype, device=g.device) for t in at] for at in (at_u, at_v))
        none_u, none_v = (a == 0) & (b == zero), (c == 0) & (d == zero)
        p = torch.where(none_u, torch.where(none_v, zero + 1.0, d), b)
        q = torch.where(none_v, torch.where(none_u, zero + 1.0, b), d)
        log_p, log_q = log(p), log(q)
        slope = torch.where(none_u | none_v, 0.0, (a + c) / 2 * secant(p, q, log_p, log_q))
        cotangents = zip((g * (log_p + log_q) / 2, g * slope), at_u, strict=True)
        return [sum_to(h, t.shape) if isinstance(t, Tensor) else None for h, t in cotangents]

    return rule


def _logical(product: Callable[[Tensor, Tensor], Tensor]) -> PairRule:
    """Of bits a and b as numbers: degree 2, so Leibniz at the midpoint."""

    def rule(g: Any, at_u: Any, at_v: Any, x: Tensor, y: Tensor, _: Any) -> Sequence[Any]:
        means = [(p.to(g.dtype) + q.to(g.dtype)) / 2 for p, q in zip(at_u, at_v, strict=True)]
        pulled: Sequence[Any] = torch.func.vjp(product, *means)[1](g)
        return pulled

    return rule


_AND, _OR = _logical(lambda a, b: a * b), _logical(lambda a, b: a + b - a * b)
_XOR, _NOT = _logical(lambda a, b: a + b - 2 * a * b), _logical(lambda a: 1 - a)  # type: ignore[arg-type, misc]
PAIRS: dict[str, PairRule] = {
    "linalg_inv": _inverse,
    "inverse": _inverse,
    "linalg_cholesky": _cholesky,
    "cholesky": _cholesky,
    "linalg_det": _determinant,
    "det": _determinant,
    "where": _where,
    "masked_fill": _masked_fill,
    "xlogy": _times_log(0.0, torch.log, secants.log),
    "special_xlogy": _times_log(0.0, torch.log, secants.log),
    "special_xlog1py": _times_log(-1.0, torch.log1p, secants.log1p),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), _comparison),
    **dict.fromkeys(("logical_and", "bitwise_and"), _AND),
    **dict.fromkeys(("logical_or", "bitwise_or"), _OR),
    **dict.fromkeys(("logical_xor", "bitwise_xor"), _XOR),
    **dict.fromkeys(("logical_not", "bitwise_not"), _NOT),
}
