"""A step, taken once more on a sample of elements, beside what the optimizer did: where they differ, by what?

Rounding is bounded, not estimated: the formulas of the optimizer's rule are evaluated in float64 with a running bound
on what the same operations may have rounded (`Rounded`), so nothing is tuned. The bound is doubled, for other kernels
order the same operations otherwise. A rule that mixes elements is evaluated on a whole tensor, as torch does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.optimizers import Elements, Rounded, Rule

OPERATIONS = 16  # more than any update, or a fit to one, takes
ORDERS = 2.0


class Difference(NamedTuple):
    """What happened to the sampled elements of one tensor that should not have.

    `what`: "weight", or the entry of the optimizer's state. `by`: the vector that explains it, as in
    found = expected + factor * vector: "step" (-lr * u), "gradient", "weights", "momentum"; "" if none does.
    `share`: the part of the elements that is off.
    """

    name: str
    what: str
    by: str
    factor: float
    share: float


class Ahead(NamedTuple):
    """Elements of one or more parameters ahead of a step, float64, and what the rule says of them.

    `gradient`: as in `.grad`. `state`: the entries foretold, with what they were before.
    """

    rule: Rule
    e: Elements
    theta: Tensor
    gradient: Tensor
    state: Mapping[str, tuple[Rounded, Tensor]]
    decay: float
    rate: float
    cancels: float
    dtype: torch.dtype
    orders: float = ORDERS


def ahead(rule: Rule, e: Elements, gradient: Tensor, additions: int = 1) -> Ahead:
    """`e`: of `Rounded` arrays, which remember what they have read."""
    theta, _ = _value(e.theta), e.gradient
    state = {key: (_rounded(x), _value(e.old(key))) for key, x in rule.advance(e).items()}
    return Ahead(
        rule, e, theta, gradient, state, rule.decay(e), rule.rate(e), rule.cancels(e), e.dtype, ORDERS * additions
    )


def replay(
    a: Ahead, names: Sequence[str], counts: Sequence[int], theta: Tensor, after: Callable[[str], Tensor]
) -> tuple[list[Difference], float, float]:
    """How the step differs from what its settings say: [] if it does not. `theta`, `after(entry)`: behind the step.

    With it, how many elements were to move, and how many of these rounding kept where they were.
    """
    state = {key: after(key) for key in a.state}
    read = {key: Rounded.exactly(x, a.dtype) for key, x in state.items()}
    u = _rounded(a.rule.update(a.e, read)).mul(a.rate)  # type: ignore[arg-type]
    start = _rounded(a.e.theta)
    end = (start if a.decay == 1.0 else start.mul(a.decay)).sub(u)
    slack, eps = a.orders * end.error, torch.finfo(a.dtype).eps
    if a.cancels != 1.0:
        slack = slack + OPERATIONS * eps * a.cancels * u.value.abs()
    moment = next(iter(state.values()), torch.zeros_like(theta))
    vectors = {"step": end.value - a.theta, "gradient": a.gradient, "weights": a.theta, "momentum": moment}
    vectors["end"] = end.value  # decayed behind the step
    found = differences("weight", names, counts, _error(theta, end.value), slack, vectors, eps)
    for key, (new, old) in a.state.items():
        vectors = {"momentum": old, "gradient": a.gradient, "weights": a.theta}
        error, slack = _error(state[key], new.value), ORDERS * (new.error + eps * state[key].abs())
        found += differences(key, names, counts, error, slack, vectors, eps)
    meant = end.value != a.theta
    return found, float(meant.sum()), float((meant & (theta == a.theta)).sum())


def _error(found: Tensor, expected: Tensor) -> Tensor:
    """Of what is not a number by its settings nothing is expected: a gradient that was none has been told."""
    return torch.where(torch.isfinite(expected), found - expected, 0.0)


def _rounded(x: object) -> Rounded:
    """The formulas are written for tensors; on `Rounded` numbers they give such."""
    assert isinstance(x, Rounded)
    return x


def _value(x: object) -> Tensor:
    return _rounded(x).value


def differences(
    what: str,
    names: Sequence[str],
    counts: Sequence[int],
    error: Tensor,
    slack: Tensor,
    vectors: Mapping[str, Tensor],
    eps: float,
) -> list[Difference]:
    """Tensor by tensor, what `error` is beyond `slack`, and which of `vectors` it is a multiple of."""
    beyond = (error.abs() > slack) | error.isnan()
    if not bool(beyond.any()):
        return []
    shares, fits = {}, {}
    stop = 0
    for name, n in zip(names, counts, strict=True):
        here = slice(stop, stop := stop + n)
        if bool((off := beyond[here]).any()):
            some = {key: x[here] for key, x in vectors.items()}
            shares[name], fits[name] = float(off.double().mean()), explained(error[here], slack[here], some, eps)
    # A small tensor may fit more than one: what explains most of them goes first.
    votes = {key: sum(key in fit for fit in fits.values()) for key in vectors}
    order = sorted(vectors, key=lambda key: -votes[key])
    by = {name: next((key for key in order if key in fit), "") for name, fit in fits.items()}
    return [Difference(n, what, by[n], fit.get(by[n], math.nan), shares[n]) for n, fit in fits.items()]


def explained(error: Tensor, slack: Tensor, vectors: Mapping[str, Tensor], eps: float) -> dict[str, float]:
    """Those of `vectors` of which `error` is a multiple, up to `slack`, with the factor: that of least squares.

    Errors within `slack` move the factor by no more than <|x|, slack> / <x, x>.
    """
    out = {}
    for key, x in vectors.items():
        square = float(x @ x)
        if square > 0:
            factor = float(error @ x) / square
            each = slack + OPERATIONS * eps * abs(factor) * x.abs()
            allowed = each + x.abs() * float(x.abs() @ each) / square
            if factor and bool(((error - factor * x).abs() <= allowed).all()):
                out[key] = factor
    return out
