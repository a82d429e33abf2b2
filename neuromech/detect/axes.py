"""Axes as products of atoms, so that the work never depends on a width.

An *atom* is an index set whose members are interchangeable: the channels of a layer, the pixels of an image. An axis
of a tensor is a product of atoms in row-major order (the 1024 inputs of a linear layer after `flatten` are 64 channels
x 16 pixels). A *label* is one occurrence of an atom as an index: the square weight of a residual branch has two labels,
one for its rows and one for its columns, over one atom.

Operators that make indices agree merge their atoms (union-find); a reshape that cuts an axis splits atoms. Both act on
every tensor seen so far, because labels look their atoms up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Axis = tuple["Label", ...]  # the factors of one axis, slowest first; an axis of length 1 has none


class NonNested(Exception):
    """Two factorisations of an axis that have no common refinement (6 = 2 x 3 against 3 x 2)."""


class Atom:
    """An index set of `n` interchangeable members."""

    __slots__ = ("n", "parts", "same")

    def __init__(self, n: int) -> None:
        self.n = n
        self.same: Atom | None = None  # union-find: the atom that this one was merged into
        self.parts: tuple[Atom, Atom] | None = None  # split in two, slow factor first

    def find(self) -> Atom:
        root = self
        while root.same is not None:
            root = root.same
        while self.same is not None:
            self.same, self = root, self.same
        return root


class Label:
    """One occurrence of an atom as an index of some tensor. `mean`: the index was averaged away.

    `twin` is the same index once it is summed over: no longer an index of any tensor, yet the same for all sums.
    """

    __slots__ = ("_base", "_parts", "_twin", "atom", "mean")

    def __init__(self, atom: Atom, mean: bool = False, base: Label | None = None) -> None:
        self.atom = atom
        self.mean = mean
        self._base = base
        self._parts: tuple[Label, Label] | None = None
        self._twin: Label | None = None

    @property
    def twin(self) -> Label:
        if self._twin is None:
            self._twin = Label(self.atom, base=self)
        return self._twin

    @property
    def n(self) -> int:
        return self.atom.n

    @property
    def root(self) -> Atom:
        return self.atom.find()

    def leaves(self) -> list[Label]:
        """The label as it is now: itself, or the occurrences of the parts that its atom was split into."""
        parts = self.root.parts
        if parts is None:
            return [self]
        if self._parts is None:
            if self._base is not None:  # the parts of a twin are the twins of the parts
                self._base.leaves()
                assert self._base._parts is not None
                self._parts = self._base._parts[0].twin, self._base._parts[1].twin
            else:
                self._parts = Label(parts[0], self.mean), Label(parts[1], self.mean)
        return [leaf for part in self._parts for leaf in part.leaves()]

    def split(self, slow: int) -> None:
        atom = self.root
        atom.parts = Atom(slow), Atom(atom.n // slow)

    def __repr__(self) -> str:
        return f"{'mean ' if self.mean else ''}{self.n}@{id(self.root) % 9973}"


def leaves(labels: Iterable[Label]) -> list[Label]:
    return [leaf for label in labels for leaf in label.leaves()]


def axis(n: int) -> Axis:
    """A fresh axis of length n, unrelated to any other."""
    return () if n == 1 else (Label(Atom(n)),)


def _pop(stack: list[Label]) -> Label:
    """The next leaf: splitting one label may have split others that share its atom."""
    while len(parts := stack.pop(0).leaves()) > 1:
        stack[:0] = parts
    return parts[0]


def unify(f: Sequence[Label], g: Sequence[Label]) -> dict[Label, Label]:
    """Make two factorisations of one index set agree; returns which label of `g` is which label of `f`.

    Raises `NonNested` if neither refines the other.
    """
    left, right, same = leaves(f), leaves(g), {}
    if math.prod(a.n for a in left) != math.prod(b.n for b in right):
        raise NonNested(f"lengths {[a.n for a in left]} and {[b.n for b in right]} differ")
    while left:
        a, b = _pop(left), _pop(right)
        if a.n == b.n:
            if a.root is not b.root:
                b.root.same = a.root
            same[b] = a
            continue
        big, small, rest = (a, b, left) if a.n > b.n else (b, a, right)
        if big.n % small.n:
            raise NonNested(f"an axis of {big.n} is cut at {small.n}")
        big.split(small.n)
        rest[:0] = big.leaves()
        (right if big is a else left).insert(0, small)
    return same


def regroup(labels: Sequence[Label], shape: Sequence[int]) -> tuple[Axis, ...]:
    """The same labels, in the same order, read as axes of lengths `shape` (a reshape).

    Raises `NonNested` where an axis boundary cuts an atom that does not divide.
    """
    todo, axes = leaves(labels), []
    for n in shape:
        group: list[Label] = []
        while (have := math.prod(a.n for a in group)) < n:
            a = _pop(todo)
            need, rest = divmod(n, have)
            if rest or (a.n > need and a.n % need) or (a.n <= need and need % a.n):
                raise NonNested(f"an axis of {n} cuts a factor of {a.n}")
            if a.n > need:
                a.split(need)
                todo[:0] = a.leaves()
                continue
            group.append(a)
        axes.append(tuple(group))
    return tuple(axes)
