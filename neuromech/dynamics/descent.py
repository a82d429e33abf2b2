"""A torch optimizer read as mechanics: mass, friction, force and decay of the motion that it gives to each parameter.

One step of `torch.optim.SGD`, in all its variants, with G = g + weight_decay * theta:

    b+     = mu' b + k G               buffer    (mu', k) = (0, 1) on a parameter's first step, (mu, kappa) later
    theta+ = theta - lr (p G + q b+)   update    (p, q) = (0, 1) heavy ball, (1, mu) Nesterov, (1, 0) no momentum

Seen from afar it is a damped particle in t = sum of lr (Kunin et al. 2021, sec. 5, for heavy ball; the factors below,
for every variant, by matching the multistep rule to second order in lr):

    mass theta'' + (friction + lr * lookahead * Hessian) theta' + force G = 0
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Regime = Literal["free", "overdamped", "critical", "underdamped"]


@dataclass(frozen=True)
class Settings:
    """What one step of `torch.optim.SGD` is told; equal settings mean equal motion.

    `gradient_scale` divides the gradients inside the step (a fused optimizer under `GradScaler`), else it is 1.
    """

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False
    gradient_scale: float = 1.0

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


class Motion(NamedTuple):
    """How one parameter is about to move: settings None if the optimizer has no exact law; buffer before the step."""

    settings: Settings | None
    buffer: Tensor | None

    @property
    def first(self) -> bool:
        """True if this step makes the momentum buffer."""
        return self.settings is not None and self.settings.momentum != 0 and self.buffer is None


def has_exact_law(optimizer: torch.optim.Optimizer) -> bool:
    """True for `torch.optim.SGD` and for subclasses that leave its `step` alone.

    Not for the base of an `EoMOptimizer`: it is handed gradients that no symmetry of the loss protects.

    torch wraps `step` on classes (hooks) and on instances (schedulers); both keep `__wrapped__`, which is followed.
    """
    sgd = torch.optim.SGD
    if getattr(optimizer, "follows_flow", False):
        return False
    return isinstance(optimizer, sgd) and inspect.unwrap(optimizer.step) is inspect.unwrap(sgd.step)


def read(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Motion]:
    """The motion that the next step of `optimizer` gives to each parameter of `names` (parameter -> its name).

    A parameter that the optimizer does not hold, or that has no gradient, does not move and is left out.
    """
    if _number(getattr(optimizer, "found_inf", None) or 0.0):
        return {}  # a fused optimizer under GradScaler: this step will be skipped
    known = has_exact_law(optimizer)
    motions: dict[str, Motion] = {}
    for group in optimizer.param_groups:
        settings = _settings(group, getattr(optimizer, "grad_scale", None)) if known else None
        for p in group["params"]:
            if p.grad is not None and p in names:
                buffer = optimizer.state[p].get("momentum_buffer") if known and p in optimizer.state else None
                motions[names[p]] = Motion(settings, buffer)
    return motions


def _settings(group: Mapping[str, Any], grad_scale: Tensor | None) -> Settings:
    return Settings(
        lr=_number(group["lr"]),
        momentum=_number(group["momentum"]),
        dampening=_number(group["dampening"]),
        weight_decay=_number(group["weight_decay"]),
        nesterov=bool(group["nesterov"]),
        maximize=bool(group["maximize"]),
        gradient_scale=1.0 if grad_scale is None else _number(grad_scale),
    )


def _number(x: float | Tensor) -> float:
    return float(x.detach()) if isinstance(x, Tensor) else float(x)
