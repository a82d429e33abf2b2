"""SGD, SGDW and ASGD: updates that are linear in the gradients.

One step of `torch.optim.SGD`, in all its variants, with G = g + weight_decay * theta:

    b+     = mu' b + k G                   buffer    (mu', k) = (0, 1) on a parameter's first step, (mu, kappa) later
    theta+ = a theta - lr (p G + q b+)     update    (p, q) = (0, 1) heavy ball, (1, mu) Nesterov, (1, 0) no momentum

where a = 1, or 1 - lr * weight_decay if weight decay is decoupled and not part of G (SGDW).

Sources: `torch.optim.SGD`, `ASGD`; SGDW: Loshchilov and Hutter 2019, algorithm 1; ASGD: Polyak and Juditsky 1992.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuromech.optimizers.accumulation import accumulated, geometric
from neuromech.optimizers.rule import Elements, Rule, State, decoupled_decay
from neuromech.optimizers.settings import ParamGroup, number


class Multistep:
    """What follows from momentum, dampening and nesterov of SGD; without momentum torch ignores the other two."""

    momentum: float
    dampening: float
    nesterov: bool

    @property
    def kappa(self) -> float:
        """Weight of a new gradient in the buffer, after the first step."""
        return 1.0 - self.dampening if self.momentum else 1.0

    @property
    def update(self) -> tuple[float, float]:
        """(p, q): the update is p * gradient + q * new buffer."""
        if self.momentum == 0:
            return 1.0, 0.0
        return (1.0, self.momentum) if self.nesterov else (0.0, 1.0)

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

    @property
    def radius(self) -> float:
        """A flow without memory exists on a mode of curvature h only for lr kappa h below this."""
        mu = self.momentum
        return ((1.0 - mu) / (1.0 + mu)) ** 2 if self.lookahead else (1.0 - mu**0.5) ** 2

    @property
    def edge(self) -> float:
        """Steps on a mode of curvature h are stable for lr kappa h below this; 2 without momentum."""
        mu = self.momentum
        return 2.0 * (1.0 + mu) / (1.0 + 2.0 * mu) if self.lookahead else 2.0 * (1.0 + mu)

    @property
    def startup(self) -> float:
        """s in theta_0 + lr s g(theta_0), where the slow flow starts for torch's first step, with buffer b = g."""
        if self.lookahead:
            return self.momentum**2 / self.friction**2
        return self.kappa / self.friction**2 - 1.0 / self.friction


@dataclass(frozen=True)
class Settings(Multistep):
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
    def gradient_factor(self) -> float:
        """What turns the gradient in `.grad` into the one that the step follows."""
        return (-1.0 if self.maximize else 1.0) / self.gradient_scale

    def buffer(self, first: bool) -> tuple[float, float]:
        """(mu', k): the new buffer is mu' * buffer + k * gradient. Without momentum a left-over buffer stays."""
        if self.momentum == 0:
            return 1.0, 0.0
        return (0.0, 1.0) if first else (self.momentum, self.kappa)

    @property
    def mass(self) -> float:
        return self.lr * (1.0 + self.momentum) / 2.0

    def oscillator(self, degree: int) -> tuple[float, float]:
        """(gamma, omega^2), both per step, of a charge of `degree` 1 (linear) or 2 (quadratic) under weight decay:

        charge'' + 2 gamma charge' + omega^2 charge = drive, with the step as the unit of time.
        """
        per_mass = 2.0 / (1.0 + self.momentum)
        gamma = 0.5 * per_mass * (self.friction + self.lr * self.lookahead * self.weight_decay)
        return gamma, self.lr * per_mass * degree * self.force * self.weight_decay


def settings_of(group: ParamGroup, scale: Tensor | None, decay: float | None) -> Settings:
    """What a param group tells SGD. `scale`: of a `GradScaler`; `decay`: the factor of the weights under decoupled
    weight decay, None if it is coupled."""
    return Settings(
        lr=number(group["lr"]),
        momentum=number(group["momentum"]),
        dampening=number(group.get("dampening", 0.0)),
        weight_decay=number(group["weight_decay"]) if decay is None else 0.0,
        nesterov=bool(group.get("nesterov", False)),
        maximize=bool(group.get("maximize", False)),
        gradient_scale=1.0 if scale is None else number(scale),
        decay=1.0 if decay is None else decay,
    )


BUFFER = "momentum_buffer"


def _sgd(decoupled: bool) -> tuple[Callable[[Elements], dict[str, Tensor]], Callable[[Elements, State], Tensor]]:
    def force(e: Elements) -> Tensor:
        return e.force(0.0 if decoupled else e.number("weight_decay"))

    def advance(e: Elements) -> dict[str, Tensor]:
        told = settings_of(e.group, None, None)
        if told.momentum == 0:
            return {}
        mu, k = told.buffer(first=e.step == 1.0)
        return {BUFFER: e.old(BUFFER).mul(mu).add_(force(e), alpha=k)}

    def update(e: Elements, after: State) -> Tensor:
        told = settings_of(e.group, None, None)
        if told.momentum == 0:
            return force(e)
        return force(e).add(after[BUFFER], alpha=told.momentum) if told.nesterov else after[BUFFER]

    return advance, update


def _flow(decoupled: bool) -> Callable[[ParamGroup], dict[str, Any]]:
    def flow(group: ParamGroup) -> dict[str, Any]:
        told = settings_of(group, None, None)
        names = ("momentum", "dampening", "nesterov", "weight_decay")
        # Without weight decay it does not matter how it acts: equal rules compare equal.
        return {name: getattr(told, name) for name in names} | {"decoupled": decoupled and told.weight_decay != 0}

    return flow


def _memory(group: ParamGroup) -> float:
    return number(group.get("momentum") or 0.0)


def _accumulation(group: ParamGroup, shape: Sequence[int]) -> float:
    mu, kappa = _memory(group), 1.0 - number(group.get("dampening") or 0.0)
    if group.get("nesterov"):  # g + mu b+
        return accumulated(geometric(mu, 1.0 + mu * kappa, mu * mu * kappa))
    return accumulated(geometric(mu))


(_advance, _update), (_advance_w, _update_w) = _sgd(False), _sgd(True)

SGD = Rule(
    "SGD",
    "torch.optim.SGD",
    ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"),
    _update,
    _advance,
    exact=True,
    power=1,
    memory=_memory,
    accumulation=_accumulation,
    flow=_flow(False),
)

SGDW = Rule(
    "SGDW",
    "Loshchilov and Hutter 2019, algorithm 1",
    ("lr", "momentum", "weight_decay", "nesterov"),
    _update_w,
    _advance_w,
    decay=decoupled_decay,
    exact=True,
    power=1,
    memory=_memory,
    accumulation=_accumulation,
    decoupled=lambda group: True,
    flow=_flow(True),
)


def _eta(e: Elements) -> float:
    """The learning rate of this step, which the one before has left: in the precision of the buffer."""
    return number(e.scalars.get("eta", torch.tensor(e.number("lr"))))


def _asgd_decay(e: Elements) -> float:
    return 1.0 - e.number("lambd") * _eta(e)


ASGD = Rule(
    "ASGD",
    "torch.optim.ASGD; Polyak and Juditsky 1992",
    ("lr", "lambd", "alpha", "t0", "weight_decay", "maximize"),
    lambda e, after: e.force(e.number("weight_decay")),
    rate=_eta,
    decay=_asgd_decay,
    clock="state",
    scalars=("eta",),
    power=1,
    memory=lambda group: 0.0,
)
