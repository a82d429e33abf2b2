"""How what drives the length of weights goes on from where it was seen: the part of a forecast that is not a law.

gradients drive (SGD)         they fade with the loss, once that is low: as L / (L + knee), where the loss goes on
                              falling by the power of the step number with which it was seen to, and falls by the
                              cube root of the learning rate besides where that is lowered
updates of one size           (Lion, Muon) they stay
normalised updates (Adam)     what gradients have in common early in a run makes updates longer than white ones:
                              the logarithm of the excess falls as 1 / step^1.5. Second moments remember gradients of
                              other sizes: where gradients fade with the loss or grow as weights shrink (as 1 / C),
                              updates are shorter or longer by what is remembered (`Wake`)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SETTLING = 1.5
ANNEALING = 1.0 / 3.0


class Trend(NamedTuple):
    """The factor on a strength, which is 1 at step `at`.

    `fade`: the power of the step number with which the loss falls; `saturation`: the loss at step `at` over the knee
    below which gradients fade with it (0: they do). `rest`: the factor that it comes to where the loss has no part.
    `lr`: the learning rate until then, where the loss follows it; 0: it does not.
    """

    at: int = 1
    fade: float = 0.0
    saturation: float = 0.0
    rest: float = 1.0
    lr: float = 0.0

    def factor(self, step: int, lr: float) -> float:
        """Of a step with this learning rate."""
        return float(self.factors(np.array([step]), np.array([lr]))[0])

    def factors(self, steps: np.ndarray, lrs: np.ndarray) -> np.ndarray:
        """Of many steps, each with its learning rate."""
        both: np.ndarray = self.settled(steps) * self.faded(steps, lrs)
        return both

    def settled(self, steps: np.ndarray) -> np.ndarray:
        """The factor where the loss has no part."""
        factors: np.ndarray = self.rest ** (1.0 - self._ahead(steps) ** -SETTLING)
        return factors

    def faded(self, steps: np.ndarray, lrs: np.ndarray) -> np.ndarray:
        """The factor on squared gradients at length one; one without a learning rate."""
        lowered = np.maximum(1.0, self.lr / np.where(lrs > 0, lrs, np.inf)) ** ANNEALING
        left = (1.0 + self.saturation) / (self._ahead(steps) ** self.fade * lowered + self.saturation)
        return np.where(lrs > 0, left, 1.0)

    def _ahead(self, steps: np.ndarray) -> np.ndarray:
        return np.maximum(1.0, steps / self.at)


STEADY = Trend()


class Wake(NamedTuple):
    """What a second moment remembers of squared gradients, each in units of that at length one and step `trend.at`.

    `kept`: its share at the next step. `total`, `weight`: of all so far, weighted by how much is left of each, and the
    sum of the weights. `seen`: squared gradients over what was remembered of them, while the strength was measured.
    """

    kept: float
    total: float
    weight: float
    seen: float

    def after(self, gradient2: float) -> tuple[Wake, float]:
        """After another squared gradient, with the factor that it puts on the strength."""
        total, weight = self.total * self.kept + gradient2, self.weight * self.kept + 1.0
        factor = gradient2 * weight / (total * self.seen) if total > 0 else 1.0
        return self._replace(total=total, weight=weight), factor
