"""Elementwise operators by their mathematical property: homogeneous of some degree, sums, products, or none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from neuromech.detect import told_apart
from neuromech.detect.abstract import Abstract, Event, Unsupported
from neuromech.detect.axes import count, leaves
from neuromech.detect.data import Data
from neuromech.detect.entries import Entrywise
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import products as mixing
from neuromech.detect.matrix.movement import last_two
from neuromech.detect.operator import define
from neuromech.detect.operators.index import FEW, cat, cut, length, take
from neuromech.detect.operators.linear import exact, lacking, plus, product, times, with_sum


def homogeneous(degree: Fraction | int, words: str) -> Callable[..., Abstract]:
    """f(c x) = c^degree f(x) for c > 0, and no more: it scales, but must not shift."""

    def rule(s: Interpreter, x: Abstract, *_: Any, **__: Any) -> Abstract:
        s.translation.vanish(x.shift)
        s.scaling.events.append(Event("passes", f"{words}{s.at}", x.scale))
        y = s.result(x.axes, x.scale * degree)
        return replace(y, data=s.entries_of(x, degree) or y.data)

    return rule


def exponential(s: Interpreter, x: Abstract, *_: Any, **__: Any) -> Abstract:
    """exp(x + c) = exp(c) exp(x): a shift becomes a factor, which a quotient may cancel (softmax by hand)."""
    s.scaling.vanish(x.scale)
    y = s.result(x.axes)
    return replace(y, growth=x.shift, data=s.entries_of(x) or y.data)


def nonlinear(s: Interpreter, x: Abstract, *others: Any, **_: Any) -> Abstract:
    """No symmetry of scale or shift at all: nothing may pass."""
    tensors = s.broadcast(x, *(t for t in others if isinstance(t, Abstract)))
    s.pin(*tensors)
    if len(tensors) > 1:
        return s.result(s.joint(tensors), of=tensors, known=entrywise(s).of_numbers)
    y = s.result(tensors[0].axes)
    return replace(y, data=s.entries_of(x) or y.data)


def entrywise(s: Interpreter) -> Entrywise:
    """The function of entries that the operator at hand is."""
    assert s.node is not None
    return Entrywise(s.node)


def identity(s: Interpreter, x: Abstract, *_: Any, **__: Any) -> Abstract:
    """The same numbers (a copy, a cast, another memory layout)."""
    return x


def negative(s: Interpreter, x: Abstract) -> Abstract:
    return times(x, -1)


def prelu(s: Interpreter, x: Abstract, w: Abstract) -> Abstract:
    """max(0, x) + w min(0, x): homogeneous in x; a trainable slope is a number that nothing compensates."""
    s.pin(w)
    return homogeneous(1, "PReLU")(s, x)


def add(s: Interpreter, x: Abstract | float, y: Abstract | float, *, alpha: float = 1) -> Abstract:
    """x + alpha y."""
    if not isinstance(x, Abstract):
        x, y, alpha = y, x, 1  # a number plus a tensor
    assert isinstance(x, Abstract)
    if isinstance(y, Abstract):
        return plus(s, x, times(y, alpha))
    if y * alpha == 0:
        return x
    if 0 < abs(y * alpha) <= EPS:
        words, what = f"{y * alpha:g} is added{s.at}", f"the {y * alpha:g} added{s.at}"
        s.scaling.events.append(Event("meets", words, x.scale, broken_by=what))
    else:
        s.scaling.vanish(x.scale)
    y = s.result(x.axes, x.scale, x.shift)
    return replace(y, data=s.entries_of(x) or y.data)


def sub(s: Interpreter, x: Abstract | float, y: Abstract | float, *, alpha: float = 1) -> Abstract:
    """x - alpha y."""
    if not isinstance(x, Abstract):
        return add(s, times(y, -alpha) if isinstance(y, Abstract) else y, x)
    return add(s, x, y, alpha=-alpha)


def rsub(s: Interpreter, x: Abstract | float, y: Abstract | float, *, alpha: float = 1) -> Abstract:
    """y - alpha x."""
    return sub(s, y, x, alpha=alpha)


def mul(s: Interpreter, x: Abstract | float, y: Abstract | float) -> Abstract:
    """x y: exponents add up; each factor's shift is multiplied by the other factor."""
    if not isinstance(x, Abstract):
        x, y = y, x
    assert isinstance(x, Abstract)
    if not isinstance(y, Abstract):
        return times(x, y)
    x, y = s.broadcast(x, y)
    if (across := _crossed(x, y)) is not None:
        return _squared(s, x, y, *across)
    z = product(s, x, y)
    return _still_zero(_still_zero(z, x, y), y, x)


