"""What every operator does to scales and shifts: a table, one line an operator.

Each file of this folder is named after a mathematical property and defines the few rules that share it; an operator is
one line of data that says which rule it obeys. A rule is a function `(interpreter, *args, **kwargs) -> Abstract` of the
operator's own arguments. An operator without a line here blocks every claim that would pass through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from neuromech.detect.operators import (
    attention,
    index,
    linear,
    lookup,
    loss,
    movement,
    normalize,
    pointwise,
    recurrent,
    reduce,
)

Rule = Callable[..., Any]

RULES: dict[str, Rule] = {
    **linear.TABLE,
    **pointwise.TABLE,
    **normalize.TABLE,
    **movement.TABLE,
    **reduce.TABLE,
    **index.TABLE,
    **lookup.TABLE,
    **attention.TABLE,
    **recurrent.TABLE,
    **loss.TABLE,
}
# Operators whose result holds the numbers of their input, at other places.
SAME_CONTENT = frozenset(movement.TABLE) | frozenset(pointwise.IDENTITY.split())
# Rules that hold for complex numbers as they stand.
COMPLEX = frozenset("view_as_complex view_as_real mul mul_ clone slice select unsqueeze view reshape transpose".split())
