"""Tensors as detection sees them, and the equations that they have to obey."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from neuromech.detect.axes import Axis, Label, leaves
from neuromech.detect.data import Data, renamed_data
from neuromech.detect.equations import Equation, sole_functions
from neuromech.detect.expr import Expr, Unknown
from neuromech.detect.refine import NonNested, Renaming


class Unsupported(Exception):
    """A rule met an option or a shape that it does not understand."""


def reason_of(error: Exception) -> str:
    """Why nothing is claimed through an operator whose rule has raised `error`: said in words, or a mistake of ours."""
    said = type(error).__module__.startswith("neuromech.")
    return str(error) if said else f"its rule fails here ({type(error).__name__}: {error})"


@dataclass(frozen=True, eq=False)
class Abstract:
    """A tensor as detection sees it; `data` stands for its content, with its indices in an order that never changes."""

    axes: tuple[Axis, ...]
    data: Data
    scale: Expr = field(default_factory=Expr)
    shift: Expr = field(default_factory=Expr)
    growth: Expr = field(default_factory=Expr)  # what a shift before an exponential multiplies it by: exp(growth)
    rows: tuple[Label, ...] = ()  # indices of a table of which the data chose one: all rows may scale by themselves
    masked: bool = False  # some entries are so low that a softmax does not see them: their shift means nothing
    lowest: bool = False  # all entries are
    empty: bool = False  # there are none
    zero: bool = False  # all entries are known to be zero: it scales with anything, also along axes that it lacks

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def labels(self) -> list[Label]:
        return [x for a in self.axes for x in leaves(a)]

    def along(self, dims: Iterable[int]) -> list[Label]:
        """The labels of some axes; negative numbers count from the last."""
        return [x for d in dims for x in leaves(self.axes[d])]

    def rename(self, how: Renaming | Mapping[Label, Label], axes: Sequence[Axis] | None = None) -> Abstract:
        """The tensor with its indices called by other labels; `axes` where a regrouping goes across axes."""
        how = how if isinstance(how, Renaming) else Renaming(how)
        if axes is None:
            axes = [_renamed(a, how) for a in self.axes]
        return replace(
            self,
            axes=tuple(axes),
            data=renamed_data(self.data, how),
            scale=self.scale.rename(how),
            shift=self.shift.rename(how),
            growth=self.growth.rename(how),
        )

    def fresh(self) -> Abstract:
        """The same tensor under labels that nothing else has, so that two uses cannot be mixed up."""
        return self.rename({x: Label(x.atom) for x in self.labels})

    def varies_along(self, labels: Iterable[Label]) -> bool:
        """True if the exponent or the amount of a shift depends on these indices (the data that multiply it may)."""
        tops = set(labels)
        factors = (f._replace(data=()) for e in (self.scale, self.shift) for f in e.terms)
        return any(f.touches(tops) for f in factors)

    def only_data_along(self, labels: Sequence[Label]) -> bool:
        """True if nothing depends on these indices but data, of which nothing is known along them."""
        if self.rows or self.varies_along(labels):
            return False
        every = (self.data, *(d for e in (self.scale, self.shift) for f in e.terms for d in f.data))
        known = (x for d in every for over in (*(o for o, _ in d.sums), *((q,) for q, _ in d.pieces)) for x in over)
        return not any(x.under(labels) for x in leaves(known)) and not any(d.has_part_of(labels) for d in every)

    def multiplied_out(self, labels: Sequence[Label]) -> Abstract:
        """The tensor; in its shift, products of data some of which have some of these indices are data of their own."""
        terms = ((f.multiplied_out(labels), c) for f, c in self.shift.terms.items())
        split = any(d.has_part_of(labels) for f in self.shift.terms for d in f.data)
        return replace(self, shift=Expr.sum(terms)) if split else self

    def relabelled(self, how: object, old: Sequence[Label], new: Sequence[Label]) -> Abstract:
        """The tensor with other entries, which `how` says, where nothing but the data depends on the indices `old`;
        its axes are left as they are."""

        def moved(e: Expr) -> Expr:
            if not any(f.data for f in e.terms):
                return e
            data = ((f, tuple(d.taken(how, old, new) for d in f.data), c) for f, c in e.terms.items())
            return Expr.sum((f._replace(data=some), c) for f, some, c in data)

        return replace(self, data=self.data.taken(how, old, new), scale=moved(self.scale), shift=moved(self.shift))


def _renamed(axis: Axis, how: Renaming) -> Axis:
    labels = leaves(axis)
    for regrouping in how.regroupings:
        of = leaves(regrouping.of)
        if of[0] in labels:
            at = labels.index(of[0])
            if labels[at : at + len(of)] != of:
                raise NonNested("an index is read anew across axes")
            labels[at : at + len(of)] = leaves(regrouping.to)
    to = how.by_parts()
    return tuple(to.get(x, x) for x in labels)


class Event(NamedTuple):
    """Something that happened to a carried quantity, kept to explain a symmetry later."""

    verb: str  # "normalises", "absorbs", "passes"
    words: str
    expr: Expr
    broken_by: str = ""


@dataclass
class Domain:
    """The equations of one kind of symmetry (scaling or translation), and the events that explain their solutions."""

    equations: list[Equation] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    auxiliary: list[Unknown] = field(default_factory=list)
    _zero: dict[int, Expr] = field(default_factory=dict)  # by identity
    _at_rest: set[Unknown] = field(default_factory=set)  # functions that are zero in every solution

    def vanish(self, expr: Expr, along: Iterable[Label] | None = None) -> None:
        """Require that `expr` is zero, or (with `along`) that it does not depend on those indices."""
        if left := self._without_zeros(expr):
            self.equations.append(Equation(left, None if along is None else tuple(along)))
            if along is None:
                self._at_rest.update(sole_functions(left))
        if along is None:
            self._zero[id(expr)] = expr

    def simplified(self, expr: Expr) -> Expr:
        """The expression without what was required to be zero: else what a stream carries would add up at every use."""
        return Expr() if id(expr) in self._zero else self._without_zeros(expr)

    def _without_zeros(self, expr: Expr) -> Expr:
        """The expression without the functions that are zero in every solution."""
        rest = self._at_rest
        if not rest or all(f.unknown not in rest for f in expr.terms):
            return expr
        return Expr({f: c for f, c in expr.terms.items() if f.unknown not in rest})

    def free(self, labels: Iterable[Label]) -> Expr:
        """An unknown function of its own, which nothing constrains yet."""
        bound = leaves(labels)
        name = Unknown(Label(x.atom) for x in bound)
        self.auxiliary.append(name)
        return Expr.of(name).rename(dict(zip(name.labels, bound, strict=True)))

    def uniform(self, expr: Expr, over: Sequence[Label]) -> Expr:
        """Require that `expr` does not depend on the indices `over`, and drop them."""
        self.vanish(expr, along=over)
        return self._named(expr.averaged(over))

    def equal(self, a: Expr, b: Expr) -> Expr:
        """Require a = b; returns the shorter of the two."""
        self.vanish(a - b)
        return min(a, b, key=lambda e: len(e.terms))

    def _named(self, expr: Expr, longest: int = 3) -> Expr:
        """A long expression gets a name of its own, so that depth does not add up."""
        if len(expr.terms) <= longest or any(f.data for f in expr.terms):
            return expr
        short = self.free(expr.labels())
        self.vanish(expr - short)
        return short
