"""One index set addressed in several ways: cut into pieces, put together anew, made to agree.

A slice, a concatenation, a reshape, and two tensors that meet in an operator all come down to this: the indices of an
axis are known under some labels, and shall be known under others. Where both are products that nest, atoms are merged
and split; where they are not, both are cut into pieces that agree, in the worst case index by index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from math import prod
from typing import NamedTuple

from neuromech.detect.axes import Atom, Axis, Label, axis, by_parts, count, leaves
from neuromech.detect.effort import checkpoint, cut_allowed

MANY = 4096  # segments that an axis may be cut into: beyond, explicit indices cost too much


class NonNested(Exception):
    """Two ways to cut an axis that have no common refinement of tolerable size."""


@dataclass(frozen=True)
class Interval:
    """A run of indices of an axis from `start` on: those in the segments `guards`, addressed by `labels`."""

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
    entries: tuple[IntervalMap, ...]

    def within(self, guards: Iterable[Label]) -> Iterable[IntervalMap]:
        """The entries that something which lives in `guards` may fall into: all of them, if it is not known which."""
        known = next((g for g in guards if g in self._by_segment), None)
        return self.entries if known is None else self._by_segment[known]

    @cached_property
    def _by_segment(self) -> dict[Label, list[IntervalMap]]:
        """The entries by the outermost segment that they lie in, if all lie in segments of one sum."""
        outer = [next(iter(e.interval.guards), None) for e in self.entries]
        owners = {g.owner if g else None for g in outer}
        owner = owners.pop() if len(owners) == 1 else None
        found: dict[Label, list[IntervalMap]] = {g: [] for g in owner.segments} if owner else {}
        for g, entry in zip(outer, self.entries, strict=True) if owner else ():
            assert g is not None
            found[g].append(entry)
        return found


class IntervalMap(NamedTuple):
    """A piece of the old indices: it becomes the segments `guards` of the new ones, its labels are called `names`."""

    interval: Interval
    guards: tuple[Label, ...]
    names: Renaming


@dataclass(frozen=True)
class Renaming:
    """What the labels of a tensor are called once its axes are aligned with others."""

    same: Mapping[Label, Label] = field(default_factory=dict)
    regroupings: tuple[Regrouping, ...] = ()
    _read: dict[int, dict[Label, Label]] = field(default_factory=dict, compare=False, repr=False)

    def by_parts(self) -> dict[Label, Label]:
        """What everything is called that the labels consist of by now."""
        if (now := Atom.changes) not in self._read:
            self._read.clear()
            self._read[now] = by_parts(self.same)
        return self._read[now]

    def __bool__(self) -> bool:
        return bool(self.same or self.regroupings)


def intervals(labels: Sequence[Label], cuts: Iterable[int]) -> list[Interval]:
    """The runs of indices between `cuts`, in order; finer than asked where the axis is cut already."""
    labels = leaves(labels)
    total = count(labels)
    inner = sorted({c for c in cuts if 0 < c < total})
    if not inner:
        return [Interval((), tuple(labels), 0)]
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
        for tail in intervals((*head.labels, *rest), within):
            out.append(Interval((*head.guards, *tail.guards), tail.labels, start + tail.start))
    return out


def _segmented(label: Label, cuts: Iterable[int]) -> list[Interval]:
    """A label that is not a product, cut into segments."""
    inner = sorted({c for c in cuts if 0 < c < label.n})
    if not inner:
        return [Interval((), (label,), 0)]
    if not label.root.segments:
        cut_allowed()
        bounds = [0, *inner, label.n]
        label.root.cut(b - a for a, b in pairwise(bounds))
    out, start = [], 0
    for segment in label.parts:
        within = [c - start for c in inner if start < c < start + segment.n]
        out += [Interval((segment, *p.guards), p.labels, start + p.start) for p in intervals([segment], within)]
        start += segment.n
    return out


def assemble(of: Sequence[Label], chosen: Sequence[Interval]) -> Regrouping:
    """The axis that holds some pieces of an old one, in this order: a slice, a roll, a selection."""
    if len(chosen) == 1:  # under labels of its own: what else there was is gone
        fresh = {x: Label(x.atom) for x in leaves(chosen[0].labels)}
        return Regrouping(tuple(of), tuple(fresh.values()), (IntervalMap(chosen[0], (), Renaming(fresh)),))
    whole = sum_of([p.n for p in chosen])
    return Regrouping(
        tuple(of),
        (whole,),
        tuple(IntervalMap(p, (s,), unify([s], p.labels)) for p, s in zip(chosen, whole.parts, strict=True)),
    )


def joined(axes: Sequence[Axis]) -> tuple[Label, list[Regrouping]]:
    """The axes behind one another as one label, and how each is read as part of it.

    What is a sum already gives its segments, not itself: a sum of sums would be one more level at every skip.
    """
    runs = [_undivided(labels) for labels in axes]
    whole = sum_of([run.n for some in runs for run in some])
    segments = iter(whole.segments)
    regroupings = []
    for labels, some in zip(axes, runs, strict=True):
        entries = []
        for run, segment in zip(some, segments, strict=False):
            entries.append(IntervalMap(run, (segment,), unify([segment], run.labels)))
        regroupings.append(Regrouping(tuple(leaves(labels)), (whole,), tuple(entries)))
    return whole, regroupings


def _undivided(labels: Sequence[Label]) -> list[Interval]:
    """The intervals of an axis that are not sums; those of a product are not looked for."""
    labels = leaves(labels)
    if len(labels) != 1 or not labels[0].segments:
        return [Interval((), tuple(labels), 0)]
    out, start = [], 0
    for segment in labels[0].segments:
        out += [Interval((segment, *run.guards), run.labels, start + run.start) for run in _undivided([segment])]
        start += segment.n
    return out


def sum_of(lengths: Sequence[int]) -> Label:
    """A fresh label with segments of these lengths."""
    cut_allowed()
    whole = Label(Atom(sum(lengths)))
    whole.root.cut(lengths)
    return whole


def unify(f: Sequence[Label], g: Sequence[Label], nested: bool = False) -> Renaming:
    """Make two ways to address one index set agree; returns what the labels of `g` are called by those of `f`.

    Raises `NonNested` if no common refinement is of tolerable size, or if neither way refines the other and `nested`
    asks for that.
    """
    left, right = leaves(f), leaves(g)
    if count(left) != count(right):
        raise NonNested(f"lengths {[a.n for a in left]} and {[b.n for b in right]} differ")
    same: dict[Label, Label] = {}
    regroupings: list[Regrouping] = []
    while left:
        checkpoint()
        a, b = _pop(left), _pop(right)
        if a.n == b.n and _merge(a, b):
            same[b] = a
            continue
        big, small, rest, others = (a, b, left, right) if a.n > b.n else (b, a, right, left)
        if a.n != b.n and not big.root.segments and big.n % small.n == 0:
            big.root.split(small.n)
            rest[:0] = big.leaves()
            others.insert(0, small)
            continue
        if nested:
            raise NonNested(f"an axis of {big.n} is cut at {small.n}")
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
    two.merge(one)
    return True


def _regrouped(f: Sequence[Label], g: Sequence[Label]) -> Regrouping:
    """Both cut wherever one of them is, and then named piece by piece."""
    cuts = _ends(f) | _ends(g)
    if not cuts:  # neither is a sum: 2 x 3 against 3 x 2 has to be told index by index
        cuts = {k for x in (f, g) for k in range(0, count(x), count(x[1:]))}
    while True:
        mine, other = intervals(f, cuts), intervals(g, cuts)
        if [p.start for p in mine] == [q.start for q in other]:
            break
        cuts = {p.start for p in (*mine, *other)}
    entries = (IntervalMap(q, p.guards, unify(p.labels, q.labels)) for p, q in zip(mine, other, strict=True))
    return Regrouping(tuple(g), tuple(f), tuple(entries))


def _ends(labels: Sequence[Label]) -> set[int]:
    """Where the segments of the slowest label end."""
    step = count(labels[1:])
    return {step * end for end in accumulate(s.n for s in labels[0].segments)}


Anew = Callable[[Sequence[Label], Sequence[Label]], bool]


def regroup(
    labels: Sequence[Label], shape: Sequence[int], nested: bool = False, anew: Anew = lambda of, to: False
) -> tuple[tuple[Axis, ...], Renaming]:
    """The same indices, in the same order, read as axes of lengths `shape` (a reshape); how labels are called then.

    `anew(of, to)` is asked before labels are cut: true, if they need no names among the new ones.
    Raises `NonNested` as `unify` does.
    """
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
                a.root.split(need)
                todo[:0] = a.leaves()
            elif nested:
                raise NonNested(f"an axis of {n} cuts a factor of {a.n}")
            else:  # the axis ends inside a label that cannot be split there: this label and its neighbours read anew
                group.append(a)
                block = [n]
                while (have := count(group)) != prod(block):
                    if have < prod(block):
                        group.append(_pop(todo))
                    else:
                        block.append(lengths.pop(0))
                tail: list[Label] = []  # what is an index of its own in both
                while block[-1] % group[-1].n == 0 and block[-1] > group[-1].n:
                    block[-1] //= group[-1].n
                    tail.insert(0, group.pop())
                fresh = [axis(k) for k in block]
                axes += (*fresh[:-1], (*fresh[-1], *tail))
                if not anew(group, to := [x for f in fresh for x in f]):
                    renaming = unify(to, group)
                    same |= renaming.same
                    regroupings += renaming.regroupings
                break
        else:
            axes.append(tuple(group))
    return tuple(axes), Renaming(same, tuple(regroupings))