def _crossed(x: Abstract, y: Abstract) -> tuple[int, int] | None:
    """The axes i of x and j of y, if these are one tensor whose few entries meet in pairs: x_i x_j is x_j x_i."""
    mine, its = ([d for d in range(x.ndim) if a.axes[d] and not b.axes[d]] for a, b in ((x, y), (y, x)))
    if len(mine) != 1 or len(its) != 1 or (x.data.key, x.data.multiple) != (y.data.key, y.data.multiple):
        return None
    same = length(x, mine[0]) == length(y, its[0]) <= FEW
    return (mine[0], its[0]) if same else None


def _squared(s: Interpreter, x: Abstract, y: Abstract, i: int, j: int) -> Abstract:
    """x_i y_j entry by entry."""
    rows, columns = ([take(s, t, d, range(k, k + 1)) for k in range(length(t, d))] for t, d in ((x, i), (y, j)))
    return cat(s, [cat(s, [product(s, a, b) for b in columns], j, told=True) for a in rows], i, told=True)


def _still_zero(z: Abstract, x: Abstract, factor: Abstract) -> Abstract:
    """z = x times a factor: what adds up to zero still does where all of it is multiplied by the same."""
    for over, n in x.data.sums:
        if n == 0 and not any(q.under(over) for q in leaves(factor.data.labels)):
            z = with_sum(z, over, 0)
    return z


def div(s: Interpreter, x: Abstract | float, y: Abstract | float, *, rounding_mode: str | None = None) -> Abstract:
    """x / y: exponents subtract; only the numerator may shift."""
    if rounding_mode is not None:
        return nonlinear(s, *(t for t in (x, y) if isinstance(t, Abstract)))
    if isinstance(x, Abstract) and not isinstance(y, Abstract):
        return _divided(x, y)
    assert isinstance(y, Abstract)
    s.translation.vanish(y.shift)
    if not isinstance(x, Abstract):
        return s.result(y.axes, -y.scale)
    x, y = s.broadcast(x, y)
    z = s.result(s.joint([x, y]), x.scale - y.scale, x.shift.times(y.data.derived("1/")), (x, y))
    if x.scale and y.scale:
        s.scaling.events.append(Event("absorbs", f"the quotient{s.at} does not see a common factor", x.scale))
    z = _still_zero(z, x, y)
    if y.data.same_as(x.data.reduced("sum", lacking(x, y))):
        z = with_sum(z, lacking(x, y), 1)
    return z


def _divided(x: Abstract, k: float) -> Abstract:
    if not exact(k):
        raise Unsupported("it divides by zero")
    return replace(x, data=x.data.times(1 / exact(k)), shift=x.shift * (1 / exact(k)))


def maximum(s: Interpreter, x: Abstract, y: Abstract) -> Abstract:
    """The larger (or smaller) of two: commutes with a common factor and a common shift."""
    x, y = s.broadcast(x, y)
    s.translation.vanish(x.shift - y.shift)
    if x.zero or y.zero:
        s.scaling.events.append(Event("passes", f"the comparison with zero{s.at}", s.alike(x, y)))
    return s.result(s.joint([x, y]), s.alike(x, y), x.shift, of=[x, y], known=entrywise(s).of_numbers)


