"""The predictions for charges of one kind, all laws side by side, one step on at a time.

A `Track` holds the state of every law: the exact discrete one (and, where a symmetry is approximate, the ideal one,
which takes it for exact), the gradient flow and the flow at finite lr. The functions here only hand each law the same
measured `Drives`; what the laws say is in discrete.py and flow.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.descent import Settings
from neuromech.dynamics.discrete import Linear, Quadratic, QuadraticDrive, linear_step, quadratic_step
from neuromech.dynamics.flow import Oscillator, Push, continuous_step, gradient_flow, push


class Track(NamedTuple):
    """State of every law; `laws` is 1, or 2 where the ideal law (row 1) is told apart from the exact one (row 0)."""

    charge: Tensor  # [laws, rows]
    momentum: Tensor  # [laws, rows]: <b, D theta> or <c, b>
    kinetic: Tensor  # [laws, rows]: <b, D b>, unused in linear charges
    flow: Tensor  # [rows]
    continuous: Tensor  # [rows]
    velocity: Tensor  # [rows], of continuous

    def pack(self) -> Tensor:
        return torch.cat([x if x.ndim == 2 else x[None] for x in self])

    @classmethod
    def unpack(cls, x: Tensor, laws: int) -> Track:
        charge, momentum, kinetic, (flow,), (continuous,), (velocity,) = x.split((laws, laws, laws, 1, 1, 1))
        return cls(charge, momentum, kinetic, flow, continuous, velocity)

    def take(self, rows: Tensor) -> Track:
        return Track(*(x[..., rows] for x in self))

    def put(self, rows: Tensor, new: Track) -> Track:
        return Track(*(x.index_copy(-1, rows, y) for x, y in zip(self, new, strict=True)))

    def lost(self) -> Track:
        return Track(*(torch.full_like(x, math.nan) for x in self))


class Drives(NamedTuple):
    """What was measured before a step for the rows of one kind: [rows], torque [laws, rows]; 0: not needed."""

    gradient: Tensor | float
    memory: Tensor | float
    torque: Tensor | float

    def take(self, rows: Tensor) -> Drives:
        return Drives(*(x[..., rows] if isinstance(x, Tensor) else x for x in self))

    def scaled(self, factor: float | Tensor) -> Drives:
        """The drives of the gradient times `factor` (a number or [rows])."""
        return Drives(factor * factor * self.gradient, factor * self.memory, factor * self.torque)


def advance_quadratic(track: Track, drives: Drives, settings: Settings, first: bool) -> Track:
    """All predictions for quadratic charges, one step on."""
    law, drive = Quadratic(track.charge, track.momentum, track.kinetic), QuadraticDrive(*drives)
    new = quadratic_step(law, drive, settings, first)
    exact = Quadratic(*(x[0] for x in law))
    own = drive._replace(torque=_first(drives.torque))
    pushed = push(exact, Quadratic(*(x[0] for x in new)), own, settings, first)
    flow = gradient_flow(track.flow, own.torque, settings, 2)
    return Track(
        *new, flow, *continuous_step(Oscillator(track.continuous, track.velocity), exact, pushed, settings, first)
    )


def advance_linear(track: Track, drives: Drives, settings: Settings, first: bool) -> Track:
    """All predictions for linear charges, one step on."""
    new = linear_step(Linear(track.charge, track.momentum), drives.torque, settings, first)
    exact, torque = Linear(track.charge[0], track.momentum[0]), _first(drives.torque)
    flow = gradient_flow(track.flow, torque, settings, 1)
    oscillator = Oscillator(track.continuous, track.velocity)
    continuous = continuous_step(oscillator, exact, Push(0.0, 0.0, torque), settings, first)
    return Track(*new, track.kinetic, flow, *continuous)


def _first(x: Tensor | float) -> Tensor | float:
    return x[0] if isinstance(x, Tensor) else x
