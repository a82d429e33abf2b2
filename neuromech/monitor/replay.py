"""A step, taken once more on a sample of elements, beside what the optimizer did: where they differ, by what?

Rounding is bounded, not estimated: every operation of the update errs by at most eps/2 of its result, and no rule has
more than `OPERATIONS` of them between what is read and what is written. So no element can be beyond the bound by
rounding, and there is nothing to tune.
"""

from __future__ import annotations

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
    moment = next(iter(before.state.values()), torch.zeros_like(theta))
    vectors = {"step": -lr * u.value, "gradient": g, "weights": theta, "momentum": moment}
    found = differences("weight", names, counts, after.theta - expected, slack, vectors, eps)
    for key, new in rule.advance(settings, theta, g, before.state, t).items():
        slack = OPERATIONS * eps * (new.size + after.state[key].abs()) + tiny
        vectors = {"momentum": before.state[key], "gradient": g, "weights": theta}
        found += differences(key, names, counts, after.state[key] - new.value, slack, vectors, eps)
    return found


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
    out = []
    stop = 0
    for name, n in zip(names, counts, strict=True):
        here = slice(stop, stop := stop + n)
        if bool((off := beyond[here]).any()):
            some = {key: x[here] for key, x in vectors.items()}
            by, factor = explained(error[here], slack[here], some, eps[here])
            out.append(Difference(name, what, by, factor, float(off.double().mean())))
    return out


def explained(error: Tensor, slack: Tensor, vectors: Mapping[str, Tensor], eps: Tensor) -> tuple[str, float]:
    """The first of `vectors` of which `error` is a multiple, up to rounding, and the factor; ("", nan) if none is."""
    for key, x in vectors.items():
        square = float(x @ x)
        if square > 0:
            factor = float(error @ x) / square
            fits = (error - factor * x).abs() <= slack + OPERATIONS * eps * abs(factor) * x.abs()
            if factor and bool(fits.all()):
                return key, factor
    return "", float("nan")
