"""A torch optimizer read as mechanics: mass, friction, force and decay of the motion that it gives to each parameter.

One step of `torch.optim.SGD`, in all its variants, with G = g + weight_decay * theta:

    b+     = mu' b + k G                   buffer    (mu', k) = (0, 1) on a parameter's first step, (mu, kappa) later
    theta+ = a theta - lr (p G + q b+)     update    (p, q) = (0, 1) heavy ball, (1, mu) Nesterov, (1, 0) no momentum

where a = 1, or 1 - lr * weight_decay if weight decay is decoupled and not part of G. The step of every other optimizer
is read as a `Drift`, theta+ = decay theta - rate u: see updates.py.

Seen from afar it is a damped particle in t = sum of lr (Kunin et al. 2021, sec. 5, for heavy ball; the factors below,
for every variant, by matching the multistep rule to second order in lr):

    mass theta'' + (friction + lr * lookahead * Hessian) theta' + force G = 0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.forms.vectors import Computed, Window
from neuromech.dynamics.updates import Moving, decay_factor, number, rule_of, takes_step_of

Regime = Literal["free", "overdamped", "critical", "underdamped"]


@dataclass(frozen=True)
class Settings:
    """What one step of `torch.optim.SGD` is told; equal settings mean equal motion.

    `gradient_scale` divides the gradients inside the step (a fused optimizer under `GradScaler`), else it is 1.
    `weight_decay` is the coupled one; `decay` is the factor of the weights where it is decoupled, as in SGDW, else 1.
    """

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    gradient_scale: float = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        if self.momentum == 0:  # torch then ignores both: without this, equal motions would compare unequal
            object.__setattr__(self, "dampening", 0.0)
            object.__setattr__(self, "nesterov", False)

    @property
    def kappa(self) -> float:
        """Weight of a new gradient in the buffer, after the first step."""
        return 1.0 - self.dampening

    @property
    def gradient_factor(self) -> float:
        """What turns the gradient in `.grad` into the one that the step follows."""
        return (-1.0 if self.maximize else 1.0) / self.gradient_scale

    @property
    def update(self) -> tuple[float, float]:
        """(p, q): the update is p * gradient + q * new buffer."""
        if self.momentum == 0:
            return 1.0, 0.0
        return (1.0, self.momentum) if self.nesterov else (0.0, 1.0)

    def buffer(self, first: bool) -> tuple[float, float]:
        """(mu', k): the new buffer is mu' * buffer + k * gradient. Without momentum a left-over buffer stays."""
        if self.momentum == 0:
            return 1.0, 0.0
        return (0.0, 1.0) if first else (self.momentum, self.kappa)

    @property
    def mass(self) -> float:
        return self.lr * (1.0 + self.momentum) / 2.0

    @property
    def friction(self) -> float:
        return 1.0 - self.momentum

    @property
    def lookahead(self) -> float:
        """Weight of the previous gradient, subtracted: momentum for Nesterov, else 0."""
        return self.update[0] * self.momentum

    @property
    def force(self) -> float:
        """Weight of a steady gradient: kappa for heavy ball, 1 for Nesterov and without momentum."""
        p, q = self.update
        return p + q * self.kappa - self.lookahead

    def oscillator(self, degree: int) -> tuple[float, float]:
        """(gamma, omega^2), both per step, of a charge of `degree` 1 (linear) or 2 (quadratic) under weight decay:

        charge'' + 2 gamma charge' + omega^2 charge = drive, with the step as the unit of time.
        """
        per_mass = 2.0 / (1.0 + self.momentum)
        gamma = 0.5 * per_mass * (self.friction + self.lr * self.lookahead * self.weight_decay)
        return gamma, self.lr * per_mass * degree * self.force * self.weight_decay


def regime(gamma: float, omega2: float) -> Regime:
    """How x'' + 2 gamma x' + omega2 x = 0 comes to rest. "critical" is meant up to rounding.

    "free": without a spring (no weight decay) the charge does not return at all.
    """
    if omega2 == 0:
        return "free"
    discriminant = gamma * gamma - omega2
    if abs(discriminant) <= 8 * torch.finfo(torch.float64).eps * gamma * gamma:
        return "critical"
    return "overdamped" if discriminant > 0 else "underdamped"


@dataclass(frozen=True)
class Drift:
    """One step of an optimizer other than SGD: theta+ = decay * theta - rate * u; `late`: u is known after the step."""

    decay: float = 1.0
    rate: float = 1.0
    late: bool = True


class Motion(NamedTuple):
    """How one parameter is about to move: by SGD, with its buffer before the step, or by a `Drift` along `direction`.

    A drift without a direction is one of an optimizer that nothing is known of: its displacement is measured.
    """

    settings: Settings | Drift
    buffer: Tensor | None = None
    direction: Computed | None = None

    @property
    def first(self) -> bool:
        """True if this step makes the momentum buffer."""
        return isinstance(self.settings, Settings) and self.settings.momentum != 0 and self.buffer is None


Law = Literal["exact", "rebuilt", "measured"]


def law_of(optimizer: torch.optim.Optimizer) -> Law:
    """What is known of the steps of an optimizer.

    "exact": SGD, where symmetries protect what the law does not measure. "rebuilt": the update is rebuilt from the
    optimizer's state, and the torque with which it breaks the symmetry is measured. "measured": nothing; the
    displacement itself is measured, and the law is an identity that balances the books.
    """
    if _is_sgd(optimizer):
        return "exact"
    return "measured" if rule_of(optimizer) is None else "rebuilt"


def read(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Motion]:
    """The motion that the next step of `optimizer` gives to each parameter of `names` (parameter -> its name).

    A parameter that the optimizer does not hold, or that has no gradient, does not move and is left out.
    """
    if number(getattr(optimizer, "found_inf", None) or 0.0):
        return {}  # a fused optimizer under GradScaler: this step will be skipped
    rule, sgd, sgdw = rule_of(optimizer), _is_sgd(optimizer), _is_sgdw(optimizer)
    scale = getattr(optimizer, "grad_scale", None)
    motions: dict[str, Motion] = {}
    for group in optimizer.param_groups:
        moving = [p for p in group["params"] if p.grad is not None and p in names]
        settings = _settings(group, scale, moving[0].dtype if sgdw else None) if sgd and moving else None
        for p in moving:
            if settings is not None:
                motions[names[p]] = Motion(settings, _state(optimizer, p).get("momentum_buffer"))
            elif rule is None:
                motions[names[p]] = Motion(Drift())
            else:
                update = rule(Moving(group, partial(_state, optimizer, p), p, _gradient(group, p, scale)))
                motions[names[p]] = Motion(Drift(update.decay, update.rate, update.late), None, update.direction)
    return motions


def buffers(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The momentum buffers of SGD, by the names of their parameters."""
    if not _is_sgd(optimizer):
        return {}
    held = {names[p]: state.get("momentum_buffer") for p, state in optimizer.state.items() if p in names}
    return {name: b for name, b in held.items() if b is not None}


def _is_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Not so the base of an `EoMOptimizer`: no symmetry of the loss protects the gradients that it is handed."""
    sgd = torch.optim.SGD
    if getattr(optimizer, "follows_flow", False):
        return False
    return (isinstance(optimizer, sgd) and takes_step_of(optimizer, sgd)) or _is_sgdw(optimizer)


def _is_sgdw(optimizer: torch.optim.Optimizer) -> bool:
    """SGD with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 1), which torch lacks, by its name."""
    return type(optimizer).__name__ == "SGDW" and {"lr", "momentum", "weight_decay"} <= optimizer.defaults.keys()


def _state(optimizer: torch.optim.Optimizer, p: Tensor) -> Mapping[str, Any]:
    return optimizer.state.get(p, {})


def _gradient(group: Mapping[str, Any], p: Tensor, scale: Tensor | None) -> Callable[[Window], Tensor]:
    """The gradient that a step follows: flipped by `maximize`, unscaled as a fused optimizer does it."""
    g, sign = p.grad, -1.0 if group.get("maximize") else 1.0
    assert g is not None
    factor: float | Tensor = sign if scale is None else sign / scale
    return lambda w: w(g) if scale is None and sign > 0 else w(g) * factor


def _settings(group: Mapping[str, Any], scale: Tensor | None, decoupled: torch.dtype | None) -> Settings:
    """`decoupled`: the dtype of the weights that decoupled decay multiplies, None if it is coupled."""
    return Settings(
        lr=number(group["lr"]),
        momentum=number(group["momentum"]),
        dampening=number(group.get("dampening", 0.0)),
        weight_decay=0.0 if decoupled else number(group["weight_decay"]),
        nesterov=bool(group.get("nesterov", False)),
        maximize=bool(group.get("maximize", False)),
        gradient_scale=1.0 if scale is None else number(scale),
        decay=decay_factor(group, decoupled) if decoupled else 1.0,
    )
