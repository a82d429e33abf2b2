"""From statements about indices to groups: which indices may be mixed, by which matrices, in which parameters.

Indices that are mixed together form a component, each with a sign: 1 mixed by M, -1 by its inverse transpose. What is
fixed takes its whole component with it. A component whose signs agree carries GL(n); where an index would have both
signs (W read as W and as its transpose) only M with M^-1 = M^T is left: O(n), rotations.

The matrix may be another one for every value of a second index h (attention heads), if all tensors on the way have
exactly one such index, so that every operator works value by value of h. Blocks of an index are indices of their own
under the same condition.

A family of GL(n) has the symmetric generators; those of rotations are commutators of these, so it stands for the whole
group. Its diagonal matrices are the rescale family of the same parameters. Both are reported, because the rescale
family has charges of its own right (and may reach further: one ReLU more and only the diagonal is left); the count
`beyond_the_diagonal` leaves the diagonal out, so that the dimensions of all domains add up.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

from neuromech.detect.axes import Label, leaves
from neuromech.detect.graph import Graph, Value
from neuromech.detect.interpret import Opaque
from neuromech.detect.matrix.walk import Blocked, Walk
from neuromech.detect.operator import short
from neuromech.symmetry import Part, Symmetry, Term, mixing

_MIX = "nothing but linear maps lie in between; diagonal matrices are the rescale family of these"
_TURN = "only inner products and lengths enter; its charge, an angular momentum, is always zero under gradient flow"


class MatrixFindings(NamedTuple):
    """The matrix symmetries, and what ended a claim for no other reason than that nothing is known about it."""

    families: list[Symmetry]
    opaque: list[Opaque]


def matrix_families(graph: Graph, at_rest: Container[str] = ()) -> MatrixFindings:
    """The matrix symmetries of a recorded forward; parameters `at_rest` are left out (they may be shifted at will)."""
    walk = Walk(graph).run()
    indices = _Indices(walk)
    return MatrixFindings(
        [s for members, places in indices.components() for s in _families(walk, indices, members, places, at_rest)],
        [Opaque(op, module, why, names, ("matrix",)) for (op, module, why), names in indices.ended.items() if names],
    )


def beyond_the_diagonal(families: Iterable[Symmetry], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Number of independent directions that are not rescale symmetries: n^2 - n of every GL(n), n(n-1)/2 of O(n)."""
    total = 0
    for s in families:
        blocks, n = mixing.shape_of(s.terms[0], shapes[s.terms[0].parameter])
        total += blocks * n * (n - 1) // (2 if s.skew else 1)
    return total


Item = TypeVar("Item")
At = tuple[tuple[Label, int], ...]  # a block: entries of indices, by their roots; () for whole tensors


class Index(NamedTuple):
    """A class of labels that are mixed alike or as duals, in tensors that were cut down to the block `at`."""

    root: Label
    at: At


class Place(NamedTuple):
    """Where a parameter holds a mixed index: which of its leaves, with what sign, in which block."""

    parameter: Value
    leaf: int
    sign: int
    at: At


class _Signed:
    """Union-find with signs: `find(x)` is the root of x and the sign between the two."""

    def __init__(self) -> None:
        self._parent: dict[Any, tuple[Any, int]] = {}
        self.twisted: set[Any] = set()  # roots of sets in which something is its own dual

    def find(self, x: Any) -> tuple[Any, int]:
        path, sign = [], 1
        while x in self._parent:
            path.append((x, sign))
            x, s = self._parent[x]
            sign *= s
        for y, before in path:
            self._parent[y] = (x, sign * before)
        return x, sign

    def union(self, x: Any, y: Any, sign: int) -> None:
        (a, s), (b, t) = self.find(x), self.find(y)
        if a != b:
            self._parent[b] = (a, s * t * sign)
            self.twisted |= {a} if b in self.twisted else set()
        elif s * t != sign:
            self.twisted.add(a)


