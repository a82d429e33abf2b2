"""Solutions of the equations -> `Symmetry` objects that say what moves and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from neuromech.detect.axes import leaves
from neuromech.detect.expr import Component, Unknown, components
from neuromech.detect.interpret import Domain, Event
from neuromech.detect.solve import Family, Vector
from neuromech.symmetry import Kind, Part, Symmetry, Term


def symmetries(
    families: Sequence[Family], domain: Domain, shapes: dict[str, tuple[int, ...]], translation: bool
) -> list[Symmetry]:
    """The families of one domain as symmetries; `shapes` are those of the parameters."""
    happened = _Happened(domain.events)
    out = []
    for family in families:
        terms = tuple(_term(c, family, shapes) for c in family.vector)
        one_sign = len({w > 0 for w in family.vector.values()}) == 1
        kind: Kind = "translation" if translation else "scale" if one_sign else "rescale"
        seen = happened.to(family.solution)
        broken = tuple(dict.fromkeys(e.broken_by for e in seen if e.broken_by))
        out.append(Symmetry(kind, family.size, terms, _reason(kind, terms, seen, shapes), broken_by=broken))
    return out


def _term(component: Component, family: Family, shapes: dict[str, tuple[int, ...]]) -> Term:
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


class _Happened:
    """Events, to be looked up by the solutions that they happen to."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self._entries: dict[Component, list[tuple[int, object, Fraction]]] = {}
        for n, event in enumerate(events):
            for f, c in event.expr.terms.items():
                for subset, component in components(f):
                    self._entries.setdefault(component, []).append((n, (subset, f.data), c))

    def to(self, solution: Vector) -> list[Event]:
        """The events whose expression is not zero under the solution, in order."""
        values: dict[tuple[int, object], Fraction] = {}
        for component, w in solution.items():
            for n, key, c in self._entries.get(component, ()):
                values[n, key] = values.get((n, key), Fraction(0)) + c * w
        return [self.events[n] for n in sorted({n for (n, _), value in values.items() if value})]


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def _words(terms: Sequence[Term], shapes: dict[str, tuple[int, ...]]) -> str:
    """Slices in words: "conv1.weight and conv1.bias rows", "fc.weight columns in 64 blocks of 16"."""
    groups: dict[str, list[str]] = {}
    for t in terms:
        shape, view = shapes[t.parameter], t.part.shape if t.part else shapes[t.parameter]
        names = {(): "as a whole" if shape else "", (0,): "entries" if len(shape) == 1 else "rows", (1,): "columns"}
        which = names.get(t.axes, f"slices along axes {_listed(list(map(str, t.axes)))}")
        if len(t.axes) == len(view):
            which = "entries"
        elif view != shape:
            which = f"slices along axes {_listed(list(map(str, t.axes)))} of the view {view}"
            if len(shape) == 2 and len(view) == 3 and t.axes == (1,) and view[0] == shape[0]:
                which = f"columns in {view[1]} blocks of {view[2]}"
        groups.setdefault(which, []).append(t.parameter)
    return _listed([f"{_listed(names)} {which}".strip() for which, names in groups.items()])


def _reason(kind: Kind, terms: Sequence[Term], events: Sequence[Event], shapes: dict[str, tuple[int, ...]]) -> str:
    up, down = ([t for t in terms if t.weight * sign > 0] for sign in (1, -1))

    def why(verb: str, otherwise: str) -> str:
        return _listed(list(dict.fromkeys(e.words for e in events if e.verb == verb))) or otherwise

    if kind == "translation":
        against = f" against {_words(down, shapes)}" if down else " by a constant"
        absorbed = why("absorbs", "only their sum enters")
        return f"{_words(up, shapes)} can be shifted{against}: {absorbed}"
    through = why("passes", "")
    through = through and f"positive factors pass through {through}"
    if kind == "scale":
        one = len(terms) == 1 and not terms[0].axes
        what = f"{_words(up, shapes)} {'is' if one else 'are'} scale-invariant"
        return "; ".join(filter(None, [f"{what}: {why('normalises', 'their size cancels')}", through]))
    what = f"a factor on {_words(up, shapes)} is undone by its inverse on {_words(down, shapes)}"
    return "; ".join(filter(None, [f"{what}: {through or 'all that lies between is linear'}", why("normalises", "")]))
