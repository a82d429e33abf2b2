"""Movement: the same entries at other places. Axes are regrouped, nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from neuromech.detect.abstract import Abstract, Unsupported
from neuromech.detect.axes import axis
from neuromech.detect.interpret import Interpreter
from neuromech.detect.refine import regroup


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


def movedim(s: Interpreter, x: Abstract, source: int | Sequence[int], destination: int | Sequence[int]) -> Abstract:
    """Some axes to other places, the rest in their order."""
    given = [[d] if isinstance(d, int) else d for d in (source, destination)]
    here, there = ([d % x.ndim for d in ds] for ds in given)
    rest = iter(d for d in range(x.ndim) if d not in here)
    return permute(s, x, [here[there.index(d)] if d in there else next(rest) for d in range(x.ndim)])


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


def as_complex(s: Interpreter, x: Abstract) -> Abstract:
    """Pairs of numbers as complex ones: the two of a pair are mixed from now on."""
    over = x.along([-1])
    s.translation.vanish(x.shift)
    return s.result(x.axes[:-1], s.scaling.uniform(x.scale, over))


def as_real(s: Interpreter, x: Abstract) -> Abstract:
    """Complex numbers as pairs."""
    return s.result((*x.axes, axis(2)), x.scale)


TABLE: dict[str, Callable[..., Any]] = {
    **dict.fromkeys("view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as".split(), view),
    **dict.fromkeys("transpose swapaxes swapdims".split(), transpose),
    **dict.fromkeys("t numpy_T".split(), reverse),
    **dict.fromkeys("mT adjoint matrix_H".split(), swap_last),
    **dict.fromkeys("expand expand_as broadcast_to".split(), expand),
    **dict.fromkeys("movedim moveaxis".split(), movedim),
    "permute": permute,
    "broadcast_tensors": broadcast_tensors,
    "view_as_complex": as_complex,
    "view_as_real": as_real,
}
