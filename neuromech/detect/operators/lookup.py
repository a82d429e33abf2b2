"""Look-ups: entries at places that the data choose (embeddings, gather, scatter).

A look-up is a contraction with rows of the identity, which depend on the data and add up to one over what is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from neuromech.detect import told_apart
from neuromech.detect.abstract import Abstract, Unsupported
from neuromech.detect.axes import Axis, axis, leaves
from neuromech.detect.data import Data
from neuromech.detect.expr import Expr
from neuromech.detect.graph import Value
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import movement as mixing
from neuromech.detect.operator import define
from neuromech.detect.operators.index import length, put, relabelled, runs_of, take, varies
from neuromech.detect.refine import unify

_RUNS = 32  # of places in a constant index, beyond which repeated ones are a table


def look_up(s: Interpreter, x: Abstract, dims: Sequence[int], new: Sequence[Axis], key: object) -> tuple[Expr, Expr]:
    """What is carried when the data choose an entry along `dims` for every index of `new`: (scale, shift)."""
    return s.scaling.uniform(x.scale, leaves(x.along(dims))), _looked_up(x, dims, new, key)


def _looked_up(x: Abstract, dims: Sequence[int], new: Sequence[Axis], key: object) -> Expr:
    """How what was looked up shifts."""
    over = leaves(x.along(dims))
    chosen = leaves(a for axis in new for a in axis)
    one_hot = Data((("one-hot", key),), (*chosen, *over), ((tuple(over), 1),))
    moved = Expr()
    for f, c in x.shift.terms.items():
        term = Expr({f: c})
        moved += term.times(one_hot).summed(over) if f.touches(set(over)) else term
    return moved


def embedding(
    s: Interpreter,
    table: Abstract,
    index: Abstract,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Abstract:
    """Rows of a table, at places that the data choose."""
    if scale_grad_by_freq:
        raise Unsupported("it gives another gradient than its own")
    known = s.value(index)
    if known and known.content is not None and not known.content.is_meta and _is_all(known.content, length(table, 0)):
        table = table.fresh()
        return replace(table, axes=((),) * (index.ndim - 1) + table.axes)
    table = table.fresh()
    shift = _looked_up(table, [0], index.axes, (index.data.key, tuple(leaves(index.data.labels))))
    return replace(s.result((*index.axes, *table.axes[1:]), table.scale, shift), rows=tuple(table.along([0])))


def _is_all(index: torch.Tensor, n: int) -> bool:
    """True if a constant index reads a table row by row, from the first to the last."""
    return index.numel() == n == index.shape[-1] and index.flatten().tolist() == list(range(n))


def embedding_bag(s: Interpreter, table: Abstract, index: Abstract, *_: Any, **__: Any) -> list[Abstract]:
    """Sums or means of rows of a table."""
    assert s.node is not None
    table = table.fresh()
    bags = axis(s.node.outputs[0].shape[0])
    scale, shift = look_up(s, table, [0], [bags], s.node)
    over = leaves(table.along([0]))
    # How many rows make a bag differs, unless it is their mean: the amounts are data.
    shift = Expr.sum((f._replace(data=tuple(d._replace(sums=()) for d in f.data)), c) for f, c in shift.terms.items())
    if any(f.touches(set(over)) for f in shift.terms):
        raise Unsupported("rows of its table shift apart")
    rest = [s.constant(v.shape, v) for v in s.node.outputs[1:]]
    return [s.result((bags, *table.axes[1:]), scale, shift), *rest]


def gather(s: Interpreter, x: Abstract, dim: int, index: Abstract, *, sparse_grad: bool = False) -> Abstract:
    """out[.., i, ..] = x[.., index[.., i, ..], ..]."""
    x, dim = x.fresh(), dim % x.ndim if x.ndim else 0
    for d in (d for d in range(x.ndim) if d != dim):
        n = length(index, d)
        if n < length(x, d):
            x = take(s, x, d, range(n))
        index = index.rename(unify(x.axes[d], index.axes[d]))
    if not varies(x, dim):
        return relabelled(x, dim, index.axes[dim], ("gathered", s.node), index.labels)
    scale, shift = look_up(s, x, [dim], index.axes, (index.data.key, tuple(leaves(index.data.labels))))
    return s.result(put(x.axes, dim, index.axes[dim]), scale, shift)


def index_select(s: Interpreter, x: Abstract, dim: int, index: Abstract) -> Abstract:
    assert s.node is not None
    return _indexed(s, x, {dim % x.ndim: s.node.args[2]})


def index(s: Interpreter, x: Abstract, places: Sequence[Abstract | None]) -> Abstract:
    """x[places]: advanced indexing; a None takes the axis as it is."""
    assert s.node is not None
    at: dict[int, Value] = {}
    dim = 0
    for value in s.node.args[1]:
        if value is not None:
            taken = len(value.shape) if value.dtype is torch.bool else 1
            at |= dict.fromkeys(range(dim, dim + taken), value)
            dim += taken - 1
        dim += 1
    return _indexed(s, x, at)


def _indexed(s: Interpreter, x: Abstract, at: dict[int, Value]) -> Abstract:
    """The axes that are indexed give way to those of the result, which stand where the first of them stood."""
    assert s.node is not None
    shape, dims = s.node.outputs[0].shape, sorted(at)
    if len(dims) == 1 and varies(x, dims[0]):
        places = _known_places(at[dims[0]], length(x, dims[0]))
        if places is not None and not _is_a_table(places):
            return take(s, x, dims[0], places)
    x = x.fresh()
    where = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    kept = [a for d, a in enumerate(x.axes) if d not in at]
    new = [axis(n) for n in shape[where : where + len(shape) - len(kept)]]
    scale, shift = look_up(s, x, dims, new, s.node)
    return s.result((*kept[:where], *new, *kept[where:]), scale, shift)


def _is_a_table(places: Sequence[int]) -> bool:
    """True if entries are read many times over, in no order: such a table (of relative positions) moves as a whole.

    Cut into single entries it would cost much and tell nothing: entries that are used alike have to move alike.
    """
    return len(set(places)) < len(places) and len(runs_of(places)) > _RUNS


def _known_places(index: Value, n: int) -> list[int] | None:
    """The places of a constant index of one axis."""
    if index.content is None or index.content.is_meta or index.content.ndim != 1:
        return None
    return [int(i) % n for i in (index.content.nonzero() if index.dtype is torch.bool else index.content)]


def index_add(
    s: Interpreter, x: Abstract, dim: int, index: Abstract, source: Abstract, *, alpha: float = 1
) -> Abstract:
    """x, with the entries of `source` added at places that the data choose."""
    if alpha != 1:
        raise Unsupported("it adds a multiple")
    source = source.fresh()
    over = leaves(source.axes[dim])
    source = _scattered(s, source, dim, x.axes[dim], over)
    for d in (d for d in range(x.ndim) if d != dim % x.ndim):
        source = source.rename(unify(x.axes[d], source.axes[d]))
    return s.result(x.axes, s.alike(x, source), x.shift + source.shift)


def _scattered(s: Interpreter, x: Abstract, dim: int, new: Axis, over: Sequence[Any]) -> Abstract:
    """Sums of entries along an axis, at places that the data choose."""
    scale = s.scaling.uniform(x.scale, over)
    amounts = Data((("scattered", s.node),), (*over, *leaves(new)))
    return s.result(put(x.axes, dim, new), scale, x.shift.times(amounts).summed(over))


define("embedding", embedding, mixing.looked_up, apart=told_apart.rows_of_table)
define("embedding_bag", embedding_bag)
define("gather", gather)
define("take_along_dim", lambda s, x, i, dim: gather(s, x, dim, i))
define("index_select", index_select, mixing.index_select)
define("index", index, mixing.index)
define("index_add", index_add, mixing.index_add)