def clamp(
    s: Interpreter, x: Abstract, low: Abstract | float | None = None, high: Abstract | float | None = None
) -> Abstract:
    """Cut off below and above: at zero it is homogeneous; a tiny lower bound is an eps."""
    if isinstance(low, Abstract) or isinstance(high, Abstract):
        for b in (low, high):
            if b is not None:
                x = maximum(s, x, b if isinstance(b, Abstract) else s.number(b))
        return x
    bounds = [b for b in (low, high) if b is not None]
    if isinstance(low, float | int) and high is None and 0 < low <= EPS:
        s.translation.vanish(x.shift)
        words = f"the lower bound {low:g}{s.at}"
        s.scaling.events.append(Event("meets", words, x.scale, broken_by=words))
        y = s.result(x.axes, x.scale)
        return replace(y, data=s.entries_of(x) or y.data)
    if all(isinstance(b, float | int) and b in (0, math.inf, -math.inf) for b in bounds):
        return homogeneous(1, "clamp")(s, x)
    return nonlinear(s, x, *bounds)


def threshold(s: Interpreter, x: Abstract, limit: float, value: float) -> Abstract:
    return homogeneous(1, "threshold")(s, x) if limit == value == 0 else nonlinear(s, x)


def compared(s: Interpreter, x: Abstract, y: Abstract | float) -> Abstract:
    """x > y and its kin: unchanged by a common factor and a common shift; a number is met by neither, but for 0."""
    if isinstance(y, Abstract):
        x, y = s.broadcast(x, y)
        s.translation.vanish(x.shift - y.shift)
        s.alike(x, y)
        return s.result(s.joint([x, y]), of=[x, y], known=entrywise(s).of_numbers)
    s.translation.vanish(x.shift)
    if y != 0:
        s.scaling.vanish(x.scale)
    y = s.result(x.axes)
    return replace(y, data=s.entries_of(x) or y.data)


def where(s: Interpreter, condition: Abstract, x: Abstract | float, y: Abstract | float) -> Abstract:
    """x where the condition holds, y elsewhere: both must scale alike; a zero scales with anything."""
    x, y = (t if isinstance(t, Abstract) else s.number(t) for t in (x, y))
    s.pin(condition)
    condition, x, y = s.broadcast(condition, x, y)
    mask = s.result(condition.axes).data
    shift = y.shift + (x.shift - y.shift).times(mask)
    out = s.result(s.joint([condition, x, y]), s.alike(x, y), shift, of=[condition, x, y])
    return (
        replace(out, shift=x.shift, masked=True)
        if y.lowest
        else replace(out, shift=y.shift, masked=True)
        if x.lowest
        else out
    )


def masked_fill(s: Interpreter, x: Abstract, mask: Abstract, value: Abstract | float) -> Abstract:
    return where(s, mask, value, x)


def addcmul(s: Interpreter, x: Abstract, y: Abstract, z: Abstract, *, value: float = 1) -> Abstract:
    """x + value y z."""
    return plus(s, x, times(mul(s, y, z), value))


def addcdiv(s: Interpreter, x: Abstract, y: Abstract, z: Abstract, *, value: float = 1) -> Abstract:
    """x + value y / z."""
    return plus(s, x, times(div(s, y, z), value))


def lerp(s: Interpreter, x: Abstract, y: Abstract, w: Abstract | float) -> Abstract:
    """x + w (y - x)."""
    return plus(s, x, mul(s, plus(s, y, x, -1), w))


def glu(s: Interpreter, x: Abstract, dim: int = -1) -> Abstract:
    """a sigmoid(b) of the two halves."""
    n = count(x.axes[dim]) // 2
    a, b = cut(s, x, dim, (n, n))
    return mul(s, a, nonlinear(s, b))


def power(s: Interpreter, x: Abstract | float, p: Abstract | float) -> Abstract:
    """x ** p for a number p: homogeneous of degree p."""
    if isinstance(x, Abstract) and not isinstance(p, Abstract):
        return homogeneous(exact(p), f"power {p}")(s, x)
    return nonlinear(s, *(t for t in (x, p) if isinstance(t, Abstract)))