class _Indices:
    """The labels of a walk, sorted into indices, and these into components."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._whole, self._joined = _Signed(), _Signed()
        self._origin: dict[Label, tuple[Label, list[tuple[Label, int]]]] = {}  # of labels of tensors that were cut
        pairs = [(x, y, sign) for a, b, sign in walk.relations for x, y in zip(a.leaves(), b.leaves(), strict=True)]
        cut = {x for block in walk.blocks for x in block.label.leaves()}
        for x, y, sign in pairs:
            if not {x, y} & cut:
                self._whole.union(x, y, sign)
        nested = self._sort_blocks()
        across = [pair for pair in pairs if pair[0] in self._origin or pair[1] in self._origin]
        for x, y, sign in pairs:
            if x not in self._origin and y not in self._origin:
                self._whole.union(x, y, sign)
        self.cut: dict[Label, dict[At, None]] = {}  # root -> the blocks it was read in
        for x in self._origin:
            index, _ = self.index(x)
            self.cut.setdefault(index.root, {})[index.at] = None
        fixed = {self.index(x)[0] for x in (*leaves(walk.fixed), *nested)}
        for x, y, sign in across:
            (a, s), (b, t) = self.index(x), self.index(y)
            self._joined.union(a, b, sign * s * t)
            # A whole index against a block of another, and itself read in blocks elsewhere: beyond us.
            fixed |= {i for i in (a, b) if not i.at and i.root in self.cut}
        fixed |= {Index(i.root, at) for i in fixed if not i.at for at in self.cut.get(i.root, ())}
        self._fixed = {self.component(i) for i in fixed}
        self.ended = self._shut_in(walk.blocked)
        fixed |= {self.index(x)[0] for b in walk.blocked for x in leaves(b.labels)}
        fixed |= {Index(i.root, at) for i in fixed if not i.at for at in self.cut.get(i.root, ())}
        self._fixed = {self.component(i) for i in fixed}
        self._roots = {i.root for i in fixed if not i.at}  # of indices that are fixed as wholes
        self._tensors = self._by_component(walk.known.values(), lambda t: t.labels)
        self._apart = self._by_component(walk.apart, lambda pair: (*pair[0], *pair[1]))

    def _sort_blocks(self) -> list[Label]:
        """Decide which blocks are indices of their own; returns the labels of what is cut out of another block.

        Where no parameter has the index that was selected (time, the batch), none has blocks of its own: the label
        means the index that it was cut from.
        """
        held = {self._whole.find(x)[0] for v in self._walk.moving for x in self._walk.indexed(v).labels}
        nested = []
        for block in self._walk.blocks:
            at = _digits(block.selector, block.at)
            own = bool(held & {self._whole.find(x)[0] for x, _ in at})
            for x, y in zip(block.label.leaves(), block.of.leaves(), strict=True):
                if own and y in self._origin:
                    nested += [x, y]
                elif y in self._origin:
                    self._origin[x] = self._origin[y]
                elif own:
                    self._origin[x] = y, at
                else:
                    self._whole.union(x, y, 1)
        return nested

    def _shut_in(self, blocked: Iterable[Blocked]) -> dict[tuple[str, str, str], tuple[str, ...]]:
        """By operator, module and reason: the parameters with an index that this fixes and nothing understood does."""
        mine: dict[tuple[str, str, str], set[Any]] = {}
        for b in blocked:
            ended = {self.component(self.index(x)[0]) for x in leaves(b.labels)}
            mine.setdefault((short(b.node.op), b.node.module, b.why), set()).update(ended - self._fixed)
        held = {
            v.names[0]: {self.component(self.index(x)[0]) for x in self._walk.indexed(v).labels if x.n > 1}
            for v in self._walk.moving
        }
        return {key: tuple(n for n, own in held.items() if own & ended) for key, ended in mine.items()}

    def index(self, x: Label, at: At = ()) -> tuple[Index, int]:
        """The index of a leaf, seen in a block if it stands in a whole tensor; and the sign between the two."""
        if x in self._origin:
            x, block = self._origin[x]
            at = tuple((self._whole.find(y)[0], k) for y, k in block)
        root, sign = self._whole.find(x)
        return Index(root, at), sign

    def component(self, index: Index) -> Any:
        return self._joined.find(index)[0]

    def components(self) -> Iterator[tuple[list[Index], list[Place]]]:
        """What nothing fixes: indices that are mixed together, and where parameters hold them, in order."""
        found: dict[Any, tuple[dict[Index, None], list[Place]]] = {}
        for v in self._walk.moving:
            for n, x in enumerate(self._walk.indexed(v).labels):
                root = self.index(x)[0].root
                for at in sorted(self.cut.get(root, [()]), key=lambda at: [k for _, k in at]):
                    index, sign = self.index(x, at)
                    c, s = self._joined.find(index)
                    if c not in self._fixed and root.n > 1:
                        members, places = found.setdefault(c, ({}, []))
                        members[index] = None
                        places.append(Place(v, n, sign * s, at))
        yield from ((list(members), places) for members, places in found.values())

    def twisted(self, members: Sequence[Index]) -> bool:
        """True if one of these is its own dual."""
        return self.component(members[0]) in self._joined.twisted or any(
            self._whole.find(i.root)[0] in self._whole.twisted for i in members
        )

    def numbering(self, members: Sequence[Index]) -> list[Any] | None:
        """The components of the indices that may number the matrices; None if the blocks themselves may not."""
        mine, ats = self.component(members[0]), {i.at for i in members}
        number: list[Any] | None = None
        for t in self._tensors.get(mine, ()):
            whole = [self.index(x)[0].root for x in t.labels if x not in self._origin]
            for at in ats:
                seen = [self.component(self.index(x, at)[0]) for x in t.labels]
                if mine not in seen:
                    continue
                if len(whole) == len(seen) and any(whole.count(root) != 1 for root, _ in at):
                    return None
                once = [c for c in seen if c != mine and seen.count(c) == 1]
                number = once if number is None else [c for c in number if c in once]
        barred: set[Any] = set()
        for pair in self._apart.get(mine, ()):
            for at in ats:
                stays, gone = ([self.index(x, at)[0] for x in side] for side in pair)
                for side, other in ((stays, gone), (gone, stays)):
                    if mine in map(self.component, side):
                        barred.update(map(self.component, other))
                        if {root for root, _ in at} & {i.root for i in other}:
                            return None
        return [c for c in number or () if c not in barred]

    def _by_component(self, items: Iterable[Item], labels: Callable[[Item], Iterable[Label]]) -> dict[Any, list[Item]]:
        """Items by the free components that their labels belong to."""
        out: dict[Any, list[Item]] = {}
        for item in items:
            indices = [i for x in labels(item) if (i := self.index(x)[0]).root not in self._roots]
            seen = {Index(i.root, at) for i in indices for at in ([i.at] if i.at else self.cut.get(i.root, [()]))}
            for c in dict.fromkeys(map(self.component, seen)):
                if c not in self._fixed:
                    out.setdefault(c, []).append(item)
        return out


def _digits(axis: Sequence[Label], index: int) -> list[tuple[Label, int]]:
    """One entry of an axis as an entry of each of its factors."""
    out = []
    for x in reversed(leaves(axis)):
        index, k = divmod(index, x.n)
        out.append((x, k))
    return out[::-1]


def _families(
    walk: Walk, indices: _Indices, members: list[Index], places: list[Place], at_rest: Container[str]
) -> list[Symmetry]:
    number = indices.numbering(members)
    places = [p for p in places if p.parameter.names[0] not in at_rest]
    if number is None or not places:
        return []
    twisted = indices.twisted(members)
    signs = [1 if twisted else p.sign * places[0].sign for p in places]
    terms = tuple(_term(walk, indices, p, number, sign) for p, sign in zip(places, signs, strict=True))
    n = members[0].root.n
    blocks = terms[0].size(places[0].parameter.shape)

    def names(sign: int) -> str:
        return ", ".join(dict.fromkeys(t.parameter for t in terms if t.weight * sign > 0))

    if twisted:
        return [
            Symmetry(
                "matrix",
                mixing.members(blocks, n, True),
                terms,
                f"a rotation on {names(1)} cancels: {_TURN}",
                skew=True,
            )
        ]
    undone = f"is undone by its inverse on {names(-1)}" if names(-1) else "changes nothing"
    return [
        Symmetry(
            "matrix", mixing.members(blocks, n, False), terms, f"an invertible matrix on {names(1)} {undone}: {_MIX}"
        )
    ]


def _term(walk: Walk, indices: _Indices, place: Place, number: Sequence[Any], sign: int) -> Term:
    """The term of a place; the indices `number` number the matrices."""
    t = walk.indexed(place.parameter)
    labels = t.labels
    seen = [indices.component(indices.index(x, place.at)[0]) for x in labels]
    roots = [indices.index(x)[0].root for x in labels]
    special = {place.leaf, *(seen.index(c) for c in number), *(roots.index(root) for root, _ in place.at)}
    view: list[int] = []
    axis_of: dict[int, int] = {}
    i = 0
    for a in t.axes:
        start, previous = True, False
        for x in leaves(a):
            if start or previous or i in special:
                view.append(1)
            view[-1] *= x.n
            axis_of[i] = len(view) - 1
            start, previous, i = False, i in special, i + 1
        if start:
            view.append(1)
    select = tuple((axis_of[roots.index(root)], k) for root, k in place.at)
    axes = tuple(axis_of[seen.index(c)] for c in number)
    part = Part(tuple(view), select) if select or tuple(view) != place.parameter.shape else None
    axis = None if not axes else axes[0] if len(axes) == 1 else axes
    name = place.parameter.names[0]
    return Term(name, axis, Fraction(sign), part, axis_of[place.leaf])
