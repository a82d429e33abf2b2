"""Movement: the same entries at other places. Axes are regrouped, nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from neuromech.detect import unread
from neuromech.detect.abstract import Abstract, Unsupported
from neuromech.detect.axes import Label, axis
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import movement as mixing
from neuromech.detect.operator import define
from neuromech.detect.refine import regroup
from neuromech.detect.subscripts import moved_axes


def view(s: Interpreter, x: Abstract, *how: object, **__: object) -> Abstract:
    """Any reshape: the same entries in the same order, under the shape that was recorded."""
    assert s.node is not None
    if how and isinstance(how[0], torch.dtype):
        raise Unsupported("it reads the bits as numbers of another type")
    return reshaped(x, s.node.outputs[0].shape)


def reshaped(x: Abstract, shape: Sequence[int]) -> Abstract:
    """The same entries in the same order, under another shape."""
    others: list[tuple[Sequence[Label], Sequence[Label]]] = []

    def anew(of: Sequence[Label], to: Sequence[Label]) -> bool:
        nonlocal x
        out = x.multiplied_out(of)
        if not out.only_data_along(of):
            return False
        x = out
        others.append((of, to))
        return True

    axes, names = regroup(x.labels, shape, anew=anew)
    for of, to in others:
        x = x.relabelled(("reshaped", *(y.n for y in (*of, *to))), of, to)
    return x.rename(names, axes)


def permute(s: Interpreter, x: Abstract, dims: Sequence[int]) -> Abstract:
    return replace(x, axes=tuple(x.axes[d] for d in dims))


def transpose(s: Interpreter, x: Abstract, i: int, j: int) -> Abstract:
    dims = list(range(x.ndim))
    dims[i], dims[j] = dims[j], dims[i]
    return permute(s, x, dims)


def movedim(s: Interpreter, x: Abstract, source: int | Sequence[int], destination: int | Sequence[int]) -> Abstract:
    """Some axes to other places, the rest in their order."""
    return permute(s, x, moved_axes(x.ndim, source, destination))


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


_VIEWS = "view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as"
define(_VIEWS, view, mixing.view, same_content=True, for_complex=True, rows=unread.viewed)
define("permute", permute, mixing.permute, same_content=True, for_complex=True, rows=unread.permuted)
define(
    "transpose swapaxes swapdims",
    transpose,
    mixing.transpose,
    same_content=True,
    for_complex=True,
    rows=unread.permuted,
)
define("movedim moveaxis", movedim, mixing.movedim, same_content=True, for_complex=True)
define("t numpy_T", reverse, mixing.reverse, same_content=True, for_complex=True)
define("mT adjoint matrix_H", swap_last, mixing.swap_last, same_content=True)
define("expand expand_as broadcast_to", expand, mixing.expand, same_content=True, for_complex=True)
define("broadcast_tensors", broadcast_tensors, mixing.broadcast_tensors, same_content=True)