def dropout(s: Interpreter, x: Abstract, p: float, train: bool) -> Abstract:
    """x times a random mask."""
    if not train or p == 0:
        return x
    return mul(s, x, Abstract(x.axes, Data((s.node,), tuple(x.labels))))


def masked(s: Interpreter, x: Abstract, *_: Any) -> Abstract:
    """x times a constant mask (triangular)."""
    return mul(s, x, Abstract(x.axes, Data((s.node,), tuple(x.labels))))


EPS = 1e-3  # numbers up to here keep a division from failing: symmetries hold but for them
HALF = Fraction(1, 2)
HOMOGENEOUS: dict[str, tuple[Fraction | int, str]] = {
    "relu": (1, "ReLU"),
    "leaky_relu": (1, "leaky ReLU"),
    "abs": (1, "the absolute value"),
    "square": (2, "the square"),
    "sqrt": (HALF, "the square root"),
    "rsqrt": (-HALF, "the inverse square root"),
    "reciprocal": (-1, "the reciprocal"),
    "rrelu": (1, "randomised leaky ReLU"),
    "rrelu_with_noise": (1, "randomised leaky ReLU"),
    "sign": (0, "the sign"),
    "sgn": (0, "the sign"),
}
NONLINEAR = (
    "gelu silu sigmoid tanh softplus elu selu celu mish hardtanh relu6 hardswish hardsigmoid expm1 log log1p sin "
    "cos tan erf erfc erfinv sinh cosh asin acos atan asinh acosh atanh log2 log10 exp2 logit sinc log_sigmoid "
    "softshrink hardshrink tanhshrink softsign floor ceil round trunc frac fmod remainder atan2 logaddexp logaddexp2 "
    "lgamma digamma polygamma i0 special_expit xlogy special_xlogy alpha_dropout feature_alpha_dropout"
)
IDENTITY = "clone contiguous alias lift_fresh nan_to_num positive float double half bfloat16 requires_grad_"


define(NONLINEAR, nonlinear, mixing.entry_by_entry)
define(IDENTITY, identity, mixing.identity, same_content=True, for_complex=True)
define("detach", identity, mixing.identity, same_content=True, for_complex=True, stops=True)
for _op, _what in HOMOGENEOUS.items():
    define(_op, homogeneous(*_what), mixing.entry_by_entry, for_complex=_op == "abs")
define("neg", negative, mixing.identity, for_complex=True)
define("dropout feature_dropout", dropout, mixing.dropout, apart=told_apart.nothing)
define("exp", exponential, mixing.entry_by_entry, sees_masked=True)
define("add", add, mixing.add, for_complex=True)
define("sub subtract", sub, mixing.add, for_complex=True)
define("rsub", rsub, mixing.add)
define("mul multiply", mul, mixing.mul, for_complex=True)
define("div divide true_divide", div, mixing.div, for_complex=True)
define("lerp", lerp, mixing.lerp, apart=told_apart.nothing)
define("addcmul", addcmul, mixing.addcmul, apart=told_apart.nothing)
define("addcdiv", addcdiv, apart=told_apart.nothing)
define("where", where, mixing.where, apart=told_apart.nothing)
define("masked_fill", masked_fill, mixing.masked_fill, apart=told_apart.nothing)
define("tril triu", masked, last_two)
define("glu", glu, mixing.by_entries)
define("prelu", prelu, mixing.keeps_axes, apart=told_apart.nothing)
define("pow float_power", power)
define("maximum minimum fmax fmin", maximum)
define("clamp clip clamp_min", clamp)
define("clamp_max", lambda s, x, high: clamp(s, x, None, high))
define("threshold", threshold, mixing.entry_by_entry)
define("gt lt ge le eq ne greater less greater_equal less_equal", compared, mixing.entry_by_entry)
