"""`Laws`: the charges of a set of symmetries, observed and predicted step by step beside a training run.

Around every optimizer step: `before(params, grads, motions)`, then the step, then `after(params)`, which returns one
row of a record. Predictions read the weights once, at the start. After that they see what the step is told (`Motion`),
the gradients and the momentum buffers; the weights only where a torque has to be measured, which is for approximate
families of quadratic charges and split ones (parts.py), and where a buffer or a split comes up in mid-run.

Shapes: flat vectors over all members, [rows], float64, on the device of the parameters; family i has the rows
`Laws.slices[i]`. Nothing waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.charge import Scratch, Values, blank
from neuromech.dynamics.descent import Motion, Settings
from neuromech.dynamics.parts import LOST, Label, Layout, Pattern, Plan, approximate, divide, label, plan, regroup
from neuromech.dynamics.track import Drives, Track, advance_linear, advance_quadratic
from neuromech.errors import InstrumentError, RecordError, SymmetryError
from neuromech.symmetry import Symmetry

PLANS = 32  # patterns kept compiled: a run that alternates between a few of them compiles each once


class Reading(NamedTuple):
    """The charges after a step, each [rows], float64.

    `exact` is the discrete law, with the measured torque where the symmetry is approximate; `ideal` is the same law
    with the symmetry taken for exact; `flow` the gradient flow (lr -> 0); `continuous` the flow at finite lr; nan: the
    charge was moved by an optimizer without a known law. `scale` is what a residual is divided by. `leak` is the torque
    <g, D theta> or <c, g> of this step; nan: the symmetry says that it is zero, so it was not measured.
    """

    observed: Tensor
    exact: Tensor
    ideal: Tensor
    flow: Tensor
    continuous: Tensor
    scale: Tensor
    leak: Tensor


class _Step(NamedTuple):
    """What `before` found: the plan, the settings behind each label, the drives of both kinds."""

    plan: Plan
    settings: dict[Label, Settings | None]
    drives: tuple[Drives, Drives]


class Laws:
    """The charges of `symmetries` over `params`, and their laws. Predictions start at `params`, as with `initial`.

    Raises `SymmetryError` if a symmetry does not fit the parameters.
    """

    def __init__(self, symmetries: Sequence[Symmetry], params: Values) -> None:
        self.symmetries = tuple(symmetries)
        for s in self.symmetries:
            s.check(params)
            if bad := [name for name in s.parameters if not params[name].is_floating_point()]:
                raise SymmetryError(f"{s.name}: {bad[0]} is {params[bad[0]].dtype}; a charge is a sum of real numbers")
        self._like = blank(params)
        self._scratch = Scratch()
        self._whole = Layout(
            self.symmetries, [divide([None] * len(s.terms)) for s in self.symmetries], self._like, self._scratch
        )
        self._names = tuple(dict.fromkeys(name for s in self.symmetries for name in s.parameters))
        self._plans: dict[Pattern, Plan] = {}
        self.slices = self._whole.forms.slices
        self.initial(params)

    @property
    def split(self) -> frozenset[int]:
        """The families whose terms did not all move alike in the last step: their torque was measured."""
        return self._layout.split

    @property
    def split_ever(self) -> frozenset[int]:
        """The families that were split in any step so far."""
        return self._split_ever

    def initial(self, params: Values) -> Reading:
        """Start (or start over) all predictions from `params`: the row of step 0."""
        self._plans.clear()
        self._layout = self._whole
        self._split_ever: frozenset[int] = frozenset()
        self._met: set[str] = set()  # parameters whose buffer the states contain
        self._step: _Step | None = None
        charge, scale = self._whole.forms.charges(params)
        zero = torch.zeros_like(charge)
        self._unpack(self._states(charge, zero, zero))
        return self._reading(charge, scale, torch.full_like(charge, math.nan))

    def before(self, params: Values, grads: Values, motions: Mapping[str, Motion]) -> None:
        """Measure what the step about to be taken will do. Mappings by parameter name; `motions` as from `read`.

        Parameters without a motion stay. Raises `InstrumentError` if one with a motion has no gradient.
        """
        if missing := [name for name in motions if name not in grads]:
            raise InstrumentError(f"{missing[0]} has a motion but no gradient: pass the gradients of all that moves")
        pattern, settings = label(self._names, motions)
        labels = dict(zip(self._names, pattern, strict=True))
        moving = [name for name, x in labels.items() if x not in (None, LOST)]
        buffers = {name: b for name in moving if (b := motions[name].buffer) is not None}

        self._meet(params, {name: b for name, b in buffers.items() if name not in self._met})
        self._met.update(moving)
        if pattern not in self._plans:
            if len(self._plans) >= PLANS:
                self._plans.clear()
            layouts = (self._whole, self._layout, *(p.layout for p in self._plans.values()))
            self._plans[pattern] = plan(self.symmetries, labels, self._like, layouts, self._scratch)
        now = self._plans[pattern]
        if now.layout is not self._layout:
            self._regroup(now.layout, params, buffers)
        self._step = _Step(now, settings, self._measure(params, {name: grads[name] for name in moving}, buffers))

    def after(self, params: Values) -> Reading:
        """Observe the charges after the step, and take all predictions there.

        Raises `InstrumentError` if `before` was not called.
        """
        if self._step is None:
            raise InstrumentError(
                "after() found no step: call before() ahead of each optimizer step, after() behind it"
            )
        (now, settings, drives), self._step = self._step, None
        torques = [torch.zeros_like(track.flow) for track in self._tracks]
        for moved_by, kind, rows in now.moves:
            told, track, own = settings[moved_by], self._tracks[kind], drives[kind]
            if rows is not None:
                track, own = track.take(rows), own.take(rows)
            if told is None:
                new = track.lost()
            else:
                own = own.scaled(told.gradient_factor)
                new = (advance_quadratic, advance_linear)[kind](track, own, told, moved_by.first)
                if isinstance(own.torque, Tensor):
                    torques[kind] = own.torque[0] if rows is None else torques[kind].index_copy(0, rows, own.torque[0])
            self._tracks[kind] = new if rows is None else self._tracks[kind].put(rows, new)
        observed, scale = self._whole.forms.charges(params)
        leak = torch.full_like(observed, math.nan)
        if any(self._layout.measures):
            leak = torch.where(self._layout.torque_known, self._layout.total(torch.cat(torques)), leak)
        return self._reading(observed, scale, leak)

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
        self._layout = Layout(self.symmetries, divisions, self._like, self._scratch)
        self._plans.clear()
        self._step = None
        self._unpack(state["state"].to(device=self._whole.forms.device, copy=True))
        self._met = set(state["met"])
        self._split_ever = frozenset(state["split_ever"])

    def _families(self) -> list[list[Any]]:
        return [[s.name, s.size, "approximate" if approximate(s) else "exact"] for s in self.symmetries]

    def _measure(self, params: Values, grads: Values, buffers: Values) -> tuple[Drives, Drives]:
        """The drives of all rows; what nothing needs is 0 and is not measured."""
        if not grads:
            return Drives(0.0, 0.0, 0.0), Drives(0.0, 0.0, 0.0)
        layout = self._layout
        (quadratic, linear), (asks_quadratic, asks_linear) = layout.torque.split(layout.forms.rows, 1), layout.measures
        pairs = [(grads, grads)] + [(buffers, grads)] * bool(buffers) + [(grads, params)] * asks_quadratic
        forms = layout.forms.bilinear(pairs)
        torque = torch.where(quadratic, forms[-1], 0.0) if asks_quadratic else 0.0
        force = torch.where(linear, layout.forms.linear([grads])[0], 0.0) if asks_linear else 0.0
        return Drives(forms[0], forms[1] if buffers else 0.0, torque), Drives(0.0, 0.0, force)

    def _meet(self, params: Values, buffers: Values) -> None:
        """Take into the states what was in momentum buffers before we looked: they add up over parameters."""
        if not buffers:
            return
        read = self._layout.forms([(buffers, params), (buffers, buffers)]).split(self._layout.forms.rows, dim=1)
        for kind, (position, kinetic) in enumerate(read):
            track = self._tracks[kind]
            self._tracks[kind] = track._replace(momentum=track.momentum + position, kinetic=track.kinetic + kinetic)

    def _regroup(self, layout: Layout, params: Values, buffers: Values) -> None:
        read = layout.forms([(params, params), (buffers, params), (buffers, buffers)])
        state = regroup(self._pack(), self._layout, layout, self._states(*read))
        self._layout = layout
        self._split_ever |= layout.split
        self._unpack(state)

    def _states(self, charge: Tensor, position: Tensor, kinetic: Tensor) -> Tensor:
        """States of all laws, from what was read off the weights and buffers: [quantities, rows]."""
        n = self._layout.torque.shape[0]
        velocity = torch.full_like(charge, math.nan)
        return torch.stack([charge] * n + [position] * n + [kinetic] * n + [charge, charge, velocity])

    def _pack(self) -> Tensor:
        return torch.cat([track.pack() for track in self._tracks], dim=1)

    def _unpack(self, state: Tensor) -> None:
        n = self._layout.torque.shape[0]
        self._tracks = [Track.unpack(kind, n) for kind in state.split(self._layout.forms.rows, dim=1)]

    def _reading(self, observed: Tensor, scale: Tensor, leak: Tensor) -> Reading:
        rows = [torch.cat((t.charge, t.flow[None], t.continuous[None])) for t in self._tracks]
        *discrete, flow, continuous = self._layout.total(torch.cat(rows, dim=1)).unbind()
        return Reading(observed, discrete[0], discrete[-1], flow, continuous, scale, leak)
