"""Why a family is a symmetry, in words that name the modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neuromech.detect.abstract import Event
from neuromech.detect.data import Number
from neuromech.detect.equations import Component, Row, components
from neuromech.detect.expr import expand
from neuromech.detect.patterns import compressed
from neuromech.symmetry import Kind, Term

SQUARES, ROOT = ("power 2", "the square"), "the inverse square root"  # as their operators say it
Shapes = Mapping[str, tuple[int, ...]]


class Events:
    """What happened in a forward, to be looked up by the solutions that it happens to."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events
        self._entries: dict[Component, list[tuple[int, object, Number]]] = {}
        for n, event in enumerate(events):
            for f, c in (t for whole in event.expr.terms.items() for t in expand(*whole)):
                for subset, component in components(f):
                    self._entries.setdefault(component, []).append((n, (subset, f.data, f.where), c))

    def on(self, solution: Row) -> list[Event]:
        """The events whose expression is not zero under the solution, in order."""
        values: dict[tuple[int, object], Number] = {}
        for component, w in solution.items():
            for n, key, c in self._entries.get(component, ()):
                values[n, key] = values.get((n, key), 0) + c * w
        return [self._events[n] for n in sorted({n for (n, _), value in values.items() if value})]


def reason(kind: Kind, terms: Sequence[Term], events: Sequence[Event], shapes: Shapes) -> str:
    """One sentence, "what moves: why it may"."""
    up, down = ([t for t in terms if t.weight * sign > 0] for sign in (1, -1))

    said = _by_verb(events)

    def why(verb: str) -> str:
        words = said.get(verb, [])
        return _listed(_divided(words) if verb == "normalises" else compressed(words))

    through = f"positive factors pass through {why('passes')}" if why("passes") else ""
    if kind == "translation":
        if down:
            how = f"can be shifted against {_words(down, shapes)}"
        else:
            how = "can be shifted by a constant" if why("absorbs") else "can be shifted against each other"
        because = why("absorbs") or "only their sum enters"
    elif kind == "scale":
        how = f"{'is' if len(terms) == 1 and not terms[0].axes else 'are'} scale-invariant"
        because = "; ".join(filter(None, [why("normalises") or "their size cancels", through]))
    else:
        undone = "its inverse" if len({abs(t.weight) for t in terms}) == 1 else "inverse powers of it"
        how = f"is undone by {undone} on {_words(down, shapes)}"
        because = "; ".join(filter(None, [through or "all that lies between is linear", why("normalises")]))
    what = f"a factor on {_words(up, shapes)}" if kind == "rescale" else _words(up, shapes)
    return f"{what} {how}: {because}"


def _by_verb(events: Sequence[Event]) -> dict[str, list[str]]:
    """The words of events. Squares and an inverse root in one module are a norm that is written out."""
    said: dict[str, list[str]] = {}
    for e in events:
        said.setdefault(e.verb, []).append(e.words)
    passes = said.get("passes", [])
    for root in [words for words in passes if words.startswith(f"{ROOT} ")]:
        module = root.removeprefix(f"{ROOT} ")
        if squares := [f"{square} {module}" for square in SQUARES if f"{square} {module}" in passes]:
            said["passes"] = passes = [words for words in passes if words not in (root, *squares)]
            said.setdefault("normalises", []).append(f"{module} divides by the root of squares")
    return said


def _divided(words: Sequence[str]) -> list[str]:
    """What divides by the same thing, in one phrase: "batch norms bn1 and bn2 divide by the standard deviation"."""
    modules: dict[tuple[str, str], list[str]] = {}
    for each in dict.fromkeys(words):
        subject, _, what = each.partition(" divides by ")
        kind, _, module = subject.rpartition(" ")
        modules.setdefault((kind, what) if what else (each, ""), []).append(module)
    out = []
    for (kind, what), some in modules.items():
        many = len(some) > 1
        divides = f"{kind}{'s' * (many and bool(kind))} {_listed(compressed(some))} divide{'s' * (not many)} by {what}"
        out.append(divides.strip() if what else kind)
    return out


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def _words(terms: Sequence[Term], shapes: Shapes) -> str:
    """Slices in words: "conv1.weight and conv1.bias rows", "fc.weight columns in 64 blocks of 16"."""
    groups: dict[str, list[str]] = {}
    for t in terms:
        groups.setdefault(_slices(t, shapes[t.parameter]), []).append(t.parameter)
    words = [f"{_listed(compressed(names))} {which}".strip() for which, names in groups.items()]
    return ", and ".join(words) if any(" and " in w for w in words) else _listed(words)


def _slices(t: Term, shape: tuple[int, ...]) -> str:
    """What the slices of a term are called."""
    view = t.part.shape if t.part else shape
    if t.part and t.part.strides is not None:
        return _slices_of_block(t, shape)
    if not t.axes:
        return "as a whole" if shape else ""
    if len(t.axes) == len(view):
        return "entries"
    if len(shape) == 2 and len(view) == 3 and t.axes == (1,) and view[0] == shape[0]:
        return f"columns in {view[1]} blocks of {view[2]}"
    if view == shape and t.axes in ((0,), (1,)):
        return "columns" if t.axes == (1,) else "rows"
    axes = f"slices along {'axis' if len(t.axes) == 1 else 'axes'} {_listed(list(map(str, t.axes)))}"
    return axes if view == shape else f"{axes} of the view {view}"


def _slices_of_block(t: Term, shape: tuple[int, ...]) -> str:
    """The same for a block: "rows in [0:64]"."""
    assert t.part is not None
    block = f"in {t.part.words}"
    if not t.axes:
        return block
    if len(t.axes) == len(t.part.shape):
        return f"entries {block}"
    whole = len(t.part.shape) == len(shape)
    if whole and t.axes in ((0,), (1,)):
        return f"{'columns' if t.axes == (1,) else 'rows'} {block}"
    return f"slices along {'axis' if len(t.axes) == 1 else 'axes'} {_listed(list(map(str, t.axes)))} {block}"
