"""Norms and softmax: operators that do not see a shift or a factor of their input.

Every norm is a composition: subtract the mean, divide by the standard deviation, multiply by a gain, add a bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from neuromech.detect import told_apart, unread
from neuromech.detect.abstract import Abstract, Event
from neuromech.detect.axes import Label, count
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import lengths
from neuromech.detect.matrix import products as mixing
from neuromech.detect.operator import define
from neuromech.detect.operators.linear import plus
from neuromech.detect.operators.movement import reshaped
from neuromech.detect.operators.pointwise import mul


def standardise(s: Interpreter, x: Abstract, over: Sequence[Label], what: str, eps: float) -> Abstract:
    """(x - mean) / std over the indices `over`: one common factor and one common shift drop out."""
    s.translation.vanish(x.shift, along=over)
    s.translation.events.append(Event("absorbs", f"{what} subtracts the mean", x.shift))
    factor = s.scaling.uniform(x.scale, over)
    words = f"{what} divides by the standard deviation"
    s.scaling.events.append(Event("normalises", words, factor, broken_by=f"eps = {eps:g} of {what}" if eps else ""))
    y = s.result(x.axes)
    return replace(y, data=y.data._replace(sums=((tuple(over), 0),)))


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


def _row_by_row(s: Interpreter, x: Abstract, normalised: int) -> Abstract:
    """Rows of a table may scale apart if each is normalised by itself: if only their own entries are."""
    return x if normalised == 1 else replace(x, scale=s.scaling.uniform(x.scale, x.rows), rows=())


def layer_norm(
    s: Interpreter,
    x: Abstract,
    shape: Sequence[int],
    gain: Abstract | None = None,
    bias: Abstract | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Abstract:
    x, dims = _row_by_row(s, x, len(shape)), range(x.ndim - len(shape), x.ndim)
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
    batch, channels, *space = map(count, x.axes)
    x = reshaped(x, (batch, groups, channels // groups, *space))
    y = standardise(s, x, x.along(range(2, x.ndim)), f"group norm{s.at}", eps)
    y = replace(y, axes=(y.axes[0], (*y.axes[1], *y.axes[2]), *y.axes[3:]))
    return affine(s, y, gain, bias, [1])


def softmax(s: Interpreter, x: Abstract, dim: int, dtype: Any = None) -> Abstract:
    """softmax and its logarithm along `dim`: a common shift drops out, no factor does."""
    s.scaling.vanish(x.scale)
    s.translation.vanish(x.shift, along=x.along([dim]))
    s.translation.events.append(Event("absorbs", f"softmax{s.at} does not see a common shift", x.shift))
    y = s.result(x.axes)
    return replace(y, data=y.data._replace(sums=((tuple(x.along([dim])), 1),)))


def log_softmax(s: Interpreter, x: Abstract, dim: int, dtype: Any = None) -> Abstract:
    return s.result(softmax(s, x, dim).axes)


def divided_by_length(s: Interpreter, x: Abstract, over: Sequence[Label], what: str, eps: float | None) -> Abstract:
    """x / |x| over the indices `over`: one common factor drops out."""
    s.translation.vanish(x.shift)
    factor = s.scaling.uniform(x.scale, over)
    broken = f"eps = {eps:g} of {what}" if eps else "" if eps == 0 else f"eps of {what}"
    s.scaling.events.append(Event("normalises", f"{what} divides by the length", factor, broken_by=broken))
    return s.result(x.axes)


def rms_norm(
    s: Interpreter, x: Abstract, shape: Sequence[int], gain: Abstract | None = None, eps: float | None = None
) -> Abstract:
    x, dims = _row_by_row(s, x, len(shape)), range(x.ndim - len(shape), x.ndim)
    return affine(s, divided_by_length(s, x, x.along(dims), f"RMS norm{s.at}", eps), gain, None, dims)


def weight_norm(s: Interpreter, v: Abstract, g: Abstract, dim: int = 0) -> Abstract:
    """g v / |v|, the length taken over all axes but `dim`, or over all for -1."""
    over = v.along([d for d in range(v.ndim) if d != dim])
    return mul(s, divided_by_length(s, v, over, f"weight norm{s.at}", 0), g)


def cosine_similarity(s: Interpreter, x: Abstract, y: Abstract, dim: int = 1, eps: float = 1e-8) -> Abstract:
    """x y / (|x| |y|)."""
    x, y = s.broadcast(x, y)
    what = f"the cosine{s.at}"
    parts = [divided_by_length(s, t, t.along([dim]), what, 0) for t in (x, y)]
    return s.result(tuple(a for d, a in enumerate(s.joint(parts)) if d != dim % x.ndim))


define("batch_norm", batch_norm, mixing.keeps_axes, apart=told_apart.nothing)
define("instance_norm", instance_norm, mixing.keeps_axes, apart=told_apart.nothing)
define("layer_norm", layer_norm, mixing.keeps_axes, sees_rows=True, apart=told_apart.nothing, rows=unread.normalised)
define("group_norm", group_norm, mixing.keeps_axes, apart=told_apart.nothing)
define("rms_norm", rms_norm, lengths.rms_norm, sees_rows=True, apart=told_apart.nothing, rows=unread.normalised)
define(
    "softmax _softmax _safe_softmax special_softmax",
    softmax,
    mixing.keeps_axes,
    sees_masked=True,
    apart=told_apart.nothing,
    rows=unread.last,
)
define(
    "log_softmax _log_softmax special_log_softmax",
    log_softmax,
    mixing.keeps_axes,
    sees_masked=True,
    apart=told_apart.nothing,
)
define("_weight_norm", weight_norm, mixing.by_entries)
define("cosine_similarity", cosine_similarity, lengths.cosine_similarity)
