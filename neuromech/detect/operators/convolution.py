"""Convolutions: a kernel that walks over the trailing axes, and its adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce
from math import prod
from typing import Any

from neuromech.detect import told_apart
from neuromech.detect.abstract import Abstract, Unsupported
from neuromech.detect.axes import Label, axis, count, leaves
from neuromech.detect.data import Data, Stride
from neuromech.detect.expr import Expr
from neuromech.detect.interpret import Interpreter
from neuromech.detect.matrix import products as mixing
from neuromech.detect.operator import define
from neuromech.detect.operators.index import FEW, equal_along, length, select, stack, take
from neuromech.detect.operators.linear import einsum, plus
from neuromech.detect.operators.movement import reshaped
from neuromech.detect.refine import Renaming, unify


def _grouped(x: Abstract, w: Abstract, groups: int, read: int) -> tuple[Abstract, Abstract]:
    """x as (batch, group, channel, space) and w as (group, .., .., taps), whose axis `read` is that channel."""
    if x.ndim < w.ndim:
        x = replace(x, axes=((), *x.axes))
    batch, channels, *space = map(count, x.axes)
    x = reshaped(x, (batch, groups, channels // groups, *space))
    first, *others = map(count, w.axes)
    w = reshaped(w.fresh(), (groups, first // groups, *others))
    w = w.rename(unify(x.axes[1], w.axes[0]))  # two convolutions of one x see the same indices
    return x, w.rename(unify(x.axes[2], w.axes[read]))


def _biased(s: Interpreter, y: Abstract, b: Abstract | None, batched: bool) -> Abstract:
    """y (batch, channels, space) plus a bias of channels; without the batch axis if there was none."""
    if b is not None:
        y = plus(s, y, replace(b, axes=(*b.axes, *((),) * (y.ndim - 2))))
    return y if batched else replace(y, axes=y.axes[1:])


def option_of(option: Any, d: int) -> Any:
    """An option of a convolution for one of its axes."""
    return option[d if len(option) > 1 else 0] if isinstance(option, (list, tuple)) else option


def taps_met(n: int, k: int, out: int, stride: int, padding: int | str, dilation: int) -> tuple[range, bool]:
    """Which of k taps meet any of n entries, and whether one of these meets the zeros around them as well."""
    first = [start_of(t, k, padding, dilation) for t in range(k)]
    # The first place at which it is not ahead of the entries must not be past them.
    places = [max(0, -(at // stride)) for at in first]
    seen = [t for t, at, o in zip(range(k), first, places, strict=True) if o < out and at + o * stride < n]
    if not seen:
        raise Unsupported("its kernel meets nothing but zeros")
    taken = range(seen[0], seen[-1] + 1)
    return taken, first[taken[0]] < 0 or first[taken[-1]] + (out - 1) * stride >= n


def start_of(tap: int, k: int, padding: int | str, dilation: int) -> int:
    """Where one of k taps stands at the first place of the kernel."""
    before = padding if isinstance(padding, int) else dilation * (k - 1) // 2 if padding == "same" else 0
    return tap * dilation - before


def conv(
    s: Interpreter,
    x: Abstract,
    w: Abstract,
    b: Abstract | None = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> Abstract:
    """Convolution over the trailing axes; channels are (group, i) on the way in and (group, o) on the way out."""
    assert s.node is not None
    batched = x.ndim == w.ndim
    padded, strides = False, []
    for d in range(2, w.ndim):
        n, k, out = count(x.axes[d - w.ndim]), count(w.axes[d]), s.node.outputs[0].shape[d - w.ndim]
        by, around, apart = (option_of(option, d - 2) for option in (stride, padding, dilation))
        seen, beyond = taps_met(n, k, out, by, around, apart)
        w, padded = take(s, w, d, seen), padded or beyond
        strides.append(Stride(by, start_of(seen[0], k, around, apart), apart if len(seen) > 1 else 0, len(seen)))
    x, w = _grouped(x, w, groups, read=2)
    places = s.node.outputs[0].shape[2 if batched else 1 :]
    walks = list(zip(strides, places, strict=True))
    if _few_of_which_some_are_equal(x, walks):
        y = _place_by_place(s, x, w, walks)
        return _biased(s, replace(y, axes=(y.axes[0], (*y.axes[1], *y.axes[2]), *y.axes[3:])), b, batched)
    # Along an axis on which the kernel has one tap and meets every entry, places stay what they are.
    kept = [d for d, (walk, n) in enumerate(walks, 3) if walk == (1, 0, 0, 1) and n == length(x, d)]
    channels, space_in = w.along([2]), x.along(range(3, x.ndim))
    gone = x.along([d for d in range(3, x.ndim) if d not in kept])
    space_out = tuple(
        tuple(Label(q.atom) for q in leaves(x.axes[d])) if d in kept else axis(n) for d, n in enumerate(places, 3)
    )
    where = [q for a in space_out for q in a]
    geometry = ("conv", tuple(map(count, x.axes[3:])), tuple(map(count, space_out)))
    w = s.kernels.lined_up((x.data, geometry), strides, w, range(3, w.ndim))  # the same places within a patch of x
    taps = w.along(range(3, w.ndim))

    scale = s.scaling.uniform(s.scaling.uniform(x.scale, gone) + w.scale, [*channels, *taps])
    # What the weight multiplies are patches of x: the same numbers for every tap that stands at the same places.
    walk = list(zip(strides, w.axes[3:], strict=True))
    patches = x.data.walked(geometry, [*space_in, *where], walk, across=space_in, padded=padded)
    of_weight = w.shift.times(patches).summed([*channels, *taps, *space_in])
    same = Renaming({q: p for d in kept for q, p in zip(space_out[d - 3], leaves(x.axes[d]), strict=True)})
    # Of all entries a tap meets one at every place, unless there are zeros around.
    met = Data(((*geometry, *strides),), (*gone, *taps, *where), sums=() if padded else ((tuple(gone), 1),))
    local, constant = (x.shift, Expr()) if padded else x.shift.split(gone)
    of_input = (local.times(met) + constant).times(w.data).summed([*channels, *taps, *gone])
    axes = (x.axes[0], (*w.axes[0], *w.axes[1]), *space_out)
    y = s.result(axes, shift=of_weight).rename(same)
    return _biased(s, replace(y, scale=scale, shift=y.shift + of_input.rename(same)), b, batched)


Walks = Sequence[tuple[Stride, int]]  # along every axis, and at how many places the kernel stands there


def _few_of_which_some_are_equal(x: Abstract, walks: Walks) -> bool:
    """True if a kernel meets few entries of x (batch, group, in, space), some of which are known to be the same."""
    if prod(n * walk.n for walk, n in walks) > 2 * FEW**2 or not any(equal_along(x, d) for d in range(3, x.ndim)):
        return False
    every = ((walk, o, length(x, d)) for d, (walk, n) in enumerate(walks, 3) for o in range(n))
    return all(_met(*one) for one in every)


def _met(walk: Stride, place: int, n: int) -> list[tuple[int, int]]:
    """Which of n entries the taps of a kernel stand at, and which taps those are."""
    return [(p, t) for p, t in walk.at(place) if 0 <= p < n]


def _place_by_place(s: Interpreter, x: Abstract, w: Abstract, walks: Walks) -> Abstract:
    """The kernel (group, out, in, taps) at every place of x (batch, group, in, space) by itself."""
    if not walks:
        return einsum(s, "bgi,goi->bgo", [x, w])
    (walk, places), *rest = walks

    def at(place: int) -> Abstract:
        met = _met(walk, place, length(x, 3))
        return reduce(
            partial(plus, s),
            (_place_by_place(s, select(s, x, 3, p), select(s, w, 3, t), rest) for p, t in met),
        )

    return stack(s, [at(place) for place in range(places)], 3)


def conv_transpose(
    s: Interpreter,
    x: Abstract,
    w: Abstract,
    b: Abstract | None = None,
    stride: object = 1,
    padding: object = 0,
    output_padding: object = 0,
    groups: int = 1,
    dilation: object = 1,
) -> Abstract:
    """The adjoint of a convolution: w is (group i, o, taps)."""
    assert s.node is not None
    batched = x.ndim == w.ndim
    x, w = _grouped(x, w, groups, read=1)
    rest, space_in, taps = w.along([1]), x.along(range(3, x.ndim)), w.along(range(3, w.ndim))
    space_out = tuple(axis(n) for n in s.node.outputs[0].shape[2 if batched else 1 :])
    where = [q for a in space_out for q in a]
    scale = s.scaling.uniform(s.scaling.uniform(x.scale, space_in) + w.scale, [*rest, *taps])
    geometry = ("conv_transpose", str(stride), str(padding), str(output_padding), str(dilation))
    patches, kernel = (
        t.data.derived((*geometry, i), *space_in, *taps, *where, across=[*space_in, *taps])
        for i, t in enumerate((x, w))
    )
    shift = (w.shift.times(patches) + x.shift.times(kernel)).summed([*rest, *taps, *space_in])
    y = s.result((x.axes[0], (*w.axes[0], *w.axes[2]), *space_out), scale, shift)
    return _biased(s, y, b, batched)


def conv_in_general(
    s: Interpreter, x: Abstract, w: Abstract, b: Abstract | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, *_: Any,
) -> Abstract:  # fmt: skip
    if transposed:
        return conv_transpose(s, x, w, b, stride, padding, output_padding, groups, dilation)
    return conv(s, x, w, b, stride, padding, dilation, groups)


define("conv1d conv2d conv3d", conv, mixing.conv, apart=told_apart.places)
define(
    "conv_transpose1d conv_transpose2d conv_transpose3d", conv_transpose, mixing.conv_transpose, apart=told_apart.places
)
define("convolution", conv_in_general, mixing.conv_in_general, apart=told_apart.places)
