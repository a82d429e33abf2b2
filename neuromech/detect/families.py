"""Solutions of the equations -> `Symmetry` objects that say what moves and why."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from neuromech.detect.abstract import Domain, Event
from neuromech.detect.blocks import StridedBlock, joined, members_joined, series, term
from neuromech.detect.reasons import Events, Shapes, reason
from neuromech.detect.solve import SolutionFamily
from neuromech.symmetry import Kind, Symmetry


@dataclass(frozen=True)
class Claim:
    """A symmetry to be, with the solutions that it was made of."""

    symmetry: Symmetry
    families: tuple[SolutionFamily, ...]


@dataclass(frozen=True)
class _Draft:
    blocks: list[StridedBlock]
    seen: list[Event]
    family: SolutionFamily


def claims(families: Sequence[SolutionFamily], domain: Domain, shapes: Shapes, translation: bool) -> list[Claim]:
    """The families of one domain as symmetries; `shapes` are those of the parameters.

    Families that differ only in where they stand (one for every index of an axis that had to be enumerated) are one.
    """
    events = Events(domain.events)
    drafts = [_Draft(_blocks(f, shapes), events.on(f.solution), f) for f in families]
    out = []
    for alike in _alike(drafts):
        together = series([d.blocks for d in alike]) if len(alike) > 1 else None
        for group, blocks in [(alike, together)] if together else [([d], d.blocks) for d in alike]:
            blocks = members_joined(blocks, shapes)
            terms = tuple(term(b, shapes[b.parameter]) for b in blocks)
            one_sign = len({b.weight > 0 for b in blocks}) == 1
            kind: Kind = "translation" if translation else "scale" if one_sign else "rescale"
            seen = group[0].seen
            broken = tuple(dict.fromkeys(e.broken_by for e in seen if e.broken_by))
            size = sum(d.family.size for d in group)
            s = Symmetry(kind, size, terms, reason(kind, terms, seen, shapes), broken_by=broken)
            out.append(Claim(s, tuple(d.family for d in group)))
    return out


def _alike(drafts: Sequence[_Draft]) -> Iterator[list[_Draft]]:
    """Drafts that may be members of one series, in the order of the first of each."""
    out: dict[Hashable, list[_Draft]] = {}
    for d in drafts:
        shape = tuple((b.parameter, b.weight, b.family, b.rest) for b in d.blocks)
        out.setdefault((shape, tuple(e.words for e in d.seen)), []).append(d)
    yield from out.values()


def _blocks(family: SolutionFamily, shapes: Shapes) -> list[StridedBlock]:
    """What a family moves, in as few blocks as possible."""
    out = []
    for component, weight in family.vector.items():
        unknown, _ = component
        assert unknown.name is not None
        dims = [(x.n, k) for x, k in unknown.indices()]
        members = family.aligned(component)
        rest = tuple(sorted((d for i, d in enumerate(dims) if i not in members), key=lambda d: -d[1]))
        whole = StridedBlock(unknown.name, Fraction(weight), unknown.start, tuple(dims[i] for i in members), rest)
        out += _against_the_next(whole, [a in family.contrasts for a in family.indices])
    return joined(out, shapes)


def _against_the_next(block: StridedBlock, contrasts: Sequence[bool]) -> list[StridedBlock]:
    """A member of indices along which they have to sum to zero is an index, less the one that follows."""
    out = [replace(block, family=())]
    for (n, stride), contrast in zip(block.family, contrasts, strict=True):
        if not contrast:
            out = [replace(b, family=(*b.family, (n, stride))) for b in out]
            continue
        left = ((n - 1, stride),) if n > 2 else ()
        here = [replace(b, family=(*b.family, *left)) for b in out]
        out = [*here, *(replace(b, start=b.start + stride, weight=-b.weight) for b in here)]
    return out
