"""Forecasts for weights whose length the loss does not see: where their squared length C goes, and how fast they turn.

Finite steps and what they remember lengthen such weights, weight decay shrinks them (van Laarhoven 2017; Wan et al.
2021; Kosson et al. 2023). Per step, with rates that are per unit of lr and of lr^2,

    C+ - C = -decay lr C + strength lr^2 / C^power

`power` says how the update answers to the length: 1 for SGD, whose gradients shrink as 1 / length; 0 for updates of a
size of their own (Adam, Lion, Muon, ...); -1 for updates relative to the weights (Adafactor). Decay and strength are
measured while training goes on. The forecast assumes that decay stays and that strength goes on as it has: gradients
fade while a model fits its data, and `fade` is the power of the step number with which they were seen to. A trend is
followed as far again as it was seen, and no further: followed to the end it does worse (Gardner and McKenzie 1985).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TREND = 2.0
FADES = 3.0  # a strength is not taken to change faster than this power of the step number
FADE, DRIFT = 0.5, 0.25  # how much of a trend is believed, and how strengths go on falling


@dataclass(frozen=True)
class Balance:
    """What shortens and what lengthens weights: `decay` per lr, `strength` per lr^2 (in units of C^(1 + power)).

    Strength is that at step `at`; at step k it is (k / at)^-fade times as much, from step `TREND` at on it stays; and
    (k / at)^-drift times as much, to the end.
    """

    decay: float
    strength: float
    power: int = 1
    fade: float = 0.0
    at: int = 1
    drift: float = 0.0

    def equilibrium(self, lr: float) -> float:
        """The squared length at which both are equal; infinite without decay or for updates relative to the weights."""
        if self.decay <= 0 or self.power < 0:
            return math.inf
        return float((lr * self.strength / self.decay) ** (1.0 / (1 + self.power)))

    def time_constant(self, lr: float) -> float:
        """Steps in which a small distance of C from the equilibrium falls to 1/e; infinite if there is none."""
        rate = (1 + self.power) * self.decay * lr
        return 1.0 / rate if rate > 0 else math.inf

    def strength_at(self, step: int) -> float:
        ahead = step / self.at
        return float(self.strength * min(ahead, TREND) ** -self.fade * ahead**-self.drift)

    def advance(self, length2: float, lrs: Iterable[float]) -> float:
        """The squared length after steps with these learning rates, the first of which follows step `at`."""
        return self.path(length2, lrs)[-1]

    def path(self, length2: float, lrs: Iterable[float]) -> list[float]:
        """The squared lengths before these steps and after each of them.

        C^(1 + power) obeys a linear equation, which is solved exactly over each step.
        """
        n, out = 1 + self.power, [length2]
        for k, lr in enumerate(lrs, self.at + 1):
            c, kick, x = out[-1], lr**2 * self.strength_at(k), n * self.decay * lr
            if n == 0:  # then ln C does
                out.append(c * math.exp(kick - self.decay * lr))
            else:
                y = c**n * math.exp(-x) + n * kick * (-math.expm1(-x) / x if x > 0 else 1.0)
                out.append(y ** (1.0 / n))
        return out

    def angle(self, lr: float, length2: float, memory: float, step: int) -> float:
        """The angle (rad, root mean square) by which step number `step` turns weights of squared length `length2`.

        `memory`: momentum or beta1. A step of squared length d^2 lengthens weights, by what is remembered of it, by
        d^2 (1 + memory) / (1 - memory) if gradients are white in time. In equilibrium this is `angular_update`.
        """
        kick = lr**2 * self.strength_at(step) / length2 ** (1 + self.power)
        return math.sqrt(max(0.0, kick * (1.0 - memory) / (1.0 + memory)))


def measure(length2: Sequence[float], decayed: Sequence[float], driven: Sequence[float], lrs: Sequence[Sequence[float]],
            power: int) -> Balance:  # fmt: skip
    """The balance over intervals: the squared length in each, what weight decay and all else changed in it, its lrs."""
    shrunk = sum(sum(lr) * c for lr, c in zip(lrs, length2, strict=True))
    kicked = sum(lr**2 for some in lrs for lr in some)
    lengthened = sum(x * c**power for x, c in zip(driven, length2, strict=True))
    return Balance(
        max(0.0, -sum(decayed) / shrunk) if shrunk > 0 else 0.0,
        max(0.0, lengthened / kicked) if kicked > 0 else 0.0,
        power,
    )


def outlook(
    length2: Sequence[float], turns: Sequence[float], lrs: Sequence[float], decay: float, power: int, memory: float
) -> Balance:
    """The balance at the end of a stretch of steps from the first of a run, from how the weights *turned*.

    length2[k], lrs[k]: before step k + 1, and its learning rate; turns[k]: sin^2 of the angle by which it turned them.
    `decay`: per lr, as the settings say. A step of squared length d^2 lengthens weights, with what is remembered of
    it, by d^2 (1 + memory) / (1 - memory) if gradients are white in time. That is a better estimate of what will
    drive the length than the lengthening itself, which early in a run has a part that goes with the descent and does
    not last. `FADE` and `DRIFT` were chosen on runs of an MLP and a residual network (experiments.norm_forecasts).

    Raises `ValueError` for fewer than 8 steps, or sequences of different lengths.
    """
    n = len(length2)
    if n < 8 or not n == len(turns) == len(lrs):
        raise ValueError(f"an outlook needs 8 steps or more, of one length each: {n}, {len(turns)}, {len(lrs)}")
    late = _from_turns(length2, turns, lrs, power, n // 2, n)
    early = _from_turns(length2, turns, lrs, power, n // 4, n // 2)
    fade = math.log(early / late) / math.log(2.0) if early > 0 and late > 0 else 0.0
    remembered = (1.0 + memory) / (1.0 - memory)
    return Balance(decay, late * remembered, power, FADE * min(max(fade, -FADES), FADES), n, DRIFT)


def _from_turns(
    length2: Sequence[float], turns: Sequence[float], lrs: Sequence[float], power: int, start: int, stop: int
) -> float:
    """Mean squared length of a step at unit length and lr."""
    kicked = sum(lr**2 for lr in lrs[start:stop])
    moved = sum(x * c ** (1 + power) for x, c in zip(turns[start:stop], length2[start:stop], strict=True))
    return moved / kicked if kicked > 0 else 0.0


def angular_update(lr: float, decay: float, memory: float) -> float:
    """The angle (rad, root mean square) by which one step turns weights that are in equilibrium.

    `memory`: momentum or beta1; `decay` as in `Balance`. With decay = 2 kappa weight_decay / (1 - momentum) this is
    sqrt(2 lr kappa weight_decay / (1 + momentum)) for heavy ball, and sqrt(2 lr weight_decay (1 - b) / (1 + b)) for
    AdamW, where decay = 2 weight_decay. Gradients are assumed to be white in time.
    """
    return math.sqrt(max(0.0, lr * decay * (1.0 - memory) / (1.0 + memory)))


def effective_lr(lr: float, length2: float, memory: float, power: int) -> float:
    """The learning rate that unit weights would feel: lr / ((1 - momentum) C) under SGD, lr / sqrt(C) under Adam."""
    if power < 1:
        return float(lr / length2 ** (0.5 * (1 + power)))
    return lr / ((1.0 - memory) * length2)


def sgd_equilibrium(lr: float, weight_decay: float, momentum: float, dampening: float, gradient2: float) -> float:
    """The squared length in equilibrium under heavy ball and white gradients of mean squared length `gradient2` at
    unit weights: sqrt(lr kappa gradient2 / (2 weight_decay (1 - momentum)))."""
    return math.sqrt(lr * (1.0 - dampening) * gradient2 / (2.0 * weight_decay * (1.0 - momentum)))


def adamw_equilibrium(lr: float, weight_decay: float, entries: int) -> float:
    """The squared length in equilibrium under AdamW, of weights with so many entries: lr entries / (2 weight_decay)."""
    return lr * entries / (2.0 * weight_decay)


def equivalent(lr: float, weight_decay: float, factor: float, power: int) -> tuple[float, float, float]:
    """(lr, weight decay, length) that train scale-invariant weights to the same function at every step: with weights
    longer by the last of these. Exact for SGD (power 1); for Adam (power 0) up to its eps."""
    return lr * factor, weight_decay / factor, factor ** (1.0 / (1 + power))
