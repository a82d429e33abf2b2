"""Norms and softmax: operators that do not see a shift or a factor of their input.

Every norm is a composition: subtract the mean, divide by the standard deviation, multiply by a gain, add a bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from neuromech.detect.axes import Label, axis, leaves, unify
from neuromech.detect.interpret import Abstract, Event, Interpreter
from neuromech.detect.rules.linear import plus
from neuromech.detect.rules.pointwise import mul


def standardise(s: Interpreter, x: Abstract, over: Sequence[Label], what: str, eps: float) -> Abstract:
    """(x - mean) / std over the indices `over`: one common factor and one common shift drop out."""
    s.translation.vanish(x.shift, along=over)
    s.translation.events.append(Event("absorbs", f"{what} subtracts the mean", x.shift))
    factor = s.scaling.uniform(x.scale, over)
    words = f"{what} divides by the standard deviation"
    s.scaling.events.append(Event("normalises", words, factor, broken_by=f"eps = {eps:g} of {what}" if eps else ""))
    return s.result(x.axes)


def affine(s: Interpreter, x: Abstract, gain: Abstract | None, bias: Abstract | None, dims: Sequence[int]) -> Abstract:
    """gain * x + bias, both running over the axes `dims` of x."""

    def aligned(t: Abstract) -> Abstract:
        axes = iter(t.axes)
        return replace(t, axes=tuple(next(axes) if d in dims else () for d in range(x.ndim)))

    y = x if gain is None else mul(s, x, aligned(gain))
    return y if bias is None else plus(s, y, aligned(bias))


def batch_norm(
    s: Interpreter,
    x: Abstract,
    gain: Abstract | None,
    bias: Abstract | None,
    mean: Abstract | None,
    variance: Abstract | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool = True,
) -> Abstract:
    if not training:  # running statistics are constants: an affine map
        assert mean is not None
        assert variance is not None
        inverse = replace(variance, data=variance.data.derived(("1/std", eps)))
        return affine(s, affine(s, x, inverse, mean, [1]), gain, bias, [1])
    over = x.along([0, *range(2, x.ndim)])
    return affine(s, standardise(s, x, over, f"batch norm{s.at}", eps), gain, bias, [1])


def instance_norm(
    s: Interpreter,
    x: Abstract,
    gain: Abstract | None,
    bias: Abstract | None,
    mean: Abstract | None,
    variance: Abstract | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn: bool = True,
) -> Abstract:
    if not use_input_stats:
        return batch_norm(s, x, gain, bias, mean, variance, False, momentum, eps)
    over = x.along(range(2, x.ndim))
    return affine(s, standardise(s, x, over, f"instance norm{s.at}", eps), gain, bias, [1])


def layer_norm(
    s: Interpreter,
    x: Abstract,
    shape: Sequence[int],
    gain: Abstract | None = None,
    bias: Abstract | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Abstract:
    dims = range(x.ndim - len(shape), x.ndim)
    return affine(s, standardise(s, x, x.along(dims), f"layer norm{s.at}", eps), gain, bias, dims)


def group_norm(
    s: Interpreter,
    x: Abstract,
    groups: int,
    gain: Abstract | None = None,
    bias: Abstract | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Abstract:
    group = axis(groups)
    unify((*group, *axis(prod(a.n for a in x.axes[1]) // groups)), x.axes[1])
    over = [*x.along([1])[len(leaves(group)) :], *x.along(range(2, x.ndim))]
    return affine(s, standardise(s, x, over, f"group norm{s.at}", eps), gain, bias, [1])


def softmax(s: Interpreter, x: Abstract, dim: int, dtype: Any = None) -> Abstract:
    """softmax and its logarithm along `dim`: a common shift drops out, no factor does."""
    s.scaling.vanish(x.scale)
    s.translation.vanish(x.shift, along=x.along([dim]))
    s.translation.events.append(Event("absorbs", f"softmax{s.at} does not see a common shift", x.shift))
    return s.result(x.axes)


TABLE: dict[str, Callable[..., Any]] = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "softmax": softmax,
    "log_softmax": softmax,
}
