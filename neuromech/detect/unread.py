"""Entries that are computed and never read, cut off before they are: the other tokens behind a class token.

`F(x)[:, 0]` is `F(x[:, :1])[:, 0]` for every F that treats the rows of that axis one by one. A backward pass over the
graph finds which rows of each value are read at all; a forward pass computes those alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, NamedTuple

from neuromech.detect.graph import Graph, Node, Value
from neuromech.detect.operands import exchanged
from neuromech.detect.operator import is_elementwise, operator_of, short


class ReadRows(NamedTuple):
    """The entries `start` to `stop` along the axis `dim`, and no others."""

    dim: int
    start: int
    stop: int


Needs = dict[Value, ReadRows | None]  # None: all entries


def without_unread(graph: Graph) -> Graph:
    """The same graph, or one in which nothing is computed of rows that nobody reads."""
    read: Needs = dict.fromkeys(graph.outputs)
    for node in reversed(graph.nodes):
        for value, rows in _needs(node, read).items():
            read[value] = rows if value not in read or read[value] == rows else None
    if not any(read.values()):
        return graph
    nodes: list[Node] = []
    cut: dict[Value, Value] = {}

    def rows_of(value: Value, rows: ReadRows) -> Value:
        if value in cut and read[value] == rows:
            return cut[value]
        taken = Value(_shape(value, rows), value.dtype)
        taken.node = Node("aten.slice", (value, *rows), {}, [value], [taken], module)
        nodes.append(taken.node)
        return taken

    for node in graph.nodes:
        module, wanted = node.module, _wanted(node, read)
        if _selection(node) and node.args[0] in cut:
            x = cut[node.args[0]]
            dim, *how = (node.args[1], 0) if "select" in node.op else (node.args[1], 0, x.shape[node.args[1]])
            node.outputs[0].node = replace(node, args=(x, dim, *how), inputs=[x])
            nodes.append(node.outputs[0].node)
        elif wanted and (needed := _row_by_row(node, wanted)):
            swapped = {v: rows_of(v, r) for v, r in needed.items() if r}
            args, kwargs = exchanged(Value, partial(_swapped, swapped), (node.args, node.kwargs))
            out = cut[node.outputs[0]] = replace(node.outputs[0], shape=_shape(node.outputs[0], wanted))
            inputs = [swapped.get(v, v) for v in node.inputs]
            out.node = replace(node, args=args, kwargs=kwargs, inputs=inputs, outputs=[out])
            nodes.append(out.node)
        else:
            nodes.append(node)
    return Graph(nodes, graph.leaves, graph.outputs)


def _swapped(by: dict[Value, Value], value: Value) -> Value:
    return by.get(value, value)


def _shape(value: Value, rows: ReadRows) -> tuple[int, ...]:
    return (*value.shape[: rows.dim], rows.stop - rows.start, *value.shape[rows.dim + 1 :])


def _wanted(node: Node, read: Needs) -> ReadRows | None:
    """What is read of a node's result, if it has one, and all of it is not."""
    plain = len(node.outputs) == 1 and not (node.escape or node.stop or node.opaque or node.op.endswith("_"))
    return read.get(node.outputs[0]) if plain else None


def _needs(node: Node, read: Needs) -> Needs:
    """What a node reads of its inputs."""
    if not node.escape and node.outputs and not any(v in read for v in node.outputs):
        return {}
    if rows := _selection(node):
        return {node.args[0]: rows}
    wanted = _wanted(node, read)
    return (wanted and _row_by_row(node, wanted)) or dict.fromkeys(node.inputs)


def _selection(node: Node) -> ReadRows | None:
    """The rows that a `select` or `slice` reads, if they are not all."""
    if short(node.op) not in ("select", "slice") or len(node.args) < 3 or node.kwargs:
        return None
    x, dim, *how = node.args
    n, dim = x.shape[dim], dim % len(x.shape)
    if node.op.endswith("select"):
        return ReadRows(dim, how[0] % n, how[0] % n + 1)
    places = range(*slice(*how).indices(n))
    return ReadRows(dim, places.start, places.stop) if places.step == 1 and 0 < len(places) < n else None


def _row_by_row(node: Node, rows: ReadRows) -> Needs | None:
    """Which rows of its inputs some rows of an operator's result are made of; None if that is not known."""
    operator, out = operator_of(node.op), node.outputs[0]
    if any(a is not v for a, v in zip(_values(node.args), node.inputs, strict=False)):
        return None
    if operator and operator.rows:
        try:
            needed = operator.rows(node, rows)
        except Exception:  # all rows, then
            return None
        return None if needed is None else dict.fromkeys(node.inputs) | needed
    if is_elementwise(node.op) or short(node.op) in ("dropout", "to", "_to_copy", "clone", "contiguous"):
        needs: Needs = {}
        for v in node.inputs:
            d = rows.dim - (len(out.shape) - len(v.shape))
            needs[v] = rows._replace(dim=d) if d >= 0 and v.shape[d] > 1 else None
        return needs
    return None


def _values(args: Any) -> list[Value]:
    return [a for a in args if isinstance(a, Value)]


def last(node: Node, rows: ReadRows) -> Needs | None:
    """Linear maps and softmax: the last axis is used up."""
    dim = -1 if short(node.op) == "linear" else node.args[1]
    return None if rows.dim == dim % len(node.outputs[0].shape) else {node.args[0]: rows}


def normalised(node: Node, rows: ReadRows) -> Needs | None:
    return {node.args[0]: rows} if rows.dim < len(node.outputs[0].shape) - len(node.args[1]) else None


def viewed(node: Node, rows: ReadRows) -> Needs | None:
    """The same axis before a reshape: as long, and behind as many entries."""
    x, y = node.inputs[0].shape, node.outputs[0].shape
    ahead = prod(y[: rows.dim])
    same = [d for d in range(len(x)) if prod(x[:d]) == ahead and x[d] == y[rows.dim]]
    return {node.inputs[0]: rows._replace(dim=same[0])} if same else None


def permuted(node: Node, rows: ReadRows) -> Needs | None:
    order = list(range(len(node.outputs[0].shape)))
    if short(node.op) == "permute":
        order = [d % len(order) for d in node.args[1]]
    else:
        _, i, j = node.args
        order[i], order[j] = order[j], order[i]
    return {node.inputs[0]: rows._replace(dim=order[rows.dim])}


def product(node: Node, rows: ReadRows) -> Needs | None:
    x, y = node.args[:2]
    n = len(node.outputs[0].shape)
    return {x: rows, y: None} if x is not y and rows.dim == n - 2 and len(x.shape) == n and len(y.shape) > 1 else None


def attention(node: Node, rows: ReadRows) -> Needs | None:
    """ReadRows of the result are rows of the queries, and of the mask."""
    query, *others = node.args
    if rows.dim != len(node.outputs[0].shape) - 2 or any(v is query for v in others):
        return None
    mask = node.kwargs.get("attn_mask", others[2] if len(others) > 2 else None)
    needs: Needs = {query: rows}
    if isinstance(mask, Value):
        needs[mask] = rows._replace(dim=len(mask.shape) - 2) if mask.shape[-2] > 1 else None
    return needs
