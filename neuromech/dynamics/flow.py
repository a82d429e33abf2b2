"""Continuous laws: what differential equations say about a charge, each advanced by one step at constant cost.

Time is t = sum of lr over the steps. A charge has `degree` n: 2 if it is quadratic, 1 if it is linear. Drives are the
measured ones of the discrete laws, so only the time stepping differs between a continuous law and the exact one.

* `gradient_flow`, the limit of infinitesimal lr:     charge' = -n (force / friction) (weight_decay charge + torque)
* `continuous_step`, the flow at finite lr.
  Without momentum (Kunin et al. 2021, sec. 6):   charge' = -n (weight_decay charge + torque) + lr <g, D g>
  With momentum, the damped driven oscillator (same paper; Nesterov's terms by the same expansion), theta' = -u:

    mass charge'' + (friction + lr lookahead weight_decay) charge' + n force (weight_decay charge + torque)
        = 2 mass <u, D u> - 2 lr lookahead <u, D g> - n lr lookahead torque'          (right side 0 or torque if linear)

The numbers come from where a step really acts. The update u moves theta during the whole step, so what it drives acts
through the whole step (its mean stamp is the midpoint); a gradient changes u at one instant, the start of the step.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.descent import Settings
from neuromech.dynamics.discrete import Linear, Quadratic, QuadraticDrive, decayed


def gradient_flow(charge: Tensor, torque: Tensor | float, settings: Settings, degree: int) -> Tensor:
    """One step of the gradient flow. nan for momentum >= 1, which has no such limit."""
    if settings.friction <= 0:
        return torch.full_like(charge, math.nan)
    rate = degree * settings.lr * settings.force / settings.friction
    return math.exp(-rate * settings.weight_decay) * charge - rate * torque


class Oscillator(NamedTuple):
    """A charge and its velocity d charge / dt; velocity nan: it has none yet, the next step with momentum starts it.

    The velocity is kept per unit of time and is continuous when lr changes, because torch multiplies by lr when it uses
    the buffer, not when it fills it: lr changes the clock, not the buffer.
    """

    charge: Tensor
    velocity: Tensor


class Push(NamedTuple):
    """What a step brings to an oscillator: <u, D u> and <u, D g> of its update u (0 if linear), and the torque."""

    update: Tensor | float
    memory: Tensor | float
    torque: Tensor | float


def push(before: Quadratic, after: Quadratic, drive: QuadraticDrive, settings: Settings, first: bool) -> Push:
    """The push of one step, from the states of the exact law around it. Without momentum the law says u = g."""
    if settings.momentum == 0:
        return Push(drive.gradient, 0.0, drive.torque)
    if settings.lookahead == 0:
        return Push(after.kinetic, 0.0, drive.torque)
    (_, q), (mu, k) = settings.update, settings.buffer(first)
    big = decayed(before, drive, settings.weight_decay)
    mixed = mu * big.memory + k * big.gradient  # <G, D b+>
    update = big.gradient + q * (2 * mixed + q * after.kinetic)
    raw = drive.gradient + settings.weight_decay * drive.torque  # <G, D g>
    return Push(update, raw + q * (mu * drive.memory + k * raw), drive.torque)


def start_velocity(charge: Tensor, buffer: Tensor, torque: Tensor | float, settings: Settings, first: bool) -> Tensor:
    """The velocity that puts the oscillator on the path of the discrete motion, once the initial layer is over.

    `buffer` is <b, D theta> or <c, b> before the step. Starting at rest would cost an order in lr. From a new buffer
    it is theta' = -(p + q (1 + dampening) / (1 + momentum)) G. Per degree: multiply by n.
    """
    q, (mu, k) = settings.update[1], settings.buffer(first)
    gradient = q * (k - settings.kappa) + 0.5 * settings.force + settings.lookahead
    force = torque + settings.weight_decay * charge
    return -2.0 / (1.0 + settings.momentum) * (q * mu * buffer + gradient * force)


def continuous_step(
    state: Oscillator, law: Quadratic | Linear, push: Push, settings: Settings, first: bool
) -> Oscillator:
    """One step of the flow at finite lr. `law`: the exact law's state before the step, read where a velocity starts."""
    lr, n = settings.lr, 2 if isinstance(law, Quadratic) else 1
    if settings.momentum == 0:
        decay = math.exp(-n * lr * settings.weight_decay)
        charge = decay * state.charge + lr**2 * push.update - n * lr * push.torque
        return Oscillator(charge, torch.full_like(state.velocity, math.nan))

    (p, q), per_mass = settings.update, 2.0 / (1.0 + settings.momentum)  # per_mass = lr / mass
    kick = n * per_mass * push.torque
    start = n * start_velocity(state.charge, law[1], push.torque, settings, first) - 0.5 * settings.force * kick
    going = state.velocity - (p + q * settings.kappa) * kick
    velocity = start if first else torch.where(state.velocity.isnan(), start, going)

    gamma, omega2 = settings.oscillator(n)
    spring = n * per_mass * settings.force * settings.weight_decay  # omega2 / lr, also at lr = 0
    drive = 2.0 * push.update - 2.0 * per_mass * settings.lookahead * push.memory
    stay, response, slow, travel = propagator(gamma, omega2)
    return Oscillator(
        stay * state.charge + lr * response * velocity + lr**2 * travel * drive,
        slow * velocity - spring * response * state.charge + lr * response * drive + settings.lookahead * kick,
    )


@lru_cache(maxsize=256)
def propagator(gamma: float, omega2: float) -> tuple[float, float, float, float]:
    """One unit of time of x'' + 2 gamma x' + omega2 x = s with s constant, in every damping regime.

    Returns (a, G, b, I) with x -> a x + G x' + I s and x' -> b x' - omega2 G x + G s. One matrix exponential of the
    system augmented by s; the closed forms of the regimes lose digits where they meet and where omega2 vanishes.
    """
    generator = torch.tensor([[0.0, 1.0, 0.0], [-omega2, -2.0 * gamma, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    (a, response, travel), (_, b, _), _ = torch.linalg.matrix_exp(generator).tolist()
    return a, response, b, travel
