"""Inner products written by hand, `(x * y).sum(-1)`, and lengths, `x.pow(2).mean(-1)`.

Entry by entry they look as if an index could not be mixed, but of the sum only rotations are not seen:

    <R x, R y> = <x, y>,   |R x| = |x|
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from neuromech.detect.graph import Graph, Node, Value
from neuromech.detect.operator import short


class InnerProduct(NamedTuple):
    """The two tensors that are multiplied, the axes over which the products are added up, and the calls on the way."""

    x: Value
    y: Value
    over: tuple[int, ...]
    keepdim: bool
    inside: tuple[Node, ...]

    @property
    def read(self) -> tuple[Value, ...]:
        return self.x, self.y


def inner_products(graph: Graph) -> dict[Node, InnerProduct]:
    """The sums and means that end an inner product of whose single products nobody reads any."""
    uses = Counter(v for node in graph.nodes for v in node.inputs)
    uses.update(graph.outputs)
    found: dict[Node, InnerProduct] = {}
    for node in graph.nodes:
        if _op(node) in ("sum", "mean") and len(node.inputs) == 1 and len(node.args) > 1:
            (products,), dim = node.inputs, node.args[1]
            keepdim = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
            both = _multiplied(products)
            if both and products.node and uses[products] == 1 and dim not in (None, [], ()):
                over = (dim,) if isinstance(dim, int) else tuple(dim)
                found[node] = InnerProduct(*both, over, bool(keepdim), (products.node,))
    return found


def _multiplied(products: Value) -> tuple[Value, Value] | None:
    """The two tensors of one shape whose entries were multiplied, if they were."""
    node = products.node
    if node is None or node.kwargs:
        return None
    pair: tuple[Any, ...] = ()
    if _op(node) in ("mul", "multiply"):
        pair = node.args
    elif _op(node) == "square" or (_op(node) == "pow" and node.args[1] == 2):
        pair = (node.args[0], node.args[0])
    same = len(pair) == 2 and all(isinstance(v, Value) and v.shape == products.shape for v in pair)
    return (pair[0], pair[1]) if same else None


def _op(node: Node) -> str:
    return "" if node.stop or node.opaque or node.escape else short(node.op)
