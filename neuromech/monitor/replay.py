"""A step, taken once more on a sample of elements, beside what the optimizer did: where they differ, by what?

Rounding is bounded, not estimated: every operation of the update errs by at most eps/2 of its result, and no rule has
more than `OPERATIONS` of them between what is read and what is written. So no element can be beyond the bound by
rounding, and there is nothing to tune.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.monitor.rules import Rule, Settings, State

OPERATIONS = 16


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


class Before(NamedTuple):
    """The sampled elements of the tensors of one param group ahead of a step; `t`: the number that the step has."""

    theta: Tensor
    gradient: Tensor
    state: State
    t: Tensor
    eps: Tensor
    tiny: Tensor


class After(NamedTuple):
    theta: Tensor
    state: State


def replay(
    rule: Rule, settings: Settings, names: Sequence[str], counts: Sequence[int], before: Before, after: After
) -> list[Difference]:
    """How the step of a group differs from what its settings say: [] if it does not. [elements], float64."""
    theta, g, _, t, eps, tiny = before
    u = rule.update(settings, theta, g, after.state, t)
    lr = float(settings["lr"])
    expected = rule.decay(settings) * theta - lr * u.value
    slack = eps * (after.theta.abs() + theta.abs() + OPERATIONS * abs(lr) * u.size) + tiny
    moment = next(iter(after.state.values()), torch.zeros_like(theta))
    vectors = {"step": expected - theta, "gradient": g, "weights": theta, "momentum": moment}
    found = differences("weight", names, counts, _error(after.theta, expected), slack, vectors, eps)
    for key, new in rule.advance(settings, theta, g, before.state, t).items():
        slack = OPERATIONS * eps * (new.size + after.state[key].abs()) + tiny
        vectors = {"momentum": before.state[key], "gradient": g, "weights": theta}
        found += differences(key, names, counts, _error(after.state[key], new.value), slack, vectors, eps)
    return found


def _error(found: Tensor, expected: Tensor) -> Tensor:
    """Of what is no number by its settings nothing is expected: a gradient that was none has been told."""
    return torch.where(torch.isfinite(expected), found - expected, 0.0)


def differences(
    what: str,
    names: Sequence[str],
    counts: Sequence[int],
    error: Tensor,
    slack: Tensor,
    vectors: Mapping[str, Tensor],
    eps: Tensor,
) -> list[Difference]:
    """Tensor by tensor, what `error` is beyond `slack`, and which of `vectors` it is a multiple of."""
    beyond = ~(error.abs() <= slack)
    if not bool(beyond.any()):
        return []
    shares, fits = {}, {}
    stop = 0
    for name, n in zip(names, counts, strict=True):
        here = slice(stop, stop := stop + n)
        if bool((off := beyond[here]).any()):
            some = {key: x[here] for key, x in vectors.items()}
            shares[name], fits[name] = float(off.double().mean()), explained(error[here], slack[here], some, eps[here])
    # A small tensor may fit more than one: what explains most of them goes first.
    votes = {key: sum(key in fit for fit in fits.values()) for key in vectors}
    order = sorted(vectors, key=lambda key: -votes[key])
    by = {name: next((key for key in order if key in fit), "") for name, fit in fits.items()}
    return [Difference(n, what, by[n], fit.get(by[n], math.nan), shares[n]) for n, fit in fits.items()]


def explained(error: Tensor, slack: Tensor, vectors: Mapping[str, Tensor], eps: Tensor) -> dict[str, float]:
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
