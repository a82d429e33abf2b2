"""Sums, products and functions of entries: which indices stay free to be mixed by a matrix (see walk.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuromech.detect.abstract import Unsupported
from neuromech.detect.axes import Axis, count, leaves
from neuromech.detect.matrix.movement import expand, reduced, repeat_interleave, swap_last
from neuromech.detect.matrix.walk import Indexed, Walk
from neuromech.detect.refine import regroup
from neuromech.detect.subscripts import parsed


def identity(m: Walk, x: Indexed, *_: Any, **__: Any) -> Indexed:
    return x


def dropout(m: Walk, x: Indexed, p: float, train: bool) -> Indexed:
    return m.pointwise(x) if train and p else x


def entry_by_entry(m: Walk, *tensors: Any, **named: Any) -> Indexed:
    """Any function of the entries, one by one."""
    assert m.node is not None
    return m.pointwise(*map(m.indexed, m.node.inputs))


def keeps_axes(m: Walk, x: Indexed, *others: Any, **named: Any) -> Indexed:
    """Softmax, norms: not linear, but index by index the result is where the input was."""
    for t in (x, *others, *named.values()):
        if isinstance(t, Indexed):
            m.fix(t.labels)
    return x


def by_entries(m: Walk, *args: Any, **named: Any) -> Any:
    """What depends on single entries, and puts others in their place: nothing is mixed before, nothing is after."""
    assert m.node is not None
    for v in m.node.inputs:
        m.fix(m.indexed(v).labels)
    return [m.unrelated(v.shape) for v in m.node.outputs]


def add(m: Walk, x: Indexed | float, y: Indexed | float, **_: Any) -> Indexed:
    """A sum (or difference): mixed alike, and nothing constant along a mixed index."""
    tensors = [t for t in (x, y) if isinstance(t, Indexed)]
    if len(tensors) < 2:
        return m.pointwise(tensors[0]) if any(t != 0 for t in (x, y) if not isinstance(t, Indexed)) else tensors[0]
    for kept, other in ((tensors[0], tensors[1]), (tensors[1], tensors[0])):
        if m.is_zero(other):
            return expand(m, kept)
    _no_constant_along_mixed(m, tensors)
    return m.broadcast(*tensors)


def _no_constant_along_mixed(m: Walk, tensors: Sequence[Indexed]) -> None:
    aligned = m.align(*tensors)
    for d in range(aligned[0].ndim):
        having = [t for t in aligned if t.axes[d]]
        if len(having) < len(aligned):
            for t in having:
                m.fix(t.along([d]))


def mul(m: Walk, x: Indexed | float, y: Indexed | float) -> Indexed:
    """A product, linear in each factor: indices that both have are not mixed."""
    if not isinstance(x, Indexed):
        x, y = y, x
    assert isinstance(x, Indexed)
    if not isinstance(y, Indexed):
        return x
    x, y = m.align(x, y)
    x, y = _without_copies(x, y), _without_copies(y, x)
    for d in range(x.ndim):
        if x.axes[d] and y.axes[d]:
            m.fix([*x.along([d]), *y.along([d])])
    return m.broadcast(x, y)


def _without_copies(x: Indexed, y: Indexed) -> Indexed:
    """A factor without the axes along which it was only repeated, to be as long as the other one."""
    needless = (b and x.copied.issuperset(leaves(a)) for a, b in zip(x.axes, y.axes, strict=True))
    return Indexed(tuple(() if n else a for a, n in zip(x.axes, needless, strict=True)), x.copied)


def div(m: Walk, x: Indexed | float, y: Indexed | float, *, rounding_mode: str | None = None) -> Indexed:
    if not isinstance(x, Indexed) or rounding_mode is not None:
        return m.pointwise(*(t for t in (x, y) if isinstance(t, Indexed)))
    if isinstance(y, Indexed):
        m.fix(y.labels)
    return mul(m, x, y)


def lerp(m: Walk, x: Indexed, y: Indexed, w: Indexed | float) -> Indexed:
    """x + w (y - x)."""
    return add(m, x, mul(m, w, add(m, y, x)))


def addcmul(m: Walk, x: Indexed, y: Indexed, z: Indexed, *, value: float = 1) -> Indexed:
    return add(m, x, mul(m, y, z))


def where(m: Walk, condition: Indexed, x: Indexed | float, y: Indexed | float) -> Indexed:
    """Where one side is zero, the other one times a mask."""
    for kept, other in ((x, y), (y, x)):
        if isinstance(kept, Indexed) and m.is_zero(other):
            return expand(m, mul(m, condition, kept))
    return m.pointwise(condition, *(t for t in (x, y) if isinstance(t, Indexed)))


def masked_fill(m: Walk, x: Indexed, mask: Indexed, value: Indexed | float) -> Indexed:
    return where(m, mask, value, x)


def linear(m: Walk, x: Indexed, w: Indexed, b: Indexed | None = None) -> Indexed:
    if w.ndim == 1:
        raise Unsupported("the weight is a vector")
    m.contract(x, w, [(-1, 1)])
    y = Indexed((*x.axes[:-1], w.axes[0]))
    return y if b is None else add(m, y, b)


def matmul(m: Walk, x: Indexed, y: Indexed) -> Indexed:
    left = x if x.ndim > 1 else Indexed(((), *x.axes))
    right = y if y.ndim > 1 else Indexed((*y.axes, ()))
    rank = max(left.ndim, right.ndim)
    left, right = (Indexed(((),) * (rank - t.ndim) + t.axes) for t in (left, right))
    batch = [(d, d) for d in range(rank - 2)]
    m.contract(left, right, [(rank - 1, rank - 2)], batch)
    leading = [left.axes[d] or right.axes[d] for d, _ in batch]
    rows = () if x.ndim == 1 else (left.axes[-2],)
    columns = () if y.ndim == 1 else (right.axes[-1],)
    return Indexed((*leading, *rows, *columns))


def addmm(m: Walk, b: Indexed, x: Indexed, w: Indexed, *, beta: float = 1, alpha: float = 1) -> Indexed:
    y = matmul(m, x, w)
    return add(m, y, b) if beta else y


def addr(m: Walk, b: Indexed, x: Indexed, y: Indexed, *, beta: float = 1, alpha: float = 1) -> Indexed:
    z = outer(m, x, y)
    return add(m, z, b) if beta else z


def grouped(m: Walk, x: Indexed, w: Indexed, ends: Indexed | None = None, *_: Any, **__: Any) -> Indexed:
    """Blocks of rows with a matrix each."""
    if ends is None or x.ndim != 2 or w.ndim != 3:
        raise Unsupported("its blocks are not of rows, one matrix each")
    m.fix([*x.along([0]), *w.along([0])])
    m.contract(x, w, [(1, 1)])
    return Indexed((x.axes[0], w.axes[2]))


def inner(m: Walk, x: Indexed, y: Indexed) -> Indexed:
    return matmul(m, x, y if y.ndim < 2 else swap_last(m, y))


def outer(m: Walk, x: Indexed, y: Indexed) -> Indexed:
    return Indexed((*x.axes, *y.axes))


def bilinear(m: Walk, x: Indexed, y: Indexed, w: Indexed, b: Indexed | None = None) -> Indexed:
    """x_i w_kij y_j + b_k."""
    for t, column in ((x, 1), (y, 2)):
        m.contract(t, w, [(-1, column)])
    for d in range(x.ndim - 1):
        m.fix([*x.along([d]), *y.along([d])])
    out = Indexed((*x.axes[:-1], w.axes[0]))
    return out if b is None else add(m, out, b)


def einsum(m: Walk, equation: str, tensors: Sequence[Indexed], *, path: object = None) -> Indexed:
    """Products of tensors, two at a time: letters that the rest lacks are contracted."""
    names, right = parsed(equation, [t.ndim for t in tensors])
    x, at = tensors[0], names[0]
    for k in range(1, len(tensors) + 1):
        later = set(right).union(*names[k + 1 :])
        y, its = (tensors[k], names[k]) if k < len(tensors) else (Indexed(()), "")
        alone = {id(t): [i for i, c in enumerate(own) if c not in other and c not in later]
                 for t, own, other in ((x, at, its), (y, its, at))}  # fmt: skip
        (x, at), (y, its) = (
            (reduced(m, t, gone) if gone else t, "".join(c for i, c in enumerate(own) if i not in gone))
            for t, own, gone in ((x, at, alone[id(x)]), (y, its, alone[id(y)]))
        )
        shared = [c for c in at if c in its]
        m.contract(
            x,
            y,
            [(at.index(c), its.index(c)) for c in shared if c not in later],
            [(at.index(c), its.index(c)) for c in shared if c in later],
        )
        axes = dict(zip(its, y.axes, strict=True))
        axes |= {c: a for c, a in zip(at, x.axes, strict=True) if a or c not in its}
        kept = [c for c in axes if c in later]
        x, at = Indexed(tuple(axes[c] for c in kept)), "".join(kept)
    return Indexed(tuple(x.axes[at.index(c)] for c in right))


def conv_in_general(
    m: Walk, x: Indexed, w: Indexed, b: Indexed | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, *_: Any,
) -> Indexed:  # fmt: skip
    return _conv(m, x, w, b, groups, transposed)


def conv(m: Walk, x: Indexed, w: Indexed, b: Indexed | None = None, *others: Any, groups: int = 1) -> Indexed:
    """Linear along the channels, whatever happens over space."""
    return _conv(m, x, w, b, others[3] if len(others) > 3 else groups, transposed=False)


def conv_transpose(m: Walk, x: Indexed, w: Indexed, b: Indexed | None = None, *others: Any, groups: int = 1) -> Indexed:
    return _conv(m, x, w, b, others[3] if len(others) > 3 else groups, transposed=True)


def _conv(m: Walk, x: Indexed, w: Indexed, b: Indexed | None, groups: int, transposed: bool) -> Indexed:
    """Channels are (group, i) on the way in and (group, o) on the way out; each group has a matrix of its own."""
    assert m.node is not None
    batched = x.ndim == w.ndim
    batch, channels, *space = x.axes if batched else ((), *x.axes)
    first, second, *taps = w.axes
    x = Indexed((batch, *_in_groups(channels, groups), *space))
    w = Indexed((*_in_groups(first, groups), second, *taps))
    read, written = (1, 2) if transposed else (2, 1)
    m.contract(x, w, [(2, read)], [(1, 0)])
    over = [*x.along(range(3, x.ndim)), *w.along(range(3, w.ndim))]
    m.fix(over)
    m.separate([*x.along(range(3)), *w.along(range(3))], over)
    out = (*w.axes[0], *w.axes[written])
    if b is not None:
        m.alike(out, b.axes[0])
    where = m.unrelated(m.node.outputs[0].shape[2 if batched else 1 :]).axes
    return Indexed((batch, out, *where) if batched else (out, *where))


def _in_groups(channels: Axis, groups: int) -> tuple[Axis, ...]:
    """An axis as (group, channel)."""
    return regroup(channels, (groups, count(channels) // groups), nested=True)[0]


def attention(
    m: Walk,
    q: Indexed,
    k: Indexed,
    v: Indexed,
    mask: Indexed | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Indexed:
    """softmax(q k^T) v, heads along axis -3."""
    if enable_gqa and count(q.axes[-3]) != count(k.axes[-3]):
        k, v = (repeat_interleave(m, t, count(q.axes[-3]) // count(t.axes[-3]), -3) for t in (k, v))
    scores = matmul(m, q, swap_last(m, k))
    m.fix(scores.labels)
    if mask is not None:
        m.pointwise(scores, mask)
    return matmul(m, scores, v)


def recurrent(m: Walk, x: Indexed, states: Any, w: Sequence[Indexed], *others: Any) -> list[Indexed]:
    """Layers of a cell: linear in x, by the first weight of every direction of the first layer; all else is fixed."""
    assert m.node is not None
    if not others or isinstance(w, (bool, Indexed)):
        raise Unsupported("its sequences are packed: run it on padded ones")
    _biased, depth, _, _, both, *_ = others
    each = len(w) // (depth * (2 if both else 1))
    readers = [w[k * each] for k in range(2 if both else 1)]
    for reader in readers:
        m.contract(x, reader, [(-1, 1)])
    for d in range(x.ndim - 1):
        m.fix(x.along([d]))
    given = states if isinstance(states, (list, tuple)) else [states]
    for t in (*given, *(t for t in w if not any(t is r for r in readers))):
        m.fix(t.labels)
    for reader in readers:
        m.fix(reader.along([0]))
    return [m.unrelated(v.shape) for v in m.node.outputs]


def recurrent_cell(m: Walk, x: Indexed, states: Any, reader: Indexed, *w: Indexed | None) -> Any:
    """One step of a cell."""
    assert m.node is not None
    m.contract(x, reader, [(-1, 1)])
    given = states if isinstance(states, (list, tuple)) else [states]
    for t in (*given, *w):
        if t is not None:
            m.fix(t.labels)
    m.fix([*reader.along([0]), *x.along(range(x.ndim - 1))])
    return [m.unrelated(v.shape) for v in m.node.outputs]
