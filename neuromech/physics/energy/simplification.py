"""A traced sweep computes nothing twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def simplify(graph: fx.Graph) -> None:
    """Equal calls become one, a transpose of a transpose nothing, and what nobody reads goes."""
    known: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        inner = node.args[0] if node.args else None
        if node.target is aten.t.default and isinstance(inner, fx.Node) and inner.target is aten.t.default:
            node.replace_all_uses_with(inner.args[0])
            continue
        key = (node.target, _frozen(node.args), _frozen(node.kwargs))
        if key in known:
            node.replace_all_uses_with(known[key])
        else:
            known[key] = node
    graph.eliminate_dead_code()


def _frozen(x: Any) -> Any:
    """A key that is the same for equal arguments; numbers of different types differ."""
    if isinstance(x, list | tuple):
        return (type(x), *map(_frozen, x))
    if isinstance(x, dict):
        return tuple((k, _frozen(v)) for k, v in x.items())
    return x if isinstance(x, fx.Node) else (type(x), repr(x))
