"""The predictions for charges of one kind, all laws side by side, one step on at a time.

A `Track` holds the state of every law: the exact discrete one (and, where a symmetry is approximate, the ideal one,
which takes it for exact), the gradient flow and the flow at finite lr. The functions here only hand each law the same
measured drives; what the laws say is in discrete.py, flow.py and attribution.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.attribution import Gains, Sources, of_drift, of_sgd
from neuromech.dynamics.discrete import (
    DisplacementForms,
    Linear,
    Quadratic,
    QuadraticDrive,
    drift_step,
    linear_step,
    quadratic_step,
)
from neuromech.dynamics.flow import Oscillator, Push, continuous_step, drift_flow, gradient_flow, push
from neuromech.dynamics.motion import Drift
from neuromech.optimizers import Settings


class Track(NamedTuple):
    """State of every law; of the discrete ones there are two, the exact one (row 0) and the ideal one (row 1)."""

    charge: Tensor  # [laws, rows]
    momentum: Tensor  # [laws, rows]: <b, D theta> or <c, b>
    kinetic: Tensor  # [laws, rows]: <b, D b>, unused in linear charges
    flow: Tensor  # [rows]
    continuous: Tensor  # [rows]
    velocity: Tensor  # [rows], of continuous
    by_decay: Tensor  # [rows], what of momentum came from weight decay
    by_leak: Tensor  # [rows], what of it from leaks

    def pack(self) -> Tensor:
        return torch.cat([x if x.ndim == 2 else x[None] for x in self])

    @classmethod
    def unpack(cls, x: Tensor, laws: int) -> Track:
        """Each in memory of its own: steps replace some, and keep others."""
        many, single = (y.clone() for y in x[: 3 * laws].split(laws)), (y.clone() for y in x[3 * laws :].unbind())
        return cls(*many, *single)

    @staticmethod
    def height(laws: int) -> int:
        """Number of quantities that `pack` makes."""
        return 3 * laws + 5

    def take(self, rows: Tensor) -> Track:
        return Track(*(x[..., rows] for x in self))

    def put(self, rows: Tensor, new: Track) -> Track:
        return Track(*(x.index_copy(-1, rows, y) for x, y in zip(self, new, strict=True)))


class Drives(NamedTuple):
    """What was measured before a step for the rows of one kind: [rows], torque [laws, rows]; 0: not needed."""

    gradient: Tensor | float
    memory: Tensor | float
    torque: Tensor | float
    flow: Tensor | float = 0.0  # the torque that flows follow: none where the symmetry says that there is none

    def take(self, rows: Tensor) -> Drives:
        return Drives(*(x[..., rows] if isinstance(x, Tensor) else x for x in self))

    def scaled(self, factor: float | Tensor) -> Drives:
        """The drives of the gradient times `factor` (a number or [rows])."""
        if isinstance(factor, float) and factor == 1.0:
            return self
        return Drives(factor * factor * self.gradient, factor * self.memory, factor * self.torque, factor * self.flow)


def advance_quadratic(track: Track, drives: Drives, settings: Settings, first: bool) -> tuple[Track, Gains]:
    """All predictions for quadratic charges, one step of SGD on."""
    law, drive = (
        Quadratic(track.charge, track.momentum, track.kinetic),
        QuadraticDrive(drives.gradient, drives.memory, drives.torque),
    )
    new = quadratic_step(law, drive, settings, first)
    before, after = Quadratic(*(x[0] for x in law)), Quadratic(*(x[0] for x in new))
    pushed = push(before, after, drive._replace(torque=drives.flow), settings, first)
    flow = gradient_flow(track.flow, drives.flow, settings, 2)
    oscillator = continuous_step(Oscillator(track.continuous, track.velocity), before, pushed, settings, first)
    gains, sources = of_sgd(
        before, after, Sources(track.by_decay, track.by_leak), _first(drives.torque), settings, first
    )
    return Track(*new, flow, *oscillator, *sources), gains


def advance_linear(track: Track, drives: Drives, settings: Settings, first: bool) -> tuple[Track, Gains]:
    """All predictions for linear charges, one step of SGD on."""
    new = linear_step(Linear(track.charge, track.momentum), drives.torque, settings, first)
    before, after = Linear(track.charge[0], track.momentum[0]), Linear(*(x[0] for x in new))
    torque = _first(drives.torque)
    flow = gradient_flow(track.flow, drives.flow, settings, 1)
    oscillator = Oscillator(track.continuous, track.velocity)
    continuous = continuous_step(oscillator, before, Push(0.0, 0.0, drives.flow), settings, first)
    gains, sources = of_sgd(before, after, Sources(track.by_decay, track.by_leak), torque, settings, first)
    return Track(*new, _all(0.0, new.charge), flow, *continuous, *sources), gains


def advance_drift(track: Track, d: DisplacementForms, drift: Drift, degree: int) -> tuple[Track, Gains]:
    """All predictions for charges of `degree`, one step of another optimizer on.

    The buffers of SGD, if there are any, stay where they are, but not in the same relation to the weights: what is
    known of them is dropped, and read anew should SGD go on.
    """
    gains = of_drift(track.charge[0], d, drift.decay, degree)
    charge = drift_step(track.charge, d, drift.decay, degree)
    flow = (
        drift_flow(track.flow, d, drift.decay, degree)
        if drift.flow is None
        else gradient_flow(track.flow, 0.0, drift.flow, degree)
    )
    continuous = drift_flow(track.continuous, d, drift.decay, degree) + d.square
    none, velocity = _all(0.0, charge), _all(math.nan, flow)
    return Track(charge, none, none, flow, continuous, velocity, none[0], none[0]), gains


def _all(x: float, like: Tensor) -> Tensor:
    """`x` everywhere, in the memory of one number."""
    return like.new_full((), x).expand_as(like)


def _first(x: Tensor | float) -> Tensor | float:
    return x[0] if isinstance(x, Tensor) else x


def with_ideal(state: Tensor, laws: int) -> Tensor:
    """A packed `Track`; earlier versions kept no ideal law where it was the exact one."""
    return state if len(state) == Track.height(laws) else state[[0, 0, 1, 1, 2, 2, *range(3, len(state))]]
