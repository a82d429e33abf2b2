"""`Laws`: the charges of a set of symmetries, observed and predicted step by step beside a training run.

Around every optimizer step: `before(params, grads, motions)`, then the step, then `after(params)`, which returns one
row of a record. Under SGD, predictions read the weights once, at the start. After that they see what the step is told
(`Motion`), the gradients and the momentum buffers; the weights only where a torque has to be measured, which is for
approximate families of quadratic charges and split ones (parts.py), and where a buffer or a split comes up in mid-run.
Under other optimizers a symmetry does not protect the update, and its torque is measured at every step.

Shapes: flat vectors over all members, [rows], float64, on the device of the parameters; family i has the rows
`Laws.slices[i]`. Nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from neuromech.dynamics.attribution import Gains, turn
from neuromech.dynamics.drives import Measured, measure
from neuromech.dynamics.forms.vectors import Computed, Scratch, Values, Vector, blank
from neuromech.dynamics.motion import Drift, Motion, displacement, displacement_of
from neuromech.dynamics.predictions import Track, advance_drift, advance_linear, advance_quadratic, with_ideal
from neuromech.dynamics.protection import Protection
from neuromech.dynamics.sides import Signed
from neuromech.dynamics.splits import Label, Layout, Pattern, Plan, approximate, divide, label, plan, regroup
from neuromech.errors import InstrumentError, RecordError, SymmetryError
from neuromech.optimizers import Settings
from neuromech.rounding import coarsest
from neuromech.symmetry import Symmetry

LAWS = 2  # discrete ones: exact, ideal
PLANS = 32  # patterns kept compiled: a run that alternates between a few of them compiles each once


class Reading(NamedTuple):
    """The charges after a step, each [rows], float64.

    `exact` is the discrete law, with the measured torque where the symmetry is approximate or the optimizer breaks it;
    `ideal` is the same law with the symmetry taken for exact; `flow` the gradient flow (lr -> 0); `continuous` the flow
    at finite lr. `scale` is what a residual is divided by. `leak` is the torque <g, D theta> or <c, g> of this step;
    nan: the symmetry says that it is zero, or the optimizer does not care, so it was not measured. `gains` [5, rows]
    are the terms of what the exact law gained in this step, see attribution.TERMS; `turn` is sin^2 of the angle by
    which the step turned the weights, nan where the charge is not a squared length. `broken` is 1 where
    the gradients of the step did not leave the loss alone, though the symmetry says so: `exact` followed their torque,
    no flow did.
    """

    observed: Tensor
    exact: Tensor
    ideal: Tensor
    flow: Tensor
    continuous: Tensor
    scale: Tensor
    leak: Tensor
    gains: Tensor
    turn: Tensor
    broken: Tensor


class _Step(NamedTuple):
    """What `before` found: the plan, the settings behind each label, the drives of both kinds, the torques [1, rows] of
    directions that were known already, and the directions that are read after the step."""

    plan: Plan
    settings: dict[Label, Settings | Drift]
    measured: Measured
    late: dict[str, Computed]
    drifting: tuple[str, ...]


class _Held(NamedTuple):
    """Which momentum buffer of a parameter the states contain: that one, or any but that one; without one, any or none.

    A first step makes a buffer that is not seen before the next step.
    """

    that: TensorWeakRef | None = None
    same: bool = True

    def fits(self, buffer: Tensor) -> bool:
        return self.same if self.that is None else (self.that() is buffer) == self.same


class Laws:
    """The charges of `symmetries` over `params`, and their laws. Predictions start at `params`, as with `restart`.

    Raises `SymmetryError` if a symmetry does not fit the parameters, or is a family of rotations, which has no charge.
    """

    def __init__(
        self,
        symmetries: Sequence[Symmetry],
        params: Values,
        eps: Sequence[float] | None = None,
        whole: bool = True,
        members: Sequence[range] | None = None,
    ) -> None:
        """`eps`: of the arithmetic behind the gradients of each family. Not `whole`: parts lie in other processes.
        `members`: those of each family that are measured; None: all."""
        self.symmetries = tuple(symmetries)
        for s in self.symmetries:
            if s.skew:
                raise SymmetryError(
                    f"{s.name}: rotations have no charge, their angular momentum is zero under gradient flow, always; "
                    "pass the matrix family that they are of"
                )
            s.check(params)
            if bad := [name for name in s.parameters if not params[name].is_floating_point()]:
                raise SymmetryError(f"{s.name}: {bad[0]} is {params[bad[0]].dtype}; a charge is a sum of real numbers")
        self._like = blank(params)
        self._scratch = Scratch()
        undivided = [divide([None] * len(s.terms)) for s in self.symmetries]
        self.members = tuple(range(s.size) for s in self.symmetries) if members is None else tuple(members)
        self._whole = Layout(self.symmetries, undivided, self._like, self._scratch, self.members)
        self._names = tuple(dict.fromkeys(name for s in self.symmetries for name in s.parameters))
        self._plans: dict[Pattern, Plan] = {}
        self._split_ever: frozenset[int] = frozenset()
        self.slices = self._whole.forms.slices
        formats = [coarsest(params[n].dtype for n in s.parameters) for s in self.symmetries]
        self._protection = Protection(self.symmetries, eps or formats, self._whole.forms.device) if whole else None
        self.restart(params)

    @property
    def device(self) -> torch.device:
        """Where readings are."""
        return self._whole.forms.device

    @property
    def split(self) -> frozenset[int]:
        """The families whose terms did not all move alike in the last step: their torque was measured."""
        return self._layout.split

    @property
    def split_ever(self) -> frozenset[int]:
        """The families that were split in any step so far."""
        return self._split_ever

    def initial(self, params: Values) -> Reading:
        """Start (or start over) all predictions from `params`, and forget what happened: the row of step 0."""
        self._split_ever = frozenset()
        return self.restart(params)

    def restart(self, params: Values) -> Reading:
        """Start all predictions over from `params`, which something other than a step has changed; costs one look."""
        self._layout = self._whole
        self._met: dict[str, _Held] = {}
        self._step: _Step | None = None
        charge, scale = self._weights = self.observe(params)
        zero, unknown = torch.zeros_like(charge), torch.full_like(charge, math.nan)
        self._unpack(self._states(charge, zero, zero))
        return self._reading(charge, scale, unknown, torch.zeros(5, len(charge), dtype=charge.dtype), unknown, zero)

    def observe(self, params: Values) -> tuple[Tensor, Tensor]:
        """The charges at `params`, and the scale of their rounding: both [rows]. Predictions go on."""
        return self._whole.forms.charges(params)[:2]

    def squares(self, grads: Values) -> tuple[Signed, Signed]:
        """<x, D x>, and the same with absolute values, for the weights and the gradients of the step that `before` was
        told of: [rows], of gradients at least those of quadratic charges."""
        step = self._step
        if step is not None and step.measured.squares is not None and not step.drifting:
            signed, whole = step.measured.squares
        else:
            signed, _, whole = self._whole.forms.both([(grads, grads)])
            return self._weights, (signed[0], whole)
        return self._weights, (self._layout.total(signed), self._layout.total(whole))

    def before(self, params: Values, grads: Values, motions: Mapping[str, Motion], changed: bool = False) -> None:
        """Measure what the step about to be taken will do. Mappings by parameter name; `motions` as from `read`.

        Parameters without a motion stay. `changed`: the gradients are not those of the backward at these weights, so
        no symmetry vouches for them, and their torque is measured. Raises `InstrumentError` if one with a
        motion has no gradient.
        """
        if missing := [name for name in motions if name not in grads]:
            raise InstrumentError(f"{missing[0]} has a motion but no gradient: pass the gradients of all that moves")
        pattern, settings = label(self._names, motions)
        labels = dict(zip(self._names, pattern, strict=True))
        moving = {name: motions[name] for name, x in labels.items() if x is not None}
        buffers = {name: m.buffer for name, m in moving.items() if m.buffer is not None}

        self._meet(params, {name: b for name, b in buffers.items() if name not in self._met})
        if pattern not in self._plans:
            if len(self._plans) >= PLANS:
                self._plans.clear()
            layouts = (self._whole, self._layout, *(p.layout for p in self._plans.values()))
            self._plans[pattern] = plan(self.symmetries, labels, self._like, layouts, self._scratch, self.members)
        now = self._plans[pattern]
        if now.layout is not self._layout:
            self._regroup(now.layout, params, buffers)
        self._exchange(params, buffers)
        new = {name: self._met.get(name) for name, m in moving.items() if m.first}
        self._met |= {
            name: _Held() if old is None else _Held(old.that if old.same else None, same=False)
            for name, old in new.items()
        }
        self._met |= {name: _Held(TensorWeakRef(b)) for name, b in buffers.items()}

        drifts = {n: (told.late, m.direction) for n, m in moving.items() if isinstance(told := m.settings, Drift)}
        late = {n: u or displacement(params[n]) for n, (is_late, u) in drifts.items() if is_late}
        early = {n: u for n, (is_late, u) in drifts.items() if not is_late and u is not None}
        followed: Vector = early | {name: grads[name] for name in moving if name not in drifts}
        sgd = changed and not drifts
        found = measure(self._layout, self._protection, params, followed, buffers, self._weights[1], bool(early), sgd)
        self._step = _Step(now, settings, found, late, tuple(drifts))

    def after(self, params: Values) -> Reading:
        """Observe the charges after the step, and take all predictions there.

        Raises `InstrumentError` if `before` was not called.
        """
        if self._step is None:
            raise InstrumentError(
                "after() found no step: call before() ahead of each optimizer step, after() behind it"
            )
        (now, settings, (drives, pulls, unprotected, _), late, drifting), self._step = self._step, None
        observed, scale, moved = self._look(params, late)
        torques = [torch.zeros_like(track.flow) for track in self._tracks]
        gains = [torch.zeros(len(Gains._fields), len(t), dtype=t.dtype, device=t.device) for t in torques]
        for moved_by, kind, rows in now.moves:
            told, track, own = settings[moved_by], self._tracks[kind], drives[kind]
            if rows is not None:
                track, own = track.take(rows), own.take(rows)
            if isinstance(told, Drift):
                found = moved if told.late else pulls
                assert found is not None
                torque = found.split(self._layout.forms.rows, dim=1)[kind]
                degree = 1 if kind else 2
                d = displacement_of(told, torque if rows is None else torque[:, rows], own.gradient, degree)
                new, gained = advance_drift(track, d, told, degree)
            else:
                own = own.scaled(told.gradient_factor)
                new, gained = (advance_quadratic, advance_linear)[kind](track, own, told, moved_by.first)
                if isinstance(own.torque, Tensor):
                    torques[kind] = own.torque[0] if rows is None else torques[kind].index_copy(0, rows, own.torque[0])
            packed = gained.pack(new.flow)
            gains[kind] = packed if rows is None else gains[kind].index_copy(1, rows, packed)
            self._tracks[kind] = new if rows is None else self._tracks[kind].put(rows, new)
        for name in drifting:
            self._met.pop(name, None)
        *terms, pull = self._layout.total(torch.cat(gains, dim=1)).unbind()
        before = self._layout.total(torch.cat([t.charge[0] for t in self._tracks])) - sum(terms)
        leak = torch.full_like(observed, math.nan)
        if any(self._layout.measures):
            leak = torch.where(self._layout.torque_known, self._layout.total(torch.cat(torques)), leak)
        broken = torch.zeros_like(observed)
        if unprotected is not None:
            broken = self._layout.total(unprotected.double())
            leak = torch.where(broken > 0, self._layout.total(torch.cat(torques)), leak)
        self._weights = observed, scale
        return self._reading(observed, scale, leak, torch.stack(terms), turn(before, observed, terms[0], pull), broken)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly: a tensor, numbers, strings, lists of them."""
        return {
            "families": self._families(),
            "divisions": [[list(part) for part in division] for division in self._layout.divisions],
            "state": self._pack(),
            "met": sorted(self._met),
            "split_ever": sorted(self._split_ever),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises `RecordError` if it is of other symmetries."""
        saved, own = state["families"], self._families()
        if saved != own:
            odd = next((x for x in (*saved, *own) if (x in saved) != (x in own)), "their order")
            raise RecordError(
                f"the saved state has {len(saved)} families, these are {len(own)}, and they differ in {odd}: resume "
                "with the symmetries that were saved, or start over with initial()"
            )
        divisions = [tuple(tuple(part) for part in division) for division in state["divisions"]]
        self._layout = Layout(self.symmetries, divisions, self._like, self._scratch, self.members)
        self._plans.clear()
        self._step = None
        self._unpack(with_ideal(state["state"], LAWS).to(device=self._whole.forms.device, copy=True))
        self._met = dict.fromkeys(state["met"], _Held())
        self._split_ever = frozenset(state["split_ever"])

    def _families(self) -> list[list[Any]]:
        return [
            [s.name, s.size, "approximate" if approximate(s) else "exact"] + [m.start, m.stop] * (len(m) < s.size)
            for s, m in zip(self.symmetries, self.members, strict=True)
        ]

    def _look(self, params: Values, late: dict[str, Computed]) -> tuple[Tensor, Tensor, Tensor | None]:
        """The charges, their scale, and the torques [2, rows] of directions that are read after the step."""
        if self._layout is self._whole or not late:
            return self._whole.forms.charges(params, late or None)
        return (*self.observe(params), self._layout.forms.charges(params, late)[2])

    def _meet(self, params: Values, buffers: Values) -> None:
        """Take into the states what was in momentum buffers before we looked: they add up over parameters."""
        if not buffers:
            return
        read = self._layout.forms([(buffers, params), (buffers, buffers)]).split(self._layout.forms.rows, dim=1)
        for kind, (position, kinetic) in enumerate(read):
            track = self._tracks[kind]
            self._tracks[kind] = track._replace(momentum=track.momentum + position, kinetic=track.kinetic + kinetic)

    def _exchange(self, params: Values, buffers: Values) -> None:
        """Read anew what the states hold of momentum buffers for which others stand in: of another optimizer."""
        if not (others := {name for name, b in buffers.items() if not self._met.get(name, _Held()).fits(b)}):
            return
        read = self._layout.forms([(buffers, params), (buffers, buffers)])
        fresh = torch.zeros(read.shape[1], dtype=torch.bool)
        for (family, terms), rows in self._layout.rows.items():
            fresh[rows] = any(self.symmetries[family].terms[i].parameter in others for i in terms)
        kinds = self._layout.forms.rows
        for kind, (rows, new) in enumerate(zip(fresh.to(read.device).split(kinds), read.split(kinds, 1), strict=True)):
            position, kinetic = new
            track, zero = self._tracks[kind], torch.zeros_like(position)
            self._tracks[kind] = track._replace(
                momentum=torch.where(rows, position, track.momentum),
                kinetic=torch.where(rows, kinetic, track.kinetic),
                by_decay=torch.where(rows, zero, track.by_decay),
                by_leak=torch.where(rows, zero, track.by_leak),
            )

    def _regroup(self, layout: Layout, params: Values, buffers: Values) -> None:
        read = layout.forms([(params, params), (buffers, params), (buffers, buffers)])
        state = regroup(self._pack(), self._layout, layout, self._states(*read))
        self._layout = layout
        self._split_ever |= layout.split
        self._unpack(state)

    def _states(self, charge: Tensor, position: Tensor, kinetic: Tensor) -> Tensor:
        """States of all laws, from what was read off the weights and buffers: [quantities, rows]."""
        n = self._layout.torque.shape[0]
        velocity, zero = torch.full_like(charge, math.nan), torch.zeros_like(charge)
        return torch.stack([charge] * n + [position] * n + [kinetic] * n + [charge, charge, velocity, zero, zero])

    def _pack(self) -> Tensor:
        return torch.cat([track.pack() for track in self._tracks], dim=1)

    def _unpack(self, state: Tensor) -> None:
        n = self._layout.torque.shape[0]
        self._tracks = [Track.unpack(kind, n) for kind in state.split(self._layout.forms.rows, dim=1)]

    def _reading(
        self, observed: Tensor, scale: Tensor, leak: Tensor, gains: Tensor, turned: Tensor, broken: Tensor
    ) -> Reading:
        rows = [torch.cat((t.charge, t.flow[None], t.continuous[None])) for t in self._tracks]
        *discrete, flow, continuous = self._layout.total(torch.cat(rows, dim=1)).unbind()
        return Reading(observed, discrete[0], discrete[-1], flow, continuous, scale, leak, gains, turned, broken)
