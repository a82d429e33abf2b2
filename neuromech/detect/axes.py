"""Axes as sums and products of atoms, so that the work never depends on a width.

An *atom* is an index set whose members are interchangeable: the channels of a layer, the pixels of an image. It may turn
out to be a product (the 1024 inputs of a linear layer after `flatten` are 64 channels x 16 pixels: `factors`, slow one
first) or a sum (the 96 channels after `cat` are 64 of one branch and 32 of another: `segments`). A *label* is one
occurrence of an atom as an index: the square weight of a residual branch has two labels, one for its rows and one for
its columns, over one atom. An axis of a tensor is a product of labels, slowest first.

Operators that make indices agree merge their atoms (union-find); a reshape cuts atoms into factors, a slice cuts them
into segments. All of these act on every tensor seen so far, because labels look their atoms up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import prod
from typing import NamedTuple

Axis = tuple["Label", ...]  # the factors of one axis, slowest first; an axis of length 1 has none
MANY = 4096  # segments that an axis may be cut into: beyond, explicit indices cost too much


class NonNested(Exception):
    """Two ways to cut an axis that have no common refinement of tolerable size."""


class Atom:
    """An index set of `n` interchangeable members, until it is found to be a product or a sum of smaller ones."""

    __slots__ = ("factors", "n", "same", "segments")

    def __init__(self, n: int) -> None:
        self.n = n
        self.same: Atom | None = None  # union-find: the atom that this one was merged into
        self.factors: tuple[Atom, ...] = ()
        self.segments: tuple[Atom, ...] = ()

    def find(self) -> Atom:
        root = self
        while root.same is not None:
            root = root.same
        while self.same is not None:
            self.same, self = root, self.same
        return root


class Label:
    """One occurrence of an atom as an index of some tensor. `mean`: the index was averaged away.

    `owner` is the label that this one is a factor or a segment of. `twin` is the same index once it is summed over: no
    longer an index of any tensor, yet the same for all sums.
    """

    __slots__ = ("_base", "_parts", "_twin", "atom", "mean", "owner")

    def __init__(self, atom: Atom, mean: bool = False, base: Label | None = None, owner: Label | None = None) -> None:
        self.atom = atom
        self.mean = mean
        self.owner = owner
        self._base = base
        self._parts: tuple[Label, ...] = ()
        self._twin: Label | None = None

    @property
    def twin(self) -> Label:
        if self._twin is None:
            self._twin = Label(self.atom, base=self)
        return self._twin

    @property
    def summed(self) -> bool:
        """True for a twin: the index of a sum that was done."""
        return self._base is not None

    @property
    def n(self) -> int:
        return self.atom.n

    @property
    def root(self) -> Atom:
        return self.atom.find()

    @property
    def parts(self) -> tuple[Label, ...]:
        """The occurrences of the factors or segments of its atom."""
        root = self.root
        if not self._parts and (atoms := root.factors or root.segments):
            bases = self._base.parts if self._base is not None else (None,) * len(atoms)  # parts of twins are twins
            made = []
            for atom, base in zip(atoms, bases, strict=True):
                label = Label(atom, self.mean, base, self)
                if base is not None:
                    base._twin = label
                made.append(label)
            self._parts = tuple(made)
        return self._parts

    @property
    def segments(self) -> tuple[Label, ...]:
        return self.parts if self.root.segments else ()

    @property
    def is_segment(self) -> bool:
        return self.owner is not None and bool(self.owner.root.segments)

    def leaves(self) -> list[Label]:
        """The factors that the label consists of by now, none for a single index; a sum counts as one factor."""
        if self.n == 1:
            return []
        return [leaf for part in self.parts for leaf in part.leaves()] if self.root.factors else [self]

    def chain(self) -> list[Label]:
        """The segments that this label lies in, innermost first; itself, if it is one."""
        out, at = [], self
        while True:
            if at.is_segment:
                out.append(at)
            if at.owner is None:
                return out
            at = at.owner

    def under(self, tops: Iterable[Label]) -> bool:
        """True if it is one of `tops`, or part of one."""
        at: Label | None = self
        while at is not None:
            if at in tops:
                return True
            at = at.owner
        return False

    def __repr__(self) -> str:
        return f"{'mean ' if self.mean else ''}{self.n}@{id(self.root) % 9973}"


def leaves(labels: Iterable[Label]) -> list[Label]:
    return [leaf for label in labels for leaf in label.leaves()]


def count(labels: Iterable[Label]) -> int:
    return prod(x.n for x in labels)


def axis(n: int) -> Axis:
    """A fresh axis of length n, unrelated to any other."""
    return () if n == 1 else (Label(Atom(n)),)


def by_parts(same: Mapping[Label, Label]) -> dict[Label, Label]:
    """A renaming of labels as one of everything that they consist of."""
    out: dict[Label, Label] = {}
    todo = list(same.items())
    while todo:
        old, new = todo.pop()
        for p, q in zip(old.leaves(), new.leaves(), strict=True):
            out[p] = q
            for segment, to in zip(p.segments, q.segments, strict=True):
                out[segment] = to
                todo.append((segment, to))
    return out


@dataclass(frozen=True)
class Piece:
    """A run of indices of an axis: those in the segments `guards`, addressed by `labels`; `start` is where it begins."""

    guards: tuple[Label, ...]
    labels: tuple[Label, ...]
    start: int

    @property
    def n(self) -> int:
        return count(self.labels)


@dataclass(frozen=True)
class Regrouping:
    """The indices `of` addressed in another way, piece by piece; pieces without an entry are dropped."""

    of: tuple[Label, ...]
    to: Axis
    entries: tuple[Entry, ...]


class Entry(NamedTuple):
    """A piece of the old indices: it becomes the segments `guards` of the new ones, its labels are called `names`."""

    piece: Piece
    guards: tuple[Label, ...]
    names: Renaming


@dataclass(frozen=True)
class Renaming:
    """What the labels of a tensor are called once its axes are aligned with others."""

    same: Mapping[Label, Label] = field(default_factory=dict)
    regroupings: tuple[Regrouping, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.same or self.regroupings)


def pieces(labels: Sequence[Label], cuts: Iterable[int]) -> list[Piece]:
    """The runs of indices between `cuts`, in order; finer than asked where the axis is cut already."""
    labels = leaves(labels)
    total = count(labels)
    inner = sorted({c for c in cuts if 0 < c < total})
    if not inner:
        return [Piece((), tuple(labels), 0)]
    if len(inner) > MANY:
        raise NonNested(f"an axis of {total} would have to be cut into {len(inner)}")
    first, *rest = labels
    step = count(rest)
    slow = {c // step for c in inner} | {c // step + 1 for c in inner if c % step}
    out = []
    for head in _segmented(first, slow):
        start = head.start * step
        within = [c - start for c in inner if start < c < start + head.n * step]
        # Cuts that remain fall inside a single index of the slow label.
        for tail in pieces((*head.labels, *rest), within):
            out.append(Piece((*head.guards, *tail.guards), tail.labels, start + tail.start))
    return out


def _segmented(label: Label, cuts: Iterable[int]) -> list[Piece]:
    """A label that is no product, cut into segments."""
    inner = sorted({c for c in cuts if 0 < c < label.n})
    if not inner:
        return [Piece((), (label,), 0)]
    if not label.root.segments:
        bounds = [0, *inner, label.n]
        label.root.segments = tuple(Atom(b - a) for a, b in pairwise(bounds))
    out, start = [], 0
    for segment in label.parts:
        within = [c - start for c in inner if start < c < start + segment.n]
        out += [Piece((segment, *p.guards), p.labels, start + p.start) for p in pieces([segment], within)]
        start += segment.n
    return out


def assemble(of: Sequence[Label], chosen: Sequence[Piece]) -> Regrouping:
    """The axis that holds some pieces of an old one, in this order: a slice, a roll, a selection."""
    if len(chosen) == 1:  # under labels of its own: what else there was is gone
        fresh = {x: Label(x.atom) for x in leaves(chosen[0].labels)}
        return Regrouping(tuple(of), tuple(fresh.values()), (Entry(chosen[0], (), Renaming(fresh)),))
    whole = sum_of([p.n for p in chosen])
    return Regrouping(
        tuple(of),
        (whole,),
        tuple(Entry(p, (s,), unify([s], p.labels)) for p, s in zip(chosen, whole.parts, strict=True)),
    )


def sum_of(lengths: Sequence[int]) -> Label:
    """A fresh label with segments of these lengths."""
    whole = Label(Atom(sum(lengths)))
    whole.root.segments = tuple(Atom(n) for n in lengths)
    return whole


def unify(f: Sequence[Label], g: Sequence[Label]) -> Renaming:
    """Make two ways to address one index set agree; returns what the labels of `g` are called by those of `f`.

    Raises `NonNested` if no common refinement is of tolerable size.
    """
    left, right = leaves(f), leaves(g)
    if count(left) != count(right):
        raise NonNested(f"lengths {[a.n for a in left]} and {[b.n for b in right]} differ")
    same: dict[Label, Label] = {}
    regroupings: list[Regrouping] = []
    while left:
        a, b = _pop(left), _pop(right)
        if a.n == b.n and _merge(a, b):
            same[b] = a
            continue
        big, small, rest, others = (a, b, left, right) if a.n > b.n else (b, a, right, left)
        if a.n != b.n and not big.root.segments and big.n % small.n == 0:
            big.root.factors = Atom(small.n), Atom(big.n // small.n)
            rest[:0] = big.leaves()
            others.insert(0, small)
            continue
        head_f, head_g = [a], [b]
        while count(head_f) != count(head_g):
            shorter, more = (head_f, left) if count(head_f) < count(head_g) else (head_g, right)
            shorter.append(_pop(more))
        regroupings.append(_regrouped(head_f, head_g))
    return Renaming(same, tuple(regroupings))


def _pop(stack: list[Label]) -> Label:
    """The next leaf: cutting one label may have cut others that share its atom."""
    while (parts := stack.pop(0).leaves()) and len(parts) > 1:
        stack[:0] = parts
    return parts[0]


def _merge(a: Label, b: Label) -> bool:
    """Make two atoms of one length the same, if they are cut in the same way or not cut at all."""
    one, two = a.root, b.root
    if one is two:
        return True
    if one.segments and two.segments:
        if [x.n for x in one.segments] != [x.n for x in two.segments]:
            return False
        if any(unify([x], [y]).regroupings for x, y in zip(a.parts, b.parts, strict=True)):
            return False
    elif two.segments:
        one, two = two, one
    two.same = one
    return True


def _regrouped(f: Sequence[Label], g: Sequence[Label]) -> Regrouping:
    """Both cut wherever one of them is, and then named piece by piece."""
    cuts = _ends(f) | _ends(g)
    if not cuts:  # neither is a sum: 2 x 3 against 3 x 2 has to be told index by index
        cuts = {k for x in (f, g) for k in range(0, count(x), count(x[1:]))}
    while True:
        mine, other = pieces(f, cuts), pieces(g, cuts)
        if [p.start for p in mine] == [q.start for q in other]:
            break
        cuts = {p.start for p in (*mine, *other)}
    entries = (Entry(q, p.guards, unify(p.labels, q.labels)) for p, q in zip(mine, other, strict=True))
    return Regrouping(tuple(g), tuple(f), tuple(entries))


def _ends(labels: Sequence[Label]) -> set[int]:
    """Where the segments of the slowest label end."""
    step = count(labels[1:])
    return {step * end for end in accumulate(s.n for s in labels[0].segments)}


def regroup(labels: Sequence[Label], shape: Sequence[int]) -> tuple[tuple[Axis, ...], Renaming]:
    """The same indices, in the same order, read as axes of lengths `shape` (a reshape); how labels are called then."""
    todo, lengths = leaves(labels), list(shape)
    axes: list[Axis] = []
    same: dict[Label, Label] = {}
    regroupings: list[Regrouping] = []
    while lengths:
        n = lengths.pop(0)
        group: list[Label] = []
        while (have := count(group)) < n:
            a = _pop(todo)
            need, rest = divmod(n, have)
            if not rest and need % a.n == 0:
                group.append(a)
            elif not rest and a.n % need == 0 and not a.root.segments:
                a.root.factors = Atom(need), Atom(a.n // need)
                todo[:0] = a.leaves()
            else:  # the axis ends inside a label that cannot be split there: this label and its neighbours read anew
                group.append(a)
                block = [n]
                while (have := count(group)) != prod(block):
                    if have < prod(block):
                        group.append(_pop(todo))
                    else:
                        block.append(lengths.pop(0))
                fresh = [axis(k) for k in block]
                renaming = unify([x for f in fresh for x in f], group)
                axes += fresh
                same |= renaming.same
                regroupings += renaming.regroupings
                break
        else:
            axes.append(tuple(group))
    return tuple(axes), Renaming(same, tuple(regroupings))
