"""What an energy writes in place, written out of place: a graph in which no memory has two contents.

`M[:, 0, 0] = x`, the way in which mass matrices are filled, writes into a view of a view. What is written is scattered
into what it is a view of, up to the tensor itself, and every name of that memory that is used later is viewed anew.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from neuromech.compat import OpOverload, schema_of, storage_id

_A = torch.ops.aten


# view -> the operator of (what it is of, what is written, *arguments) that gives what it is of, written
_INTO: dict[Any, tuple[Any, Callable[..., tuple[Any, ...]]]] = {
    _A.select.int: (_A.select_scatter.default, lambda dim, index: (dim, index)),
    _A.slice.Tensor: (
        _A.slice_scatter.default,
        lambda dim=0, start=None, end=None, step=1: (dim, start, end, step),
    ),
    _A.narrow.default: (_A.slice_scatter.default, lambda dim, start, length: (dim, start, start + length)),
    _A.diagonal.default: (
        _A.diagonal_scatter.default,
        lambda offset=0, dim1=0, dim2=1: (offset, dim1, dim2),
    ),
}
# Views of all entries: back by themselves, or in the shape of what they are of.
_TURNS = {_A.transpose.int, _A.t.default, _A.mT.default, _A.numpy_T.default, _A.alias.default}
_SHAPES = {
    *(_A.view.default, _A.reshape.default, _A.flatten.using_ints, _A.unflatten.int, _A.unsqueeze.default),
    *(_A.squeeze.default, _A.squeeze.dim, _A.view_as.default, _A.reshape_as.default),
}


def writes(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and schema_of(node.target).is_mutable


def out_of_place(graph: fx.Graph) -> list[fx.Node]:
    """Rewrites what it can and gives what is made of the tensors; what is left writes in place, and is refused."""
    made: list[fx.Node] = []
    for node in [n for n in graph.nodes if writes(n) and str(n.target.overloadpacket).endswith("_")]:
        made += _rewritten(graph, node, made)
    return made


def _memory(node: object) -> int | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return storage_id(value) if isinstance(value, Tensor) else None


def _rewritten(graph: fx.Graph, node: fx.Node, made: list[fx.Node]) -> list[fx.Node]:
    """One write, as `made` are those before it."""
    order = {n: i for i, n in enumerate(graph.nodes)}

    def way_up(n: fx.Node) -> list[fx.Node]:
        """From a name of the memory to the one that it is a view of, and so on."""
        way = [n]
        while way[-1] not in made and way[-1].args and _memory(way[-1].args[0]) == _memory(n):
            way.append(way[-1].args[0])  # type: ignore[arg-type]
        return way

    def is_later(user: fx.Node) -> bool:
        return order.get(user, -1) > order[node]

    written = node.args[0]
    if not isinstance(written, fx.Node) or (function := _pure(node)) is None:
        return []
    way = way_up(written)
    names = [n for n in graph.nodes if _memory(n) == _memory(node) and order[n] < order[node]]
    names = [n for n in names if any(map(is_later, n.users))]
    is_plain = all(v.target in _INTO or v.target in _TURNS | _SHAPES for v in way[:-1])
    if way[-1].op != "call_function" or not is_plain or any(way_up(n)[-1] is not way[-1] for n in names):
        return []

    def call(target: Any, args: Any, kwargs: Any, like: fx.Node) -> fx.Node:
        new = graph.call_function(target, tuple(args), dict(kwargs))
        new.meta = dict(like.meta)
        return new

    with graph.inserting_before(node):
        now = call(function, *_arguments(node, function), written)
        for view, parent in pairwise(way):
            now = call(*_back(view, parent, now), {}, parent)
        fresh = {way[-1]: now}

        def again(n: fx.Node) -> fx.Node:
            if n not in fresh:
                fresh[n] = call(n.target, (again(n.args[0]), *n.args[1:]), n.kwargs, n)  # type: ignore[arg-type]
            return fresh[n]

        node.replace_all_uses_with(again(written))
        for n in names:
            again(n)
    for n in fresh:
        n.replace_all_uses_with(fresh[n], delete_user_cb=is_later)
    graph.erase_node(node)
    return [now]


def _back(view: fx.Node, parent: fx.Node, new: fx.Node) -> tuple[Any, tuple[Any, ...]]:
    """The call that gives `parent` as it is once `view` of it is `new`."""
    if view.target in _INTO:
        operator, arguments = _INTO[view.target]
        names = [a.name for a in schema_of(view.target).arguments][1:]
        return operator, (parent, new, *arguments(**dict(zip(names, view.args[1:], strict=False)), **view.kwargs))
    return (view.target, (new, *view.args[1:])) if view.target in _TURNS else (_A.reshape_as.default, (new, parent))


def _pure(node: fx.Node) -> Any:
    """The operator that does out of place what `node` does in place: that of its name with the same arguments."""
    name = str(node.target.overloadpacket).removeprefix("aten.")[:-1]  # type: ignore[union-attr]
    if name in ("zero", "fill", "copy"):
        return _filling(node)
    packet = getattr(_A, name, None)
    wanted = [str(a.type) for a in schema_of(node.target).arguments]
    for overload in packet.overloads() if packet is not None else ():
        function = getattr(packet, overload)
        if [str(a.type) for a in schema_of(function).arguments] == wanted:
            return function
    return None


def _filling(node: fx.Node) -> Any:
    """What takes nothing of what is there but its shape."""
    source = node.args[1] if len(node.args) > 1 else 0.0
    if not isinstance(source, fx.Node):
        return _A.full_like.default
    here, there = (n.meta.get("val") for n in (node, source))
    is_same = isinstance(here, Tensor) and isinstance(there, Tensor) and here.dtype == there.dtype
    return _A.expand_as.default if is_same else None


def _arguments(node: fx.Node, function: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if function is _A.expand_as.default:
        return (node.args[1], node.args[0]), {}
    if function is _A.full_like.default:
        return (node.args[0], node.args[1] if len(node.args) > 1 else 0.0), {}
    return node.args, node.kwargs
