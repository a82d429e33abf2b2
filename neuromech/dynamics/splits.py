"""Parts: a charge whose terms do not all move alike is the sum of parts that do, and each part obeys the law by itself.

In one step one law holds for a charge if its terms have equal settings and all or none of them move and all or none of
them make their momentum buffer. Else the terms are grouped into parts for which this is true. The symmetry protects
the whole, not a part, so the torque of a part has to be measured; what the parts gain adds up to what the charge gains.

    label     the motions of one step, up to what matters here: a `Pattern`
    divide    one family by a pattern
    Layout    one division of all families, compiled; `regroup` carries states from one to another
    Plan      a pattern, compiled: a layout, and which of its rows move under each label
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.charge import Forms, slices_of
from neuromech.dynamics.forms.sums import Block
from neuromech.dynamics.forms.vectors import Scratch, Values
from neuromech.dynamics.motion import Drift, Motion
from neuromech.optimizers import Settings
from neuromech.symmetry import Symmetry

Division = tuple[tuple[int, ...], ...]  # of one family: its parts, each the indices of its terms


class Label(NamedTuple):
    """Names the motion of a parameter within one step: equal labels, equal motion."""

    first: bool
    number: int


Pattern = tuple[Label | None, ...]  # of parameters; None: does not move


class Part(NamedTuple):
    family: int
    terms: tuple[int, ...]


def label(names: Iterable[str], motions: Mapping[str, Motion]) -> tuple[Pattern, dict[Label, Settings | Drift]]:
    """The pattern of `motions` over the parameters `names`, and the settings behind each label."""
    settings: dict[Label, Settings | Drift] = {}
    known: dict[tuple[int, bool], Label] = {}  # by identity: hashing settings is slow, and a param group shares one
    equal: dict[tuple[Settings | Drift, bool], Label] = {}
    pattern: list[Label | None] = []
    for name in names:
        motion = motions.get(name)
        if motion is None:
            pattern.append(None)
            continue
        key = id(motion.settings), motion.first
        if key not in known:
            known[key] = equal.setdefault((motion.settings, motion.first), Label(motion.first, len(equal)))
            settings[known[key]] = motion.settings
        pattern.append(known[key])
    return tuple(pattern), settings


def divide(labels: Sequence[Label | None]) -> Division:
    """The parts of a family, from the labels of its terms.

    Terms that do not move come last, after those that make their buffer: `regroup` reads all parts but the last from
    the weights and the buffers, and the buffer of a parameter that does not move cannot be seen.
    """
    parts: dict[Label | None, list[int]] = {}
    for i, x in enumerate(labels):
        parts.setdefault(x, []).append(i)
    return tuple(tuple(parts[x]) for x in sorted(parts, key=lambda x: (x is None, x or ())))


def approximate(s: Symmetry) -> bool:
    """True if the exact law of a family takes its measured torque.

    Where an operator breaks the symmetry (`broken_by`), and for every translation: gradients that cancel in exact
    arithmetic, such as that of a bias in front of a batch norm, are rounding errors that add up over a run. Their sum
    <c, g> reads no weights, so the law remains a prediction.
    """
    return bool(s.broken_by) or s.is_linear


class Layout:
    """The rows of all parts, under one division of every family. Without split families rows are charges.

    `torque` masks the rows whose torque enters a law at every step: [laws, rows]. Law 0 is the exact one: approximate
    and split families. Law 1 is the ideal one: split families only. `measures` says for (quadratic, linear) rows if
    there is any; `torque_known` masks the charges: [charges]. `count`: the elements behind each row.
    """

    def __init__(
        self,
        symmetries: Sequence[Symmetry],
        divisions: Sequence[Division],
        params: Values,
        scratch: Scratch | None = None,
        members: Sequence[range] | None = None,
    ) -> None:
        """`members`: those of each family that have rows; None: all."""
        own = [range(s.size) for s in symmetries] if members is None else members
        self.divisions = tuple(divisions)
        self.split = frozenset(f for f, parts in enumerate(self.divisions) if len(parts) > 1)
        parts = [Part(f, terms) for f, division in enumerate(self.divisions) for terms in division]
        blocks = []
        for f, terms in parts:
            s = symmetries[f]
            blocks.append(Block.of(s, own[f])._replace(terms=tuple(s.terms[i] for i in terms)))
        takes_torque = [i for i, (f, _) in enumerate(parts) if f in self.split or approximate(symmetries[f])]
        self.forms = Forms(blocks, params, scratch, few=takes_torque)
        self.rows = dict(zip(parts, self.forms.slices, strict=True))

        charges = slices_of([Block.of(s, m) for s, m in zip(symmetries, own, strict=True)])
        rows = sum(self.forms.rows)
        torque = torch.zeros(2, rows, dtype=torch.bool)
        to = torch.empty(rows, dtype=torch.long)
        for (f, _), here in self.rows.items():
            torque[0, here] = f in self.split or approximate(symmetries[f])
            torque[1:, here] = f in self.split
            to[here] = torch.arange(charges[f].start, charges[f].stop)
        self.measures = tuple(bool(kind.any()) for kind in torque.split(self.forms.rows, dim=1))
        self.torque, self._to = torque.to(self.forms.device), to.to(self.forms.device) if self.split else None
        self._charges = sum(map(len, own))
        count = torch.ones(rows, dtype=torch.float64)
        for block, here in zip(blocks, self.forms.slices, strict=True):
            count[here] = block.elements(params)
        self.count = count.to(self.forms.device)
        self.torque_known = self.total(self.torque[0].double()) > 0

    def of_charges(self, x: Tensor) -> Tensor:
        """What each part has of a quantity of its charge, all of it: from [charges] to [rows]."""
        return x if self._to is None else x[self._to]

    def total(self, x: Tensor) -> Tensor:
        """Sum over parts: from [..., rows] to [..., charges]; of the first rows only, if there are no more."""
        if self._to is None:
            return x
        to = self._to[: x.shape[-1]]
        return torch.zeros(*x.shape[:-1], self._charges, dtype=x.dtype, device=x.device).index_add_(-1, to, x)


def regroup(state: Tensor, old: Layout, new: Layout, read: Tensor) -> Tensor:
    """Carry `state` [quantities, rows of old] to the rows of `new`, given the values `read` [quantities, rows of new].

    A part of both stays as it is. Parts that merge are added. Parts that are new take the values read, but for the
    last one of a family, which takes what is left of the joint state: so the charge, with the error that its
    prediction has gathered, is the same before and after.
    """
    out = read.clone()
    for family in range(len(new.divisions)):
        before = [Part(family, terms) for terms in old.divisions[family]]
        after = [Part(family, terms) for terms in new.divisions[family]]
        for part in set(before) & set(after):
            out[:, new.rows[part]] = state[:, old.rows[part]]
        if fresh := [part for part in after if part not in before]:
            joint = torch.stack([state[:, old.rows[part]] for part in before if part not in after]).sum(0)
            for part in fresh[:-1]:
                joint = joint - read[:, new.rows[part]]
            out[:, new.rows[fresh[-1]]] = joint
    return out


class Move(NamedTuple):
    """Rows of one kind (0 quadratic, 1 linear) that move under one label; rows None: all of the kind."""

    label: Label
    kind: int
    rows: Tensor | None


class Plan(NamedTuple):
    layout: Layout
    moves: tuple[Move, ...]


def plan(
    symmetries: Sequence[Symmetry],
    labels: Mapping[str, Label | None],
    params: Values,
    layouts: Iterable[Layout] = (),
    scratch: Scratch | None = None,
    members: Sequence[range] | None = None,
) -> Plan:
    """Compile a pattern, given as a label for each parameter; one of `layouts` is used if it fits."""
    divisions = tuple(divide([labels[t.parameter] for t in s.terms]) for s in symmetries)
    layout = next((x for x in layouts if x.divisions == divisions), None)
    layout = layout or Layout(symmetries, divisions, params, scratch, members)
    places: dict[tuple[Label, int], list[slice]] = {}
    for (f, terms), rows in layout.rows.items():
        moved_by = labels[symmetries[f].terms[terms[0]].parameter]
        if moved_by is not None:
            places.setdefault((moved_by, int(symmetries[f].is_linear)), []).append(rows)
    moves = []
    for (moved_by, kind), slices in places.items():
        start = kind * layout.forms.rows[0]
        which = torch.cat([torch.arange(s.start - start, s.stop - start) for s in slices])
        every = len(which) == layout.forms.rows[kind]
        moves.append(Move(moved_by, kind, None if every else which.to(layout.forms.device)))
    return Plan(layout, tuple(moves))
