"""Axes as sums and products of atoms, so that the work never depends on a width.

An *atom* is an index set whose members are interchangeable: the channels of a layer, the pixels of an image. It may
turn out to be a product (the 1024 inputs of a linear layer after `flatten` are 64 channels x 16 pixels: `factors`, slow
one first) or a sum (the 96 channels after `cat` are 64 of one branch and 32 of another: `segments`). A *label* is one
occurrence of an atom as an index: the square weight of a residual branch has two labels, one for its rows and one for
its columns, over one atom. An axis of a tensor is a product of labels, slowest first.

Operators that make indices agree merge their atoms (union-find); a reshape cuts atoms into factors, a slice cuts them
into segments. All of these act on every tensor seen so far, because labels look their atoms up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

Axis = tuple["Label", ...]  # the factors of one axis, slowest first; an axis of length 1 has none


class Atom:
    """An index set of `n` interchangeable members, until it is found to be a product or a sum of smaller ones."""

    __slots__ = ("factors", "n", "same", "segments")
    changes = 0  # of any atom, ever: what was read off atoms holds as long as this stays

    def __init__(self, n: int) -> None:
        self.n = n
        self.same: Atom | None = None  # union-find: the atom that this one was merged into
        self.factors: tuple[Atom, ...] = ()
        self.segments: tuple[Atom, ...] = ()

    def merge(self, one: Atom) -> None:
        """Be the same as another atom from now on."""
        self.same = one
        Atom.changes += 1

    def split(self, slow: int) -> None:
        """Be a product of `slow` and what is left, the slow factor first."""
        self.factors = Atom(slow), Atom(self.n // slow)
        Atom.changes += 1

    def cut(self, lengths: Iterable[int]) -> None:
        """Be a sum of segments of these lengths."""
        self.segments = tuple(Atom(n) for n in lengths)
        Atom.changes += 1

    def find(self) -> Atom:
        if self.same is None:
            return self
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

    __slots__ = ("_at", "_base", "_leaves", "_parts", "_twin", "atom", "mean", "owner")

    def __init__(self, atom: Atom, mean: bool = False, base: Label | None = None, owner: Label | None = None) -> None:
        self.atom = atom
        self.mean = mean
        self.owner = owner
        self._base = base
        self._parts: tuple[Label, ...] = ()
        self._twin: Label | None = None
        self._leaves: list[Label] = []
        self._at = -1  # the state of atoms that the leaves were read off

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
        return self.atom if self.atom.same is None else self.atom.find()

    @property
    def parts(self) -> tuple[Label, ...]:
        """The occurrences of the factors or segments of its atom."""
        root = self.root
        if not self._parts and (atoms := root.factors or root.segments):
            if self._base is not None:  # the parts of a twin are the twins of the parts
                self._parts = tuple(part.twin for part in self._base.parts)
                for part in self._parts:
                    part.owner = self
            else:
                self._parts = tuple(Label(atom, self.mean, owner=self) for atom in atoms)
        return self._parts

    @property
    def segments(self) -> tuple[Label, ...]:
        return self.parts if self.root.segments else ()

    @property
    def is_segment(self) -> bool:
        return self.owner is not None and bool(self.owner.root.segments)

    def leaves(self) -> list[Label]:
        """The factors that the label consists of by now, none for a single index; a sum counts as one factor."""
        if self._at != Atom.changes:
            self._leaves = [] if self.atom.n == 1 else [self]
            if self._leaves and self.root.factors:
                self._leaves = [leaf for part in self.parts for leaf in part.leaves()]
            self._at = Atom.changes
        return self._leaves

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
    now, out = Atom.changes, []
    for label in labels:  # asked a million times for a large model
        out += label._leaves if label._at == now else label.leaves()
    return out


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
            if p.root.segments:
                for segment, to in zip(p.segments, q.segments, strict=True):
                    out[segment] = to
                    todo.append((segment, to))
    return out
