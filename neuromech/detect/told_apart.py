"""Which indices an operator does not treat alike, entry by entry: what `permutations.py` asks of every line.

`(interpreter, node) -> labels`, over what went in and what came out. An operator whose line says nothing tells all of
them apart, unless it moves entries or acts on them one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuromech.detect.axes import Label
from neuromech.detect.graph import Node

if TYPE_CHECKING:
    from neuromech.detect.interpret import Interpreter


def nothing(s: Interpreter, node: Node) -> list[Label]:
    """Each index of the result comes from that of an input, and entries along it are treated alike."""
    return []


def everything(s: Interpreter, node: Node) -> list[Label]:
    return [x for v in (*node.inputs, *node.outputs) for x in s.abstract(v).labels]


def places(s: Interpreter, node: Node) -> list[Label]:
    """Batch and channels are treated alike; in the space behind them it matters where an entry stands."""
    return [x for v in (*node.inputs[:2], *node.outputs) for x in s.abstract(v).along(range(2, len(v.shape)))]


def pieces(s: Interpreter, node: Node) -> list[Label]:
    """Some entries of an axis go elsewhere: what is cut is told apart by its pieces."""
    into = [x for v in node.inputs for x in s.abstract(v).labels]
    made = [x for v in node.outputs for x in s.abstract(v).labels]
    kept = {x.root for x in made} & {x.root for x in into}
    return [x for x in (*into, *made) if x.root not in kept and not x.segments]


def rows_of_table(s: Interpreter, node: Node) -> list[Label]:
    """The data say which row of the first input they mean."""
    return s.abstract(node.inputs[0]).along([0])


def tokens(s: Interpreter, node: Node) -> list[Label]:
    """Attention: a mask tells tokens apart, and may tell heads."""
    which = (2, 3) if len(node.inputs) > 3 and len(node.inputs[0].shape) > 2 else (2,)
    every = [(s.abstract(v), len(v.shape)) for v in (*node.inputs, *node.outputs)]  # a mask may lack the axes ahead
    return [x for t, ndim in every for x in t.along([-d for d in which if d <= ndim])]
