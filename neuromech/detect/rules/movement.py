"""Movement: the same entries at other places. Axes are regrouped, nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from neuromech.detect.axes import axis, regroup
from neuromech.detect.interpret import Abstract, Interpreter, Unsupported


def view(s: Interpreter, x: Abstract, *how: object, **__: object) -> Abstract:
    """Any reshape: the same entries in the same order, under the shape that was recorded."""
    assert s.node is not None
    if how and isinstance(how[0], torch.dtype):
        raise Unsupported("it reads the bits as numbers of another type")
    axes, names = regroup(x.labels, s.node.outputs[0].shape)
    return x.rename(names, axes)


def permute(s: Interpreter, x: Abstract, dims: Sequence[int]) -> Abstract:
    return replace(x, axes=tuple(x.axes[d] for d in dims))


def transpose(s: Interpreter, x: Abstract, i: int, j: int) -> Abstract:
    dims = list(range(x.ndim))
    dims[i], dims[j] = dims[j], dims[i]
    return permute(s, x, dims)


def reverse(s: Interpreter, x: Abstract) -> Abstract:
    return permute(s, x, range(x.ndim - 1, -1, -1))


def swap_last(s: Interpreter, x: Abstract) -> Abstract:
    return transpose(s, x, -2, -1)


def expand(s: Interpreter, x: Abstract, *_: object, **__: object) -> Abstract:
    """Broadcasting by hand: new indices, on which nothing depends."""
    assert s.node is not None
    shape = s.node.outputs[0].shape
    old = ((),) * (len(shape) - x.ndim) + x.axes
    return replace(x, axes=tuple(a or axis(n) for a, n in zip(old, shape, strict=True)))


def broadcast_tensors(s: Interpreter, tensors: Sequence[Abstract]) -> list[Abstract]:
    """Each of the tensors, expanded to the shape that they have together."""
    assert s.node is not None
    aligned = s.broadcast(*tensors)
    whole = [a or axis(n) for a, n in zip(s.joint(aligned), s.node.outputs[0].shape, strict=True)]
    return [replace(t, axes=tuple(a or b for a, b in zip(t.axes, whole, strict=True))) for t in aligned]


TABLE: dict[str, Callable[..., Any]] = {
    **dict.fromkeys("view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as".split(), view),
    **dict.fromkeys("transpose swapaxes swapdims".split(), transpose),
    **dict.fromkeys("t numpy_T".split(), reverse),
    **dict.fromkeys("mT adjoint matrix_H".split(), swap_last),
    **dict.fromkeys("expand expand_as".split(), expand),
    "permute": permute,
    "broadcast_tensors": broadcast_tensors,
}
