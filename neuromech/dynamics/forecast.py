"""Forecasts for weights whose length the loss does not see: where their squared length C goes, and how fast they turn.

Finite steps and what they remember lengthen such weights, weight decay shrinks them (van Laarhoven 2017; Wan et al.
2021; Kosson et al. 2023). Per step, with rates that are per unit of lr and of lr^2,

    C+ - C = -decay lr C + strength lr^2 / C^power

`power` says how the update answers to the length: 1 for SGD, whose gradients shrink as 1 / length; 0 for updates of a
size of their own (Adam, Lion, Muon, ...); -1 for updates relative to the weights (Adafactor). Decay is what the
settings say; strength is measured while training goes on (extrapolation.py), and goes on by a `Trend` (trend.py).
Coupled decay behind a preconditioner shrinks weights the faster the longer they are, for then their gradients are the
smaller: `grip` = 1/2, and C falls by decay lr C^(1 + grip).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import NormalDist

import numpy as np

from neuromech.dynamics.trend import STEADY, Trend, Wake


@dataclass(frozen=True)
class Balance:
    """What shortens and what lengthens weights: `decay` per lr, `strength` per lr^2 (in units of C^(1 + power)).

    Strength is that at step `trend.at`, and changes by the trend from there on. `spread`: the standard deviation of the
    logarithm of what the strength will have been, as forecasts like this one were seen to be off. `wake`: of a second
    moment that updates are divided by; the trend is then one of the gradients that it remembers.
    """

    decay: float
    strength: float
    power: int = 1
    trend: Trend = STEADY
    grip: float = 0.0
    spread: float = 0.0
    wake: Wake | None = None

    def equilibrium(self, lr: float) -> float:
        """The squared length at which both are equal; infinite without decay or for updates relative to the weights."""
        if self.decay <= 0 or self.power < 0:
            return math.inf
        return float((lr * self.strength / self.decay) ** (1.0 / (1 + self.power + self.grip)))

    def time_constant(self, lr: float) -> float:
        """Steps in which a small distance of C from the equilibrium falls to 1/e; infinite if there is none."""
        if self.decay <= 0 or self.power < 0 or lr <= 0:
            return math.inf
        size = self.equilibrium(lr) ** self.grip if self.grip else 1.0
        rate = (1 + self.power + self.grip) * self.decay * size * lr
        return 1.0 / rate if rate > 0 else math.inf

    def advance(self, length2: float, lrs: Iterable[float]) -> float:
        """The squared length after steps with these learning rates, the first of which follows step `trend.at`."""
        return self.path(length2, lrs)[-1]

    def path(self, length2: float, lrs: Iterable[float]) -> list[float]:
        """The squared lengths before these steps and after each of them."""
        return self._ahead(length2, np.fromiter(lrs, float))[0]

    def angles(self, length2: float, lrs: Iterable[float], accumulation: float) -> list[float]:
        """The angles (rad, root mean square) by which these steps turn the weights.

        `accumulation`: by what the square of a step is multiplied for what it adds in the long run (`Rule`).
        """
        path, kicks = self._ahead(length2, np.fromiter(lrs, float))
        turns = np.maximum(0.0, kicks / np.array(path[:-1]) ** (1 + self.power) / accumulation)
        return list(np.sqrt(turns).tolist())

    def _ahead(self, length2: float, lr: np.ndarray) -> tuple[list[float], np.ndarray]:
        """`path`, and lr^2 strength at each step.

        C^(1 + power) obeys a linear equation, which is solved exactly over each step; a grip is split off.
        """
        n, steps = 1 + self.power, np.arange(len(lr)) + self.trend.at + 1
        rates = self.decay * lr
        if self.wake is not None:
            settled = lr**2 * self.strength * self.trend.settled(steps)
            return self._in_its_wake(length2, settled, self.trend.faded(steps, lr), rates, self.wake)
        kicks = lr**2 * self.strength * self.trend.factors(steps, lr)
        if self.grip:
            each = zip(kicks.tolist(), rates.tolist(), strict=True)
            return list(accumulate(each, lambda c, s: self._over_a_step(c, *s), initial=length2)), kicks
        x = n * rates
        if n == 0:  # then ln C does
            return [length2, *(length2 * np.exp(np.cumsum(kicks - rates))).tolist()], kicks
        lengthened = n * kicks * np.divide(-np.expm1(-x), x, out=np.ones_like(x), where=x > 0)
        linear = zip(np.exp(-x).tolist(), lengthened.tolist(), strict=True)
        whole = accumulate(linear, lambda y, s: s[0] * y + s[1], initial=length2**n)
        return list((np.fromiter(whole, float) ** (1.0 / n)).tolist()), kicks

    def _in_its_wake(
        self, length2: float, settled: np.ndarray, faded: np.ndarray, rates: np.ndarray, wake: Wake
    ) -> tuple[list[float], np.ndarray]:
        """Step by step: gradients, and with them what is remembered, change with the length."""
        path, kicks = [length2], []
        for kick, gradient2, rate in zip(settled.tolist(), faded.tolist(), rates.tolist(), strict=True):
            wake, factor = wake.after(gradient2 / path[-1])
            kicks.append(kick * factor)
            path.append(self._over_a_step(path[-1], kicks[-1], rate))
        return path, np.array(kicks)

    def interval(self, length2: float, lrs: Sequence[float], level: float = 0.8) -> tuple[float, float]:
        """Between which squared lengths `advance` will end, in that share of all forecasts."""
        off = math.exp(self.spread * NormalDist().inv_cdf(0.5 + level / 2))
        low, high = (replace(self, strength=self.strength * f).advance(length2, lrs) for f in (1 / off, off))
        return low, high

    def _over_a_step(self, c: float, kick: float, rate: float) -> float:
        """C after one step at these rates."""
        n, rate = 1 + self.power, rate * c**self.grip if self.grip else rate
        x = n * rate
        if n == 0:
            return c * math.exp(kick - rate)
        return float((c**n * math.exp(-x) + n * kick * (-math.expm1(-x) / x if x > 0 else 1.0)) ** (1.0 / n))


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
