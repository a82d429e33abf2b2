"""Blocks of parameters: strided views, joined where they lie side by side, and the words for them.

A solution speaks of single blocks (the first half of every head, the second half of every head), because it was found
where axes had been cut. People want to read, and charges to sum, the largest block that moves as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations, pairwise
from math import prod

from neuromech.symmetry import Part, Term

Dim = tuple[int, int]  # (length, stride)


@dataclass(frozen=True)
class StridedBlock:
    """What one member moves in one parameter, for all members: `family` counts members, `rest` what moves together.

    Element (i, j ..) stands at start + i * stride_i + j * stride_j + .. of the parameter's elements in row-major order.
    """

    parameter: str
    weight: Fraction
    start: int
    family: tuple[Dim, ...]
    rest: tuple[Dim, ...]  # longest stride first

    def _alike(self) -> tuple[object, ...]:
        return self.parameter, self.weight, self.family


def joined(blocks: Iterable[StridedBlock], shapes: Mapping[str, tuple[int, ...]]) -> list[StridedBlock]:
    """The same elements in as few blocks as possible, each where the first of its blocks stood."""
    alike: dict[tuple[object, ...], dict[int, StridedBlock]] = {}
    for i, block in enumerate(blocks):
        alike.setdefault(block._alike(), {})[i] = _tidy(block, shapes[block.parameter])
    left = {i: block for group in alike.values() for i, block in _united(group, shapes).items()}
    return [left[i] for i in sorted(left)]


def _united(group: dict[int, StridedBlock], shapes: Mapping[str, tuple[int, ...]]) -> dict[int, StridedBlock]:
    """Blocks that only differ in where they are, and how long, united until no two of them are one."""
    while True:
        for (i, a), (j, b) in combinations(group.items(), 2):
            if (union := _pair(a, b)) is not None:
                group[i] = _tidy(union, shapes[a.parameter])
                del group[j]
                break
        else:
            return group


def _pair(a: StridedBlock, b: StridedBlock) -> StridedBlock | None:
    """The union of two blocks that are alike, if it is one."""
    a, b = sorted((a, b), key=lambda x: x.start)
    step = b.start - a.start
    if a.rest == b.rest:  # one beside the other, or one more in a row of blocks
        return replace(a, rest=_ordered([*a.rest, (2, step)])) if step else None
    mine, other = set(a.rest) - set(b.rest), set(b.rest) - set(a.rest)
    if len(mine) == 1 and len(other) <= 1 and len(a.rest) - len(b.rest) in (0, 1):
        ((n, k),) = mine
        m, same = next(iter(other), (1, k))
        if same == k and step == n * k:
            return replace(a, rest=_ordered([*(d for d in a.rest if d != (n, k)), (n + m, k)]))
    if not mine and len(other) == 1:
        ((m, k),) = other
        if step == k:
            return replace(a, rest=_ordered([*a.rest, (m + 1, k)]))
    return None


def _ordered(dims: Iterable[Dim]) -> tuple[Dim, ...]:
    return tuple(sorted(dims, key=lambda d: -d[1]))


def _tidy(block: StridedBlock, shape: Sequence[int]) -> StridedBlock:
    """Dimensions that follow one another within an axis of the parameter are one, and one that runs on over the next
    axes is one of each."""
    rest: list[Dim] = []
    for n, k in (part for dim in block.rest for part in _by_axes(dim, shape)):
        if rest and rest[-1][1] == n * k and _axis(rest[-1][1], shape) == _axis(k, shape):
            rest[-1] = (rest[-1][0] * n, k)
        elif n > 1:
            rest.append((n, k))
    return replace(block, rest=tuple(rest))


def _by_axes(dim: Dim, shape: Sequence[int]) -> list[Dim]:
    """All nine pixels of a 3 x 3 kernel, one behind the other, as three rows of three."""
    n, k = dim
    most = prod(shape[_axis(k, shape) :]) // k  # that fit into the axis
    return [*_by_axes((n // most, k * most), shape), (most, k)] if 1 < most < n and n % most == 0 else [dim]


def _axis(stride: int, shape: Sequence[int]) -> int:
    """The axis of a parameter that a stride goes along."""
    return next(d for d in range(len(shape)) if prod(shape[d + 1 :]) <= stride and shape[d] > 1)


def members_joined(blocks: Sequence[StridedBlock], shapes: Mapping[str, tuple[int, ...]]) -> list[StridedBlock]:
    """Indices of the family that follow one another in every block are one: (channel, pixel) of a flattened axis."""
    out = list(blocks)
    j = 1
    while j < len(out[0].family):
        if all(_follow(b.family[j - 1], b.family[j], shapes[b.parameter]) for b in out):
            out = [
                replace(
                    b,
                    family=(
                        *b.family[: j - 1],
                        (b.family[j - 1][0] * b.family[j][0], b.family[j][1]),
                        *b.family[j + 1 :],
                    ),
                )
                for b in out
            ]
        else:
            j += 1
    return out


def _follow(slow: Dim, fast: Dim, shape: Sequence[int]) -> bool:
    return slow[1] == fast[0] * fast[1] and _axis(slow[1], shape) == _axis(fast[1], shape)


def series(families: Sequence[list[StridedBlock]]) -> list[StridedBlock] | None:
    """Families that are the same but for where they stand, as one with another index; None if they do not line up."""
    first = families[0]
    if any(len(f) != len(first) for f in families):
        return None
    out = []
    for column in zip(*families, strict=True):
        steps = {b.start - a.start for a, b in pairwise(column)}
        if len({replace(b, start=0) for b in column}) > 1 or len(steps) > 1 or 0 in steps or min(steps) < 0:
            return None
        out.append(replace(column[0], family=((len(families), steps.pop()), *column[0].family)))
    return out


def term(block: StridedBlock, shape: tuple[int, ...]) -> Term:
    """The block as a term: a view of the parameter where it is the whole of it, a strided part where it is not."""
    dims = sorted(
        [(*d, j) for j, d in enumerate(block.family)] + [(*d, -1) for d in block.rest], key=lambda d: (-d[1], d[2])
    )
    whole = prod(n for n, _, _ in dims) == prod(shape)
    view: list[int] = []
    strides: list[int] = []
    place: dict[int, int] = {}
    for d, n in enumerate(shape):
        here = [x for x in dims if n > 1 and _axis(x[1], shape) == d]
        for length, stride, j in here:
            place[j] = len(view)
            view.append(length)
            strides.append(stride)
        if not here and whole:
            view.append(1)
            strides.append(1)
    axes = tuple(place[j] for j in range(len(block.family)))
    axis = None if not axes else axes[0] if len(axes) == 1 else axes
    part: Part | None = None
    if not whole:
        part = Part(tuple(view), (), tuple(strides), block.start, _words(shape, view, strides, block.start))
    elif tuple(view) != shape:
        part = Part(tuple(view))
    return Term(block.parameter, axis, block.weight, part)


def _words(shape: Sequence[int], view: Sequence[int], strides: Sequence[int], start: int) -> str:
    """A block in the words of slices: "[0:64]", "[:, 1::2]"; as a strided view where it is not a slice."""
    left, words, k = start, [], 0
    for d, n in enumerate(shape):
        step = prod(shape[d + 1 :])
        first, left = divmod(left, step)
        here = [i for i in range(k, len(view)) if n > 1 and _axis(strides[i], shape) == d]
        if len(here) > 1:
            return f".as_strided({tuple(view)}, {tuple(strides)}, {start})"
        if here:
            by, length = strides[k] // step, view[k]
            stop = first + (length - 1) * by + 1
            words.append(":" if length == n else f"{first}:{stop}" + (f":{by}" if by > 1 else ""))
            k += 1
        else:
            words.append(str(first) if n > 1 else ":")
    while words and words[-1] == ":":
        words.pop()
    return f"[{', '.join(words)}]"
