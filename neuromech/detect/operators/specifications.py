"""What an operator of one's own does, said in one line: a contraction, a movement, a function of entries, a reduction.

Each gives both rules of an operator (operator.py), and shapes on which they can be tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from neuromech.detect.abstract import Abstract, Unsupported
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import movement as mixing_moves
from neuromech.detect.matrix import products as mixing
from neuromech.detect.matrix.walk import Indexed, Walk
from neuromech.detect.operator import Operator, operator_of
from neuromech.detect.operators.linear import einsum, times
from neuromech.detect.operators.pointwise import homogeneous, nonlinear
from neuromech.detect.operators.reduce import extremum, summed
from neuromech.errors import DetectionError


@dataclass(frozen=True)
class Specification:
    """Both rules of an operator, and the shapes of tensors that it can be tried on (none: an example is needed)."""

    operator: Operator
    shapes: tuple[tuple[int, ...], ...] = ()


def contraction(equation: str) -> Specification:
    """Products of the operator's tensors, summed over the letters that the result lacks, as `torch.einsum` has it.

    `contraction("bi,oi->bo")` is a linear layer. Raises `DetectionError` if it is not an equation between letters.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    names = left.split(",")
    if not arrow or not all(n.isalpha() and len(set(n)) == len(n) for n in (*names, right or "a")):
        raise DetectionError(f'{equation!r} is not a contraction: write one letter an axis, as in "bi,oi->bo"')
    if missing := set(right) - set(left):
        raise DetectionError(f"{equation!r}: the result has axes that no tensor has ({', '.join(sorted(missing))})")
    letters = dict.fromkeys("".join(names))
    sizes = {c: 2 + k % 4 for k, c in enumerate(letters)}

    def rule(s: Interpreter, *args: Any, **options: Any) -> Abstract:
        return einsum(s, equation, _tensors(args, Abstract, len(names)))

    def mix(m: Walk, *args: Any, **options: Any) -> Indexed:
        return mixing.einsum(m, equation, _tensors(args, Indexed, len(names)))

    return Specification(Operator(rule, mix), tuple(tuple(sizes[c] for c in n) for n in names))


def movement(equation: str) -> Specification:
    """One tensor with its axes in another order: `movement("bchw->bhwc")`."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    if not arrow or sorted(left) != sorted(right) or "," in left:
        raise DetectionError(f'{equation!r} is not an order of axes: write the same letters twice, as in "bchw->bhwc"')
    return contraction(equation)


def pointwise(degree: Fraction | int | None = None, linear: bool = False) -> Specification:
    """A function of the entries of one tensor, each by itself (of several: of the entries that broadcasting pairs).

    `degree`: f(c x) = c^degree f(x) for every c > 0. `linear`: k x for some constant number k. Neither: no factor and
    no shift passes.
    """
    if linear:
        return Specification(Operator(lambda s, x, *_, **__: times(x, 2), mixing.identity), ((3, 4),))
    if degree is None:
        return Specification(Operator(nonlinear, mixing.entry_by_entry), ((3, 4),))
    rule = homogeneous(Fraction(degree), f"a function of degree {degree}")
    return Specification(Operator(rule, mixing.entry_by_entry), ((3, 4),))


_REDUCTIONS: dict[str, tuple[Callable[..., Abstract], Callable[..., Any]]] = {
    "sum": (summed(mean=False), mixing_moves.reduced),
    "mean": (summed(mean=True), mixing_moves.reduced),
    "max": (extremum, mixing.by_entries),
    "min": (extremum, mixing.by_entries),
}


def reduction(how: str, dim: int | Sequence[int], keepdim: bool = False) -> Specification:
    """ "sum", "mean", "max" or "min" of one tensor over the axes `dim`."""
    if how not in _REDUCTIONS:
        raise DetectionError(f"{how!r} is not a known reduction: expected one of {', '.join(_REDUCTIONS)}")
    rule, mix = _REDUCTIONS[how]
    return Specification(
        Operator(lambda s, x, *_, **__: rule(s, x, dim, keepdim), lambda m, x, *_, **__: mix(m, x, dim, keepdim)),
        ((2, 3, 4),),
    )


def like(name: str) -> Specification:
    """An operator of PyTorch, with its arguments in the same order: `like("aten::layer_norm")`."""
    operator = operator_of(name.replace("::", "."))
    if operator is None or operator.rule is None:
        raise DetectionError(f"{name} has no rule either: say what the operator does in another way")
    return Specification(operator)


def _tensors(args: Sequence[Any], kind: type, n: int) -> list[Any]:
    found = [a for a in args if isinstance(a, kind)]
    if len(found) != n:
        raise Unsupported(f"it was registered for {n} tensors and is called with {len(found)}")
    return found
