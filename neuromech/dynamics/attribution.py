"""Attribution: what moved a charge in a step, as terms that sum to the change that the exact law predicts.

The update of a step is first split by the square: `discretization` is <d, D d> of the displacement d, what a finite
step adds to an infinitesimal one. The rest is the torque, and is linear in what is behind it:

    weight_decay     the shrinking of the weights; what decay has put into the momentum buffer counts here as well
    momentum         the buffer remembers gradients that the symmetry protects where the weights were, not are
    preconditioner   the torque of an optimizer that divides, signs or rotates gradients, and all that goes through it
    leak             gradients that do not cancel as the symmetry says: eps of a norm, rounding, or a broken symmetry

What the observation has beyond the sum, rounding, is left to the observer. Weight decay that is coupled to a
preconditioner has gone through it and is not told apart.

Shapes: [rows], float64; for degree n = 1 (linear charges) and 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.discrete import DisplacementForms, Linear, Quadratic
from neuromech.optimizers import Settings

TERMS = ("discretization", "weight_decay", "momentum", "preconditioner", "leak")


class Gains(NamedTuple):
    """What a charge gains in a step theta+ = a theta - d, by `TERMS`; and `pull`, <d, D theta>."""

    discretization: Tensor | float
    weight_decay: Tensor | float
    momentum: Tensor | float
    preconditioner: Tensor | float
    leak: Tensor | float
    pull: Tensor | float

    def pack(self, like: Tensor) -> Tensor:
        """[terms and pull, rows]"""
        return torch.stack([x if isinstance(x, Tensor) else torch.full_like(like, x) for x in self])


class Sources(NamedTuple):
    """What of <b, D theta> (or <c, b>) comes from weight decay and from leaks; the rest remembers protected forces."""

    decay: Tensor
    leak: Tensor


def of_sgd(
    law: Quadratic | Linear,
    new: Quadratic | Linear,
    sources: Sources,
    torque: Tensor | float,
    settings: Settings,
    first: bool,
) -> tuple[Gains, Sources]:
    """The gains of one step from `law` to `new`, and the sources after it; `torque`: <g, D theta> or <c, g>."""
    n, lr, a = 2 if isinstance(law, Quadratic) else 1, settings.lr, settings.decay
    (p, q), (mu, k) = settings.update, settings.buffer(first)
    shrunk, force = (a**n - 1.0) * law.charge, settings.weight_decay * law.charge
    pushed = n * lr * a ** (n - 1)
    if settings.momentum == 0:
        after = Sources(a ** (n - 1) * sources.decay, a ** (n - 1) * sources.leak)
        decay, leak, memory = shrunk - pushed * force, -pushed * torque, torch.zeros_like(force)
        pull = lr * (force + torque)
    else:
        decayed, leaked = mu * sources.decay + k * force, mu * sources.leak + k * torque
        kept = mu * (law[1] - sources.decay - sources.leak)
        decay = shrunk - pushed * (p * force + q * decayed)
        leak, memory = -pushed * (p * torque + q * leaked), -pushed * q * kept
        pull = lr * (p * (force + torque) + q * (decayed + leaked + kept))
        after = Sources(a ** (n - 1) * decayed, a ** (n - 1) * leaked)
    square = new.charge - law.charge - decay - leak - memory if n == 2 else 0.0
    return Gains(square, decay, memory, 0.0, leak, pull), after


def of_drift(charge: Tensor, d: DisplacementForms, decay: float, degree: int) -> Gains:
    """The gains of one step theta+ = decay theta - d of an optimizer other than SGD."""
    shrunk, pull = (decay**degree - 1.0) * charge, d.pull / decay ** (degree - 1) if decay else d.pull
    return Gains(d.square, shrunk, 0.0, -degree * d.pull, 0.0, pull)


def turn(before: Tensor, after: Tensor, square: Tensor, pull: Tensor) -> Tensor:
    """sin^2 of the angle by which a step turns weights of squared length `before`; nan where a charge is not a length.

    With theta+ = a theta - d: sin^2 = (|d|^2 |theta|^2 - <d, theta>^2) / (|theta|^2 |theta+|^2), without cancellation.
    """
    area = (square * before - pull**2).clamp(min=0.0)
    return torch.where((before > 0) & (after > 0), area / (before * after), torch.nan)
