"""Continuous laws: what differential equations say about a charge, each advanced by one step at constant cost.

Time is t = sum of lr over the steps. A charge has `degree` n: 2 if it is quadratic, 1 if it is linear. The drives are
those measured for the discrete laws; the update of a step is theta+ = theta - lr u.

* `gradient_flow`, the limit of infinitesimal lr:    charge' = -n (force / friction) (weight_decay charge + torque)
* `continuous_step`, the flow at finite lr (Kunin et al. 2021, sec. 5 and 6).
  Without momentum:                                  charge' = -n (weight_decay charge + torque) + lr <g, D g>
  With momentum, the damped driven oscillator (Nesterov's terms, with lookahead, by the same expansion):

    mass charge'' + (friction + lr lookahead weight_decay) charge' + n force weight_decay charge
        = 2 mass <u, D u> - 2 lr lookahead <u, D g> - n force torque - n lr lookahead torque'

An equation wants to know when its drives act, and there it is decided how good it is. They act in kicks at the instants
where the multistep rule d_k - momentum d_(k-1) = ..., d = theta+ - theta, puts them: see `kicks`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.discrete import DisplacementForms, Linear, Quadratic, QuadraticDrive, decayed
from neuromech.optimizers import Settings


def gradient_flow(charge: Tensor, torque: Tensor | float, settings: Settings, degree: int) -> Tensor:
    """One step of the gradient flow. nan for momentum >= 1, which has no such limit."""
    if settings.friction <= 0:
        return torch.full_like(charge, math.nan)
    rate = degree * settings.lr * settings.force / settings.friction
    return shrink(settings.decay, degree) * math.exp(-rate * settings.weight_decay) * charge - rate * torque


def shrink(decay: float, degree: int) -> float:
    """Decoupled weight decay as a flow: what remains of a charge in a step that multiplies weights by `decay`."""
    return math.exp(degree * (decay - 1.0))


def drift_flow(charge: Tensor, d: DisplacementForms, decay: float, degree: int) -> Tensor:
    """One step of the flow under the measured torque of an optimizer other than SGD, without what finite steps add."""
    return shrink(decay, degree) * charge - degree * d.pull


class Oscillator(NamedTuple):
    """A charge and its velocity d charge / dt; velocity nan: it has none yet, the next step with momentum starts it.

    The velocity is per unit of time, and continuous when lr changes: torch multiplies by lr when it uses the buffer,
    not when it fills it, so a change of lr changes the clock and not the buffer.
    """

    charge: Tensor
    velocity: Tensor


class Push(NamedTuple):
    """What a step does to a charge: <u, D u> and <u, D g> of its update u (0 for a linear charge), and the torque."""

    update: Tensor | float
    mixed: Tensor | float
    torque: Tensor | float


def push(before: Quadratic, after: Quadratic, drive: QuadraticDrive, settings: Settings, first: bool) -> Push:
    """The push of one step on quadratic charges, from the states of the exact law around it."""
    if settings.momentum == 0:
        return Push(drive.gradient, 0.0, drive.torque)  # here the law says u = g, without weight decay
    if settings.lookahead == 0:
        return Push(after.kinetic, 0.0, drive.torque)
    q, (mu, k) = settings.update[1], settings.buffer(first)
    big = decayed(before, drive, settings.weight_decay)
    update = big.gradient + 2 * q * (mu * big.memory + k * big.gradient) + q**2 * after.kinetic
    raw = drive.gradient + settings.weight_decay * drive.torque  # <G, D g>
    return Push(update, raw + q * (mu * drive.memory + k * raw), drive.torque)


def start_velocity(
    charge: Tensor, buffer: Tensor, torque: Tensor | float, settings: Settings, first: bool, degree: int
) -> Tensor:
    """The velocity that puts the oscillator on the path of the discrete motion once the initial layer is over.

    `buffer`: <b, D theta> or <c, b> before the step. With a new buffer it is n times that of
    theta' = -(p + q (1 + dampening) / (1 + momentum)) G. Starting at rest instead costs an order in lr.
    """
    q, (mu, k) = settings.update[1], settings.buffer(first)
    weight = q * (k - settings.kappa) + 0.5 * settings.force + settings.lookahead
    force = torque + settings.weight_decay * charge
    return -2.0 * degree / (1.0 + settings.momentum) * (q * mu * buffer + weight * force)


def kicks(push: Push, settings: Settings, degree: int) -> tuple[Tensor | float, Tensor | float]:
    """The changes of velocity at the start and at the end of a step.

    For a quadratic charge the multistep rule reads (C_(k+1) - C_k) - momentum (C_k - C_(k-1)) = r_k, where r_k holds
    <d, D d> of step k and momentum * <d, D d> of step k-1, the gradient of step k and, with Nesterov, minus that of
    step k-1 at the *present* weights. So each step drives at its start and, by what is remembered, at its end.
    """
    per_mass = 2.0 / (1.0 + settings.momentum)  # lr / mass
    p, q = settings.update
    start = settings.lr * push.update - degree * (p + q * settings.kappa) * push.torque
    later = settings.lr * (settings.momentum * push.update - 2.0 * settings.lookahead * push.mixed)
    return per_mass * start, per_mass * (later + degree * settings.lookahead * push.torque)


def continuous_step(
    state: Oscillator, law: Quadratic | Linear, push: Push, settings: Settings, first: bool
) -> Oscillator:
    """One step of the flow at finite lr. `law`: the exact law's state before the step, read where a velocity starts."""
    lr, n = settings.lr, 2 if isinstance(law, Quadratic) else 1
    if settings.momentum == 0:  # the drive acts at the end of the step
        decay = shrink(settings.decay, n) * math.exp(-n * lr * settings.weight_decay)
        charge = decay * state.charge + lr**2 * push.update - n * lr * push.torque
        return Oscillator(charge, torch.full_like(state.velocity, math.nan))

    at_start, at_end = kicks(push, settings, n)
    # The first torque is half in the start velocity (the trapezoidal rule's end point), and remembered from there.
    half = n / (1.0 + settings.momentum) * (settings.force + 2.0 * settings.lookahead) * push.torque
    start = start_velocity(state.charge, law[1], push.torque, settings, first, n) + half
    velocity = (start if first else torch.where(state.velocity.isnan(), start, state.velocity)) + at_start
    gamma, omega2 = settings.oscillator(n)
    spring = 2.0 * n / (1.0 + settings.momentum) * settings.force * settings.weight_decay  # omega2 / lr, also at lr = 0
    stay, response, slow = propagator(gamma, omega2)
    # Decoupled decay shrinks the weights, not the buffer: a charge of degree n as weights^n, its velocity as one less.
    return Oscillator(
        shrink(settings.decay, n) * (stay * state.charge + lr * response * velocity),
        shrink(settings.decay, n - 1) * (slow * velocity - spring * response * state.charge) + at_end,
    )


@lru_cache(maxsize=256)
def propagator(gamma: float, omega2: float) -> tuple[float, float, float]:
    """One unit of time of x'' + 2 gamma x' + omega2 x = 0: (a, G, b) of x -> a x + G x', x' -> b x' - omega2 G x.

    The regimes meet smoothly: no digits are lost near critical damping, for stiff damping or for omega2 -> 0.
    """
    if not math.isfinite(gamma + omega2):
        return math.nan, math.nan, math.nan
    discriminant = gamma * gamma - omega2
    root = math.sqrt(abs(discriminant))
    if discriminant < 0:
        mean = _exp(-gamma) * math.cos(root)
        response = _exp(-gamma) * math.sin(root) / root
    else:
        slow = -omega2 / (gamma + root) if gamma > 0 else root - gamma  # without the cancellation of root - gamma
        mean = 0.5 * (_exp(slow) + _exp(-gamma - root))
        response = -0.5 * _exp(slow) * math.expm1(-2.0 * root) / root if root else _exp(slow)
    return mean + gamma * response, response, mean - gamma * response


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.0 else math.inf
