"""A recorded forward as data: values in static single assignment, operator calls between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from neuromech.detect.operands import exchanged

Geometry = tuple[tuple[int, ...], tuple[int, ...], int]  # shape, strides and first element in its memory
ValueKind = Literal["op", "parameter", "constant", "input"]


@dataclass(eq=False)
class Value:
    """One version of one tensor. Leaves have no node; `names` holds every name of a tied parameter.

    An "input" is a leaf like a constant, but its numbers may be others at the next call.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: ValueKind = "op"
    node: Node | None = None
    names: tuple[str, ...] = ()
    trainable: bool = False
    content: Tensor | None = None  # of a constant that is still as it was


@dataclass(eq=False)
class Node:
    """One operator call. `args` and `kwargs` hold `Value`s where tensors stood.

    `stop`: no gradient flows through. `escape`: the content of a tensor leaves the graph and may steer what follows.
    `opaque`: why nothing can be said about this call, if so.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Value]
    outputs: list[Value]
    module: str
    stop: bool = False
    escape: bool = False
    opaque: str = ""
    random: bool = False  # it draws random numbers


@dataclass
class Graph:
    """A recorded forward: nodes in order, leaves, and the values that make the result, in the order of its leaves.

    `decisions`: the other answers that random numbers might have given where they decide which way the forward takes.
    `drew`: it drew numbers from Python's or NumPy's generator. `replaced`: attributes of modules that it left otherwise
    than it found them. `written`: parameters that it sets itself, and reads as it has set them.
    """

    nodes: list[Node] = field(default_factory=list)
    leaves: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    decisions: list[tuple[float, ...]] = field(default_factory=list)
    drew: bool = False
    replaced: tuple[str, ...] = ()
    written: tuple[str, ...] = ()

    @property
    def parameters(self) -> list[Value]:
        return [v for v in self.leaves if v.kind == "parameter"]

    def ancestors(self, roots: Sequence[Value], through_stops: bool = False) -> set[Value]:
        """Everything that `roots` depend on through gradients (or at all), themselves included."""
        seen: set[Value] = set()
        stack = list(roots)
        while stack:
            v = stack.pop()
            if v not in seen:
                seen.add(v)
                stack += v.node.inputs if v.node and (through_stops or not v.node.stop) else []
        return seen

    def descendants(self, leaves: Sequence[Value]) -> set[Value]:
        """Everything whose content depends on `leaves`, themselves included."""
        seen = set(leaves)
        for node in self.nodes:
            if any(v in seen for v in node.inputs):
                seen.update(node.outputs)
        return seen


def together(graphs: Sequence[Graph]) -> Graph:
    """Several recordings of one model as one graph: its parameters are the same in all of them."""
    first, *others = graphs
    if not others:
        return first
    whole = Graph(list(first.nodes), list(first.leaves), list(first.outputs))
    by_name = {v.names[0]: v for v in first.parameters}
    for graph in others:
        same = {v: by_name.setdefault(v.names[0], v) for v in graph.parameters}
        whole.leaves += [v for v in graph.leaves if same.get(v, v) is v]

        def shared(v: Value, same: dict[Value, Value] = same) -> Value:
            return same.get(v, v)

        for node in graph.nodes:
            args, kwargs = exchanged(Value, shared, (node.args, node.kwargs))
            swapped = replace(node, args=args, kwargs=kwargs, inputs=[shared(v) for v in node.inputs])
            for v in node.outputs:
                v.node = swapped
            whole.nodes.append(swapped)
        whole.outputs += map(shared, graph.outputs)
    whole.written = tuple(dict.fromkeys(name for graph in graphs for name in graph.written))
    return whole


def known_number(value: Value) -> float | None:
    """The number that all entries of a constant are known to have."""
    content, node = value.content, value.node
    readable = content is not None and content.layout is torch.strided and not (content.is_meta or content.is_nested)
    if content is not None and readable and content.dtype.is_floating_point and content.numel():
        first = float(content.flatten()[0])
        return first if bool((content == first).all()) else None
    if node is not None:  # nothing can be read on the meta device, but how it was made
        op = node.op.removeprefix("aten.")
        if op in ("zeros", "zeros_like", "new_zeros"):
            return 0.0
        if op in ("full", "full_like", "new_full", "scalar_tensor"):
            number = node.args[0 if op == "scalar_tensor" else 1]
            return float(number) if isinstance(number, int | float) else None
    return None


def is_one_hot(node: Node, graph: Graph) -> bool:
    """True if `torch.nn.functional.one_hot` made the result: which class it is, compared with all that there are.

    It asserts that the class is one of them; without the assertion the row might be all zeros.
    """
    if node.op == "aten.one_hot":
        return True
    if node.op != "aten.eq" or not (len(node.args) == 2 and all(isinstance(a, Value) for a in node.args)):
        return False
    chosen, classes = node.args
    content, source = classes.content, chosen.node.inputs[0] if chosen.node and chosen.node.inputs else None
    if content is None or content.is_meta or content.is_floating_point() or chosen.shape[-1:] != (1,):
        return False
    asserted = any(n.op == "aten.lt" and n.args == (source, len(content)) for n in graph.nodes)
    return asserted and content.ndim == 1 and content.tolist() == list(range(len(content)))
