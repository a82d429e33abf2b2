"""Forecasts for charges of rescalings: how gradient noise and weight decay share length between the two sides.

Gradient flow keeps Q = U - D, the difference of the squared lengths of both sides. A finite step lengthens each by the
energy of its own gradient, which falls as 1 / length where a rescaling lengthens it; decay shrinks both. Per step,

    Q+ - Q = -decay lr Q + lr^2 (up / U - down / D + rest)

with the product U D, which a rescaling does not change, taken to stay. Noise comes to rest where both sides carry the
same energy (Ziyin et al. 2024: the noise equilibrium of SGD); with decay, somewhat nearer to Q = 0. `rest` is what the
charge was seen to move by besides: gradients that resemble the last ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import NormalDist

import numpy as np

from neuromech.dynamics.extrapolation import fading, readable
from neuromech.dynamics.trend import STEADY, Trend
from neuromech.optimizers import Hyperparameters

WIDTH = 0.12  # of 80 % intervals: this share of what noise moves, for each time that the run becomes as long as it was
FURTHEST = 30.0  # |ln U - ln D| / 2 at most


@dataclass(frozen=True)
class TwoSides:
    """What moves a charge: `decay` per lr; `up`, `down` and `rest` per lr^2, the first two at sides of length one.

    `product`: of the squared lengths. They hold at step `trend.at`, and change by the trend from there on.
    """

    decay: float
    up: float
    down: float
    product: float
    rest: float = 0.0
    trend: Trend = STEADY

    def lengths(self, charge: float) -> tuple[float, float]:
        """The squared lengths of both sides."""
        long = math.hypot(charge / 2, math.sqrt(self.product)) + abs(charge) / 2
        short = self.product / long
        return (long, short) if charge >= 0 else (short, long)

    def path(self, charge: float, lrs: Sequence[float]) -> list[float]:
        """The charges before these steps, the first of which follows step `trend.at`, and after each of them."""
        return list(accumulate(self._kicks(lrs), self._after, initial=charge))

    def interval(self, charge: float, lrs: Sequence[float], level: float = 0.8) -> tuple[float, float]:
        """Between which charges `path` will end, in that share of all forecasts: by how much sums of steps as noisy as
        these were seen to be off."""
        path, moved = self.path(charge, lrs), 0.0
        for at, (kick, lr) in zip(path, self._kicks(lrs), strict=False):
            u, d = self.lengths(at)
            moved = moved * math.exp(-self.decay * lr) + kick * (self.up / u + self.down / d)
        share = WIDTH * (self.trend.at + len(lrs)) / self.trend.at
        off = share * moved * NormalDist().inv_cdf(0.5 + level / 2) / NormalDist().inv_cdf(0.9)
        return path[-1] - off, path[-1] + off

    def equilibrium(self, lr: float) -> float:
        """The charge at which nothing moves it at this learning rate; infinite if there is none."""
        scale = 2 * math.sqrt(self.product)

        def pull(x: float) -> float:
            charge = scale * math.sinh(x)
            return lr * self._drive(charge) - self.decay * charge

        low, high = -FURTHEST, FURTHEST
        if lr <= 0 or pull(low) <= 0 or pull(high) >= 0:  # it falls with the charge
            return math.nan if lr <= 0 else math.inf if pull(high) >= 0 else -math.inf
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if pull(middle) > 0 else (low, middle)
        return scale * math.sinh(low)

    def time_constant(self, lr: float) -> float:
        """Steps in which a small distance from the equilibrium falls to 1/e; infinite if there is none."""
        at = self.equilibrium(lr)
        rate = self.decay * lr + lr**2 * self._stiffness(at) if math.isfinite(at) else 0.0
        return 1.0 / rate if rate > 0 else math.inf

    def _drive(self, charge: float) -> float:
        u, d = self.lengths(charge)
        return self.up / u - self.down / d + self.rest

    def _stiffness(self, charge: float) -> float:
        """-d drive / d charge."""
        u, d = self.lengths(charge)
        return (self.up / u + self.down / d) / (u + d)

    def _kicks(self, lrs: Sequence[float]) -> list[tuple[float, float]]:
        """lr^2 with the trend, and lr, of each step."""
        lr = np.asarray(lrs, dtype=float)
        kicks = lr**2 * self.trend.factors(np.arange(len(lr)) + self.trend.at + 1, lr)
        return list(zip(kicks.tolist(), lr.tolist(), strict=True))

    def _after(self, charge: float, step: tuple[float, float]) -> float:
        """The equation linearised at each step, and solved exactly over it: a short side does not throw the charge to
        and fro."""
        kick, lr = step
        pull = self.decay * lr + kick * self._stiffness(charge)
        moved = kick * self._drive(charge) - self.decay * lr * charge
        return charge + moved * (-math.expm1(-pull) / pull if pull > 0 else 1.0)


def two_sides(
    charges: Sequence[float],
    steps: Sequence[int],
    weights: Sequence[Sequence[float]],
    gradients: Sequence[Sequence[float]],
    lrs: Sequence[float],
    told: Hyperparameters,
    gain: float,
    losses: Sequence[float] | None = None,
) -> TwoSides:
    """What moves a charge at the end of a stretch.

    charges: at `steps`, counted from the first step of the run on, in the later half of the stretch; weights,
    gradients: squared, of both sides, at some of these steps. lrs[k], losses[k]: of step k + 1, one for each step to
    the last. `gain`: by what a gradient is multiplied in the sum of all steps that it takes part in, per lr:
    (1 - dampening) / (1 - momentum) under SGD.

    Raises `ValueError` for too little of anything, or a side of length zero.
    """
    last, begun = (int(steps[-1]), int(steps[0])) if len(steps) else (0, 0)
    w, g = np.asarray(weights, dtype=float), np.asarray(gradients, dtype=float)
    rates = np.asarray(lrs, dtype=float)
    kicked = float((rates[begun:last] ** 2).sum())
    if last - begun < 4 or not len(w) or len(w) != len(g) or len(rates) != last or kicked <= 0:
        raise ValueError(f"{last - begun} steps and {len(w)} readings of the sides say too little")
    if not (w > 0).all() or not np.isfinite(w).all() or not np.isfinite(g).all():
        raise ValueError("a side has no length, or one that is not a number")
    up, down = (float(x) for x in gain**2 * (w * g).mean(0))
    kept = charges[0] * math.exp(-told.decay * float(rates[begun:last].sum()))
    known = readable(losses, last)
    lr = math.sqrt(kicked / (last - begun))
    trend = Trend(last) if known is None else fading(known, lr)
    sides = TwoSides(told.decay, up, down, float(w[-1].prod()), 0.0, trend)
    return replace(sides, rest=(charges[-1] - kept) / kicked - sides._drive(charges[-1]))
