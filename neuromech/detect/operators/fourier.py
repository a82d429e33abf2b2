"""Complex numbers and Fourier transforms: linear maps, along the axes that they are about, of real quantities.

Exponents and amounts of shifts are real. A shift of a complex tensor is real amounts times complex data, so that its
real part is the amounts times the real part of all these data together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from neuromech.detect.abstract import Abstract
from neuromech.detect.axes import axis, leaves
from neuromech.detect.data import Data
from neuromech.detect.expr import Expr
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import movement as mixing
from neuromech.detect.matrix import products
from neuromech.detect.operator import define
from neuromech.detect.operators.linear import plus
from neuromech.detect.operators.pointwise import homogeneous


def transform(s: Interpreter, x: Abstract, dim: Sequence[int], *_: Any, **__: Any) -> Abstract:
    """Sums over the axes `dim` with constant complex weights, of which the real part is taken if the result is real."""
    assert s.node is not None
    dims = {d % x.ndim for d in dim}
    shape = s.node.outputs[0].shape
    axes = [axis(shape[d]) if d in dims else a for d, a in enumerate(x.axes)]
    over = x.along(dims)
    weights = Data((("fourier", s.node),), (*over, *leaves(y for d in dims for y in axes[d])))
    shift = x.shift.times(weights).summed(over)
    return s.result(axes, s.scaling.uniform(x.scale, over), shift if _is_complex(s) else _part(shift, "real"))


def _is_complex(s: Interpreter) -> bool:
    assert s.node is not None
    return s.node.outputs[0].dtype.is_complex


def _part(shift: Expr, which: object, *more: Any) -> Expr:
    """A real part of a complex shift: of all data of a term at once, as that of a product is not a product of parts."""
    return Expr.sum(
        (
            f._replace(
                data=(Data((which, *(d.key for d in f.data)), (*(x for d in f.data for x in d.labels), *more)),)
            ),
            c,
        )
        for f, c in shift.terms.items()
    )


def as_complex(s: Interpreter, x: Abstract) -> Abstract:
    """Pairs of numbers along the last axis as complex ones: the two of a pair scale alike."""
    over = x.along([-1])
    return s.result(
        x.axes[:-1], s.scaling.uniform(x.scale, over), x.shift.times(Data(("1, i",), tuple(over))).summed(over)
    )


def as_real(s: Interpreter, x: Abstract) -> Abstract:
    """Complex numbers as pairs."""
    pair = axis(2)
    return s.result((*x.axes, pair), x.scale, _part(x.shift, "parts", *pair))


def composed(s: Interpreter, x: Abstract, y: Abstract) -> Abstract:
    """x + i y."""
    return plus(s, x, replace(y, shift=y.shift.times(Data(("i",), ()))))


def cast(s: Interpreter, x: Abstract, *_: Any, **__: Any) -> Abstract:
    """Another type, or another memory layout: the same numbers, but for imaginary parts that a real type drops."""
    assert s.node is not None
    if s.node.inputs[0].dtype.is_complex and not _is_complex(s):
        return s.result(x.axes, x.scale, _part(x.shift, "real"))
    return x


def conjugate(s: Interpreter, x: Abstract) -> Abstract:
    """The conjugate of the data, where amounts are real."""
    return replace(x, data=x.data.derived("conjugate"), shift=_part(x.shift, "conjugate")) if _is_complex(s) else x


define("to _to_copy type_as", cast, products.identity, same_content=True, for_complex=True)
define("conj _conj resolve_conj conj_physical _conj_physical resolve_neg", conjugate, for_complex=True)
define("_fft_r2c _fft_c2c _fft_c2r", transform, mixing.transformed, for_complex=True)
define("view_as_complex", as_complex, for_complex=True)
define("view_as_real", as_real, for_complex=True)
define("complex", composed, for_complex=True)
define("angle", homogeneous(0, "the angle"), for_complex=True)
