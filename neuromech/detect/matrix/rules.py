"""Operators that are linear along some of their indices and leave those as they are: one line an operator.

What has no line forbids that any of its indices is mixed; if it acts entry by entry, indices keep their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from neuromech.detect.matrix.indices import axis, leaves, length, regroup, unify
from neuromech.detect.matrix.walk import Indexed, Rule, Unsupported, Walk


def is_elementwise(op: str) -> bool:
    """True for operators that PyTorch itself tags as such, and for those that work along an axis but keep all axes."""
    packet = getattr(torch.ops.aten, op, None)
    if packet is None:
        return False
    return any(torch.Tag.pointwise in getattr(packet, name).tags for name in packet.overloads())


# -- one tensor -----------------------------------------------------------------------------------------------------


def identity(m: Walk, x: Indexed, *_: Any, **__: Any) -> Indexed:
    return x


def dropout(m: Walk, x: Indexed, p: float, train: bool) -> Indexed:
    return m.pointwise(x) if train and p else x


def keeps_axes(m: Walk, x: Indexed, *others: Any, **named: Any) -> Indexed:
    """Softmax, norms: not linear, but index by index the result is where the input was."""
    for t in (x, *others, *named.values()):
        if isinstance(t, Indexed):
            m.fix(t.labels)
    return x


def reduced(m: Walk, x: Indexed, dim: int | Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Indexed:
    """Sum and mean: linear, with the same weight for every entry."""
    every = dim is None or dim == []
    dims = set(range(x.ndim)) if every else {d % x.ndim for d in ([dim] if isinstance(dim, int) else dim or ())}
    m.fix(x.along(dims))
    return Indexed(tuple(() if d in dims else a for d, a in enumerate(x.axes) if keepdim or d not in dims))


def mean_pool(m: Walk, x: Indexed, *_: Any, **__: Any) -> Indexed:
    assert m.node is not None
    shape = m.node.outputs[0].shape
    spatial = 2 if "2d" in m.node.op else 1 if "1d" in m.node.op else 3
    return _moved(m, x, range(x.ndim - spatial, x.ndim), shape)


def _moved(m: Walk, x: Indexed, dims: Sequence[int], shape: Sequence[int]) -> Indexed:
    """Along `dims` everything may happen, as long as it is linear and the same for all other indices."""
    m.fix(x.along(dims))
    m.separate(x.along(d for d in range(x.ndim) if d not in dims), x.along(dims))
    return Indexed(tuple(m.unrelated([shape[d]]).axes[0] if d in dims else a for d, a in enumerate(x.axes)))


# -- movement -------------------------------------------------------------------------------------------------------


def view(m: Walk, x: Indexed, *how: object, **__: object) -> Indexed:
    assert m.node is not None
    if how and isinstance(how[0], torch.dtype):
        raise Unsupported("it reads the bits as numbers of another type")
    return Indexed(regroup(x.labels, m.node.outputs[0].shape))


def permute(m: Walk, x: Indexed, dims: Sequence[int]) -> Indexed:
    return Indexed(tuple(x.axes[d] for d in dims))


def transpose(m: Walk, x: Indexed, i: int, j: int) -> Indexed:
    dims = list(range(x.ndim))
    dims[i], dims[j] = dims[j], dims[i]
    return permute(m, x, dims)


def reverse(m: Walk, x: Indexed) -> Indexed:
    return permute(m, x, range(x.ndim - 1, -1, -1))


def swap_last(m: Walk, x: Indexed) -> Indexed:
    return transpose(m, x, -2, -1)


def expand(m: Walk, x: Indexed, *_: object, **__: object) -> Indexed:
    """New indices, on which nothing depends."""
    assert m.node is not None
    shape = m.node.outputs[0].shape
    (old,) = m.align(x) if x.ndim == len(shape) else (Indexed(((),) * (len(shape) - x.ndim) + x.axes),)
    return Indexed(tuple(a or m.unrelated([n]).axes[0] for a, n in zip(old.axes, shape, strict=True)))


def repeat_interleave(m: Walk, x: Indexed, repeats: Any, dim: int | None = None, **_: Any) -> Indexed:
    if not isinstance(repeats, int) or dim is None:
        raise Unsupported("it repeats entries unevenly")
    axes = list(x.axes)
    axes[dim] = (*leaves(axes[dim]), *m.unrelated([repeats]).axes[0])
    return Indexed(tuple(axes))


def select(m: Walk, x: Indexed, dim: int, index: int) -> Indexed:
    dim %= x.ndim
    n = length(x.axes[dim])
    m.fix(x.along([dim]))
    return m.block(x, x.axes[dim], index % n, [a for d, a in enumerate(x.axes) if d != dim])


def sliced(
    m: Walk, x: Indexed, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Indexed:
    """A block of an axis that is a whole number of such blocks; any other piece of an axis is a new axis."""
    assert m.node is not None
    dim %= x.ndim
    n, k = length(x.axes[dim]), m.node.outputs[0].shape[dim]
    first = min(max((start or 0) + (n if (start or 0) < 0 else 0), 0), n)
    return x if k == n else _cut(m, x, dim, first, k, step)


def _cut(m: Walk, x: Indexed, dim: int, first: int, k: int, step: int = 1) -> Indexed:
    n = length(x.axes[dim])
    if step != 1 or n % k or first % k:
        return _moved(m, x, [dim], [k] * x.ndim)
    selector = axis(n // k)
    unify((*selector, *axis(k)), x.axes[dim])
    whole, cut = leaves(x.axes[dim]), len(leaves(selector))
    m.fix(whole[:cut])
    axes = [tuple(whole[cut:]) if d == dim else a for d, a in enumerate(x.axes)]
    return m.block(x, tuple(whole[:cut]), first // k, axes)


def split(m: Walk, x: Indexed, sizes: int | Sequence[int], dim: int = 0) -> list[Indexed]:
    """`split`, `chunk` and `unsafe_split` by the shapes of what they made."""
    assert m.node is not None
    dim, start, out = dim % x.ndim, 0, []
    for v in m.node.outputs:
        out.append(_cut(m, x, dim, start, v.shape[dim]) if v.shape[dim] < length(x.axes[dim]) else x)
        start += v.shape[dim]
    return out


def unbind(m: Walk, x: Indexed, dim: int = 0) -> list[Indexed]:
    assert m.node is not None
    return [select(m, x, dim, i) for i in range(len(m.node.outputs))]


def joined(m: Walk, tensors: Sequence[Indexed], dim: int = 0) -> Indexed:
    """Concatenation: along the other axes the parts are mixed alike, or not at all."""
    assert m.node is not None
    tensors = [t for t in tensors if length(t.axes[dim % t.ndim])]  # an empty cache, for example
    if len(tensors) == 1:
        return tensors[0]
    dim %= tensors[0].ndim
    rest = [Indexed(tuple(() if d == dim else a for d, a in enumerate(t.axes))) for t in tensors]
    out = m.broadcast(*rest)
    for t in tensors:
        m.fix(t.along([dim]))
        m.separate(t.along(d for d in range(t.ndim) if d != dim), t.along([dim]))
    new = m.unrelated([m.node.outputs[0].shape[dim]]).axes[0]
    return Indexed(tuple(new if d == dim else a for d, a in enumerate(out.axes)))


def stacked(m: Walk, tensors: Sequence[Indexed], dim: int = 0) -> Indexed:
    assert m.node is not None
    out = m.broadcast(*tensors)
    dim %= out.ndim + 1
    return Indexed((*out.axes[:dim], m.unrelated([len(tensors)]).axes[0], *out.axes[dim:]))


def padded(m: Walk, x: Indexed, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Indexed:
    assert m.node is not None
    if mode == "constant" and value:
        raise Unsupported("it pads with a number that is not zero")
    return _moved(m, x, range(x.ndim - len(pad) // 2, x.ndim), m.node.outputs[0].shape)


def looked_up(m: Walk, weight: Indexed, index: Indexed, *_: Any, **__: Any) -> Indexed:
    """Rows of a table."""
    m.fix(weight.along([0]))
    m.separate(weight.along([1]), weight.along([0]))
    return Indexed((*index.axes, weight.axes[1]))


# -- sums and products ----------------------------------------------------------------------------------------------


def add(m: Walk, x: Indexed | float, y: Indexed | float, **_: Any) -> Indexed:
    """A sum (or difference): mixed alike, and nothing constant along a mixed index."""
    tensors = [t for t in (x, y) if isinstance(t, Indexed)]
    if len(tensors) < 2:
        return m.pointwise(tensors[0]) if any(t != 0 for t in (x, y) if not isinstance(t, Indexed)) else tensors[0]
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
    both = m.align(x, y)
    for d in range(both[0].ndim):
        if both[0].axes[d] and both[1].axes[d]:
            m.fix([*both[0].along([d]), *both[1].along([d])])
    return m.broadcast(x, y)


def div(m: Walk, x: Indexed | float, y: Indexed | float, *, rounding_mode: str | None = None) -> Indexed:
    if not isinstance(x, Indexed) or rounding_mode is not None:
        return m.pointwise(*(t for t in (x, y) if isinstance(t, Indexed)))
    if isinstance(y, Indexed):
        m.fix(y.labels)
    return mul(m, x, y)


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


def conv(m: Walk, x: Indexed, w: Indexed, b: Indexed | None = None, *others: Any, groups: int = 1) -> Indexed:
    """Linear along the channels, whatever happens over space."""
    return _conv(m, x, w, b, others[3] if len(others) > 3 else groups, transposed=False)


def conv_transpose(m: Walk, x: Indexed, w: Indexed, b: Indexed | None = None, *others: Any, groups: int = 1) -> Indexed:
    return _conv(m, x, w, b, others[3] if len(others) > 3 else groups, transposed=True)


def _conv(m: Walk, x: Indexed, w: Indexed, b: Indexed | None, groups: int, transposed: bool) -> Indexed:
    assert m.node is not None
    if groups != 1 or x.ndim != w.ndim:
        raise Unsupported("its channels are in groups, or there is no batch")
    read, written = (0, 1) if transposed else (1, 0)
    m.contract(x, w, [(1, read)])
    space = [*x.along(range(2, x.ndim)), *w.along(range(2, w.ndim))]
    m.fix(space)
    m.separate([*x.along([0, 1]), *w.along([0, 1])], space)
    out = m.unrelated(m.node.outputs[0].shape[2:])
    if b is not None:
        m.alike(w.axes[written], b.axes[0])
    return Indexed((x.axes[0], w.axes[written], *out.axes))


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
    if enable_gqa and length(q.axes[-3]) != length(k.axes[-3]):
        k, v = (repeat_interleave(m, t, length(q.axes[-3]) // length(t.axes[-3]), -3) for t in (k, v))
    scores = matmul(m, q, swap_last(m, k))
    m.fix(scores.labels)
    if mask is not None:
        m.pointwise(scores, mask)
    return matmul(m, scores, v)


IDENTITY = "to _to_copy clone contiguous alias lift_fresh positive type_as neg"
TABLE: dict[str, Rule] = {
    **dict.fromkeys(IDENTITY.split(), identity),
    **dict.fromkeys("dropout feature_dropout".split(), dropout),
    **dict.fromkeys(
        "softmax _softmax log_softmax layer_norm rms_norm group_norm batch_norm instance_norm".split(), keeps_axes
    ),
    **dict.fromkeys("sum mean".split(), reduced),
    **{f"{name}_pool{d}d": mean_pool for d in (1, 2, 3) for name in ("avg", "adaptive_avg")},
    **dict.fromkeys("view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as".split(), view),
    **dict.fromkeys("transpose swapaxes swapdims".split(), transpose),
    **dict.fromkeys("t numpy_T".split(), reverse),
    **dict.fromkeys("mT adjoint matrix_H".split(), swap_last),
    **dict.fromkeys("expand expand_as".split(), expand),
    **dict.fromkeys("split split_with_sizes unsafe_split chunk unsafe_chunk tensor_split".split(), split),
    "permute": permute,
    "repeat_interleave": repeat_interleave,
    "select": select,
    "slice": sliced,
    "unbind": unbind,
    **dict.fromkeys("cat concat concatenate".split(), joined),
    "stack": stacked,
    **dict.fromkeys("pad constant_pad_nd".split(), padded),
    "embedding": looked_up,
    **dict.fromkeys("add sub rsub".split(), add),
    "mul": mul,
    "div": div,
    "linear": linear,
    **dict.fromkeys("matmul mm bmm mv dot".split(), matmul),
    **dict.fromkeys("addmm baddbmm".split(), addmm),
    **{f"conv{d}d": conv for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": conv_transpose for d in (1, 2, 3)},
    "scaled_dot_product_attention": attention,
}
TABLE |= {f"{op}_": TABLE[op] for op in "add sub mul div neg dropout".split()}
