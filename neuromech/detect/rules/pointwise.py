"""Elementwise operators by their mathematical property: homogeneous of some degree, sums, products, or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from neuromech.detect.expr import Data
from neuromech.detect.interpret import Abstract, Event, Interpreter, Unsupported
from neuromech.detect.rules.linear import exact, plus, times


def homogeneous(degree: Fraction | int, words: str) -> Callable[..., Abstract]:
    """f(c x) = c^degree f(x) for c > 0, and no more: it scales, but must not shift."""

    def rule(s: Interpreter, x: Abstract, *_: Any, **__: Any) -> Abstract:
        s.translation.vanish(x.shift)
        s.scaling.events.append(Event("passes", f"{words}{s.at}", x.scale))
        return s.result(x.axes, x.scale * degree)

    return rule


def nonlinear(s: Interpreter, x: Abstract, *others: Any, **_: Any) -> Abstract:
    """No symmetry of scale or shift at all: nothing may pass."""
    tensors = s.broadcast(x, *(t for t in others if isinstance(t, Abstract)))
    s.pin(*tensors)
    return s.result(s.joint(tensors))


def identity(s: Interpreter, x: Abstract, *_: Any, **__: Any) -> Abstract:
    """The same numbers (a copy, a cast, another memory layout)."""
    return x


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
    if y * alpha != 0:
        s.scaling.vanish(x.scale)  # only zero keeps its value under scaling
    return s.result(x.axes, x.scale, x.shift)


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
    return s.result(s.joint([x, y]), x.scale + y.scale, x.shift.times(y.data) + y.shift.times(x.data))


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
    return s.result(s.joint([x, y]), x.scale - y.scale, x.shift.times(y.data.derived("1/")))


def _divided(x: Abstract, k: float) -> Abstract:
    if not exact(k):
        raise Unsupported("it divides by zero")
    return replace(x, data=x.data.derived(("over", k)), shift=x.shift * (1 / exact(k)))


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


HALF = Fraction(1, 2)
HOMOGENEOUS: dict[str, tuple[Fraction | int, str]] = {
    "relu": (1, "ReLU"),
    "leaky_relu": (1, "leaky ReLU"),
    "abs": (1, "the absolute value"),
    "square": (2, "the square"),
    "sqrt": (HALF, "the square root"),
    "rsqrt": (-HALF, "the inverse square root"),
    "reciprocal": (-1, "the reciprocal"),
    "sign": (0, "the sign"),
}
NONLINEAR = (
    "gelu silu sigmoid tanh softplus elu selu celu mish hardtanh relu6 hardswish hardsigmoid exp expm1 log log1p sin "
    "cos erf log_sigmoid softshrink tanhshrink"
)
IDENTITY = "to _to_copy clone contiguous alias lift_fresh positive type_as"

TABLE: dict[str, Callable[..., Any]] = {
    **{op: homogeneous(*what) for op, what in HOMOGENEOUS.items()},
    **dict.fromkeys(NONLINEAR.split(), nonlinear),
    **dict.fromkeys(IDENTITY.split(), identity),
    **dict.fromkeys(["dropout", "feature_dropout"], dropout),
    "neg": lambda s, x: times(x, -1),
    "prelu": prelu,
    "add": add,
    "sub": sub,
    "rsub": rsub,
    "mul": mul,
    "div": div,
    "pow": power,
}
# Operators in place compute the same: the recorder has given their result a value of its own.
TABLE |= {f"{op}_": rule for op, rule in TABLE.items()}
