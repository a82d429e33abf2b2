"""Solutions of the equations -> `Symmetry` objects that say what moves and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from neuromech.detect.axes import Label
from neuromech.detect.explain import Events, Shapes, reason
from neuromech.detect.equations import Component
from neuromech.detect.expr import Unknown
from neuromech.detect.interpret import Domain
from neuromech.detect.solve import Family
from neuromech.symmetry import Kind, Part, Symmetry, Term


def symmetries(families: Sequence[Family], domain: Domain, shapes: Shapes, translation: bool) -> list[Symmetry]:
    """The families of one domain as symmetries; `shapes` are those of the parameters."""
    events = Events(domain.events)
    out = []
    for family in families:
        terms = tuple(_term(c, family, shapes) for c in family.vector)
        one_sign = len({w > 0 for w in family.vector.values()}) == 1
        kind: Kind = "translation" if translation else "scale" if one_sign else "rescale"
        seen = events.on(family.solution)
        broken = tuple(dict.fromkeys(e.broken_by for e in seen if e.broken_by))
        out.append(Symmetry(kind, family.size, terms, reason(kind, terms, seen, shapes), broken_by=broken))
    return out


def _term(component: Component, family: Family, shapes: Shapes) -> Term:
    """A component as a slice of its parameter, whose axes are cut only where the family needs it."""
    unknown, _ = component
    assert unknown.name is not None
    shape, indices = shapes[unknown.name], unknown.indices()
    positions = family.aligned(component)
    runs = [tuple(positions[j] for j in run) for run in _runs(family, shapes)]
    cuts = {i for run in runs for i in (run[0], run[-1] + 1)}
    whole = prod(x.n for x, _ in indices) == prod(shape)
    view: list[int] = []
    strides: list[int] = []
    place: dict[int, int] = {}  # position among the indices -> axis of the view
    for factors in _factors(shape, indices):
        for k, i in enumerate(factors):
            length, stride = indices[i][0].n, indices[i][1]
            if k == 0 or i in cuts or strides[-1] != length * stride:
                view.append(1)
                strides.append(stride)
            view[-1] *= length
            strides[-1] = stride
            place[i] = len(view) - 1
        if not factors and whole:
            view.append(1)
            strides.append(1)
    axes = tuple(place[run[0]] for run in runs)
    axis = None if not axes else axes[0] if len(axes) == 1 else axes
    if not whole:
        part: Part | None = block(shape, tuple(view), tuple(strides), unknown.start)
    else:
        part = Part(tuple(view)) if tuple(view) != shape else None
    return Term(unknown.name, axis, family.vector[component], part)


def block(shape: Sequence[int], view: tuple[int, ...], strides: tuple[int, ...], start: int) -> Part:
    """A block of a parameter, in the words of slices where it is one."""
    steps = [prod(shape[d + 1 :]) for d in range(len(shape))]
    left, words, axis = start, [], 0
    for n, step in zip(shape, steps, strict=True):
        first, left = divmod(left, step)
        if axis < len(view) and strides[axis] == step and (axis + 1 == len(view) or strides[axis + 1] < step):
            stop = first + view[axis]
            words.append(":" if view[axis] == n else f"{first}:{stop}")
            axis += 1
        else:
            words.append(str(first) if n > 1 else ":")
    while words and words[-1] == ":":
        words.pop()
    said = f"[{', '.join(words)}]" if axis == len(view) else f".as_strided({view}, {strides}, {start})"
    return Part(view, (), strides, start, said)


def _runs(family: Family, shapes: Shapes) -> list[list[int]]:
    """The family's indices, joined where every component has them side by side: (channel, pixel) is one index then."""
    places = [(u, family.aligned((u, p))) for u, p in family.vector]
    runs: list[list[int]] = []
    for j in range(len(family.indices)):
        together = j > 0 and all(_side_by_side(u, at[j - 1], at[j], shapes) for u, at in places)
        if together:
            runs[-1].append(j)
        else:
            runs.append([j])
    return runs


def _side_by_side(unknown: Unknown, i: int, j: int, shapes: Shapes) -> bool:
    """True if index j of a function follows index i in one axis of its parameter."""
    indices = unknown.indices()
    if j != i + 1 or indices[i][1] != indices[j][1] * indices[j][0].n:
        return False
    assert unknown.name is not None
    return any(i in run and j in run for run in _factors(shapes[unknown.name], indices))


def _factors(shape: Sequence[int], indices: Sequence[tuple[Label, int]]) -> Iterator[list[int]]:
    """For every axis of `shape`, the positions of the indices that run along it."""
    for d, n in enumerate(shape):
        step = prod(shape[d + 1 :])
        yield [i for i, (x, k) in enumerate(indices) if step <= k < step * n]
