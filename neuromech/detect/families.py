"""Solutions of the equations -> `Symmetry` objects that say what moves and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neuromech.detect.axes import leaves
from neuromech.detect.explain import Events, Shapes, reason
from neuromech.detect.expr import Component, Unknown
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
    shape, lengths = shapes[unknown.name], [x.n for x in leaves(unknown.labels)]
    positions = family.aligned(component)
    runs = [tuple(positions[j] for j in run) for run in _runs(family)]
    cuts = {i for run in runs for i in (run[0], run[-1] + 1)}
    view: list[int] = []
    place: dict[int, int] = {}  # position among the atoms -> axis of the view
    for factors in _factors(shape, lengths):
        for k, i in enumerate(factors):
            if k == 0 or i in cuts:
                view.append(1)
            view[-1] *= lengths[i]
            place[i] = len(view) - 1
        if not factors:
            view.append(1)
    axes = tuple(place[run[0]] for run in runs)
    axis = None if not axes else axes[0] if len(axes) == 1 else axes
    return Term(unknown.name, axis, family.vector[component], Part(tuple(view)) if tuple(view) != shape else None)


def _runs(family: Family) -> list[list[int]]:
    """The family's indices, joined where every component has them side by side: (channel, pixel) is one index then."""
    places = [(u, family.aligned((u, p))) for u, p in family.vector]
    runs: list[list[int]] = []
    for j in range(len(family.indices)):
        together = j > 0 and all(at[j] == at[j - 1] + 1 and _same_axis(u, at[j - 1], at[j]) for u, at in places)
        if together:
            runs[-1].append(j)
        else:
            runs.append([j])
    return runs


def _same_axis(unknown: Unknown, i: int, j: int) -> bool:
    """True if two atoms of a function are factors of one axis of its parameter."""
    owner = [k for k, label in enumerate(unknown.labels) for _ in label.leaves()]
    return owner[i] == owner[j]


def _factors(shape: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """For every axis of `shape`, the positions of the atoms that it is made of."""
    i = 0
    for n in shape:
        start, have = i, 1
        while have < n:
            have *= lengths[i]
            i += 1
        yield list(range(start, i))
