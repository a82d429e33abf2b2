"""Indices of tensors as labels: an axis is a product of labels, slowest first, cut finer whenever a reshape asks.

What axes.py is for factors and shifts, in the little that matrices need: a matrix mixes all of an index or none of it,
so an index is never a sum of segments, and two ways to cut it that do not nest are beyond what is looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

Axis = tuple["Label", ...]  # an axis of length 1 has none


class NonNested(Exception):
    """Two factorisations of an axis that have no common refinement (6 = 2 x 3 against 3 x 2)."""


class Atom:
    """An index set; labels that agree share it, so that they are cut alike."""

    __slots__ = ("n", "parts", "same")

    def __init__(self, n: int) -> None:
        self.n = n
        self.same: Atom | None = None  # union-find: the atom that this one was merged into
        self.parts: tuple[Atom, Atom] | None = None  # cut in two, slow factor first

    def find(self) -> Atom:
        root = self
        while root.same is not None:
            root = root.same
        while self.same is not None:
            self.same, self = root, self.same
        return root


class Label:
    """One occurrence of an atom as an index of some tensor."""

    __slots__ = ("_parts", "atom")

    def __init__(self, atom: Atom) -> None:
        self.atom = atom
        self._parts: tuple[Label, Label] | None = None

    @property
    def n(self) -> int:
        return self.atom.n

    def leaves(self) -> list[Label]:
        """The label as it is now: itself, or the occurrences of the parts that its atom was cut into."""
        parts = self.atom.find().parts
        if parts is None:
            return [self]
        if self._parts is None:
            self._parts = Label(parts[0]), Label(parts[1])
        return [leaf for part in self._parts for leaf in part.leaves()]

    def cut(self, slow: int) -> list[Label]:
        atom = self.atom.find()
        atom.parts = Atom(slow), Atom(atom.n // slow)
        return self.leaves()


def leaves(labels: Iterable[Label]) -> list[Label]:
    return [leaf for label in labels for leaf in label.leaves()]


def length(labels: Iterable[Label]) -> int:
    return prod(x.n for x in labels)


def axis(n: int) -> Axis:
    """A fresh axis of length n, unrelated to any other."""
    return () if n == 1 else (Label(Atom(n)),)


def _pop(stack: list[Label]) -> Label:
    """The next leaf: cutting one label may have cut others that share its atom."""
    while len(parts := stack.pop(0).leaves()) > 1:
        stack[:0] = parts
    return parts[0]


def unify(f: Sequence[Label], g: Sequence[Label]) -> list[tuple[Label, Label]]:
    """Cut two axes of one length alike; returns which label of `f` stands where which label of `g` does.

    Raises `NonNested` if neither refines the other.
    """
    left, right, pairs = leaves(f), leaves(g), []
    if length(left) != length(right):
        raise NonNested(f"lengths {[a.n for a in left]} and {[b.n for b in right]} differ")
    while left:
        a, b = _pop(left), _pop(right)
        if a.n == b.n:
            one, two = a.atom.find(), b.atom.find()
            if one is not two:
                two.same = one
            pairs.append((a, b))
            continue
        big, small, of_big, of_small = (a, b, left, right) if a.n > b.n else (b, a, right, left)
        if big.n % small.n:
            raise NonNested(f"an axis of {big.n} is cut at {small.n}")
        of_big[:0] = big.cut(small.n)
        of_small.insert(0, small)
    return pairs


def regroup(labels: Sequence[Label], shape: Sequence[int]) -> tuple[Axis, ...]:
    """The same labels, in the same order, read as axes of lengths `shape` (a reshape).

    Raises `NonNested` where the end of an axis cuts an index that does not divide.
    """
    todo, axes = leaves(labels), []
    for n in shape:
        group: list[Label] = []
        while (have := length(group)) < n:
            a = _pop(todo)
            need, rest = divmod(n, have)
            if rest or (a.n > need and a.n % need) or (a.n <= need and need % a.n):
                raise NonNested(f"an axis of {n} cuts a factor of {a.n}")
            if a.n > need:
                todo[:0] = a.cut(need)
            else:
                group.append(a)
        axes.append(tuple(group))
    return tuple(axes)
