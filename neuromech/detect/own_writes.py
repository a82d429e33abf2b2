"""A forward that sets its own parameters, as `nn.Embedding(max_norm=)` shortens the rows that it is about to read."""

from __future__ import annotations

from collections.abc import Sequence

from neuromech.detect.graph import Graph, Value

WRITES = "writes to its own parameter"
MOVE_OUT = "move that out of the forward, to where the optimizer steps"


def take_as_left(graph: Graph, name: str, written: Sequence[Value]) -> bool:
    """Take a parameter for what the last write of the forward leaves of it: the gradient is taken there.

    `written`: what each write left. False if the result depends, with a gradient, on the parameter as it was before the
    last one: then it has no one value in this forward.
    """
    found, left = next(v for v in graph.parameters if name in v.names), written[-1]
    used = graph.ancestors(graph.outputs)
    if used.intersection((found, *written[:-1])):
        return False
    if left in used and left.node is not None:
        node = left.node
        node.outputs[node.outputs.index(left)] = Value(left.shape, left.dtype, node=node)
        left.kind, left.names, left.trainable, left.node = found.kind, found.names, found.trainable, None
        found.kind, found.names, found.trainable = "input", (), False  # what else was made of it has no gradient
        graph.leaves.append(left)
    graph.written += (name,)
    return True
