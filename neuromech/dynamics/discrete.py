"""Exact discrete laws: how a charge moves in one step of an optimizer, as pure recursions over vectors of charges.

With <x, D y> = sum over the charge's elements of weight * x * y, b the momentum buffer, g the gradient that the step
follows and G = g + weight_decay * theta, expanding theta+ = a theta - lr (p G + q b+), a = settings.decay, gives a
recursion that is closed up to the drives below: none of them is a property of the weights if the symmetry is exact,
since then <g, D theta> = 0 (quadratic) and <c, g> = 0 (linear). For other optimizers theta+ = a theta - d gives a law
with a torque <d, D theta> that is measured. Derived from the update rule; no approximation is made.

Every argument that is a Tensor has the shape of the charges, float64; a drive may be the number 0.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from neuromech.optimizers import Settings


class Quadratic(NamedTuple):
    """State of charges <theta, D theta>."""

    charge: Tensor
    position: Tensor  # <b, D theta>
    kinetic: Tensor  # <b, D b>


class QuadraticDrive(NamedTuple):
    """What a step brings to a quadratic charge."""

    gradient: Tensor | float  # <g, D g>
    memory: Tensor | float  # <b, D g> with the buffer before the step; 0 if there is no buffer
    torque: Tensor | float  # <g, D theta>; 0 for an exact symmetry


class Linear(NamedTuple):
    """State of charges <c, theta>."""

    charge: Tensor
    buffer: Tensor  # <c, b>


class DecayedForms(NamedTuple):
    """The forms that involve G = g + weight_decay * theta."""

    torque: Tensor | float  # <G, D theta>
    gradient: Tensor | float  # <G, D G>
    memory: Tensor | float  # <b, D G>


def decayed(state: Quadratic, drive: QuadraticDrive, weight_decay: float) -> DecayedForms:
    if weight_decay == 0:
        return DecayedForms(drive.torque, drive.gradient, drive.memory)
    torque = drive.torque + weight_decay * state.charge
    gradient = drive.gradient + weight_decay * (drive.torque + torque)
    return DecayedForms(torque, gradient, drive.memory + weight_decay * state.position)


def quadratic_step(state: Quadratic, drive: QuadraticDrive, settings: Settings, first: bool) -> Quadratic:
    """The state after one step; `first`: the step makes the momentum buffer."""
    lr, a, (p, q), (mu, k) = settings.lr, settings.decay, settings.update, settings.buffer(first)
    big = decayed(state, drive, settings.weight_decay)
    if settings.momentum == 0:
        charge = a**2 * state.charge - 2 * lr * a * big.torque + lr**2 * big.gradient
        return Quadratic(charge, a * state.position - lr * big.memory, state.kinetic)

    position = mu * state.position + k * big.torque  # <b+, D theta>
    kinetic = mu**2 * state.kinetic + k**2 * big.gradient + 2 * mu * k * big.memory
    if p == 0:
        charge = a**2 * state.charge - 2 * lr * a * position + lr**2 * kinetic
        return Quadratic(charge, a * position - lr * kinetic, kinetic)

    mixed = mu * big.memory + k * big.gradient  # <G, D b+>
    along = mixed + q * kinetic  # <b+, D (G + q b+)>
    pull = big.torque + q * position
    charge = a**2 * state.charge - 2 * lr * a * pull + lr**2 * (big.gradient + q * (mixed + along))
    return Quadratic(charge, a * position - lr * along, kinetic)


def linear_step(state: Linear, torque: Tensor | float, settings: Settings, first: bool) -> Linear:
    """The state after one step. `torque` is <c, g>: 0 for an exact symmetry."""
    (p, q), (mu, k) = settings.update, settings.buffer(first)
    force = torque + settings.weight_decay * state.charge
    buffer = mu * state.buffer + k * force
    return Linear(settings.decay * state.charge - settings.lr * (p * force + q * buffer), buffer)


class DisplacementForms(NamedTuple):
    """What a step theta+ = a theta - d of any optimizer brings to a charge, measured: its symmetry-breaking torque.

    `pull`: a <d, D theta> or <c, d>; `square`: <d, D d>, or 0 for linear charges.
    """

    pull: Tensor
    square: Tensor | float


def drift_step(charge: Tensor, d: DisplacementForms, decay: float, degree: int) -> Tensor:
    """A charge of `degree` 1 (linear) or 2 after a step theta+ = decay theta - d of any optimizer."""
    return decay**degree * charge - degree * d.pull + d.square
