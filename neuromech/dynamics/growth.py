"""Why gradients grow: those of normalised weights are 1 / |w| times what they are at length one.

Under weight decay a schedule that lowers the learning rate lets weights shrink, and gradients grow late in training
though nothing is wrong (Defazio 2025). What came is split along the way from how it was to how it is:

    decay         had the learning rate stayed: weights shrink, as far as finite steps do not lengthen them
    lr            then the learning rates as they were
    data          the gradient at length one, and what the model of lengths has missed
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from neuromech.dynamics.forecast import Balance


class Growth(NamedTuple):
    """Of ln |gradient|, by cause; they sum to what came."""

    decay: float
    lr: float
    data: float

    @property
    def cause(self) -> str:
        """The largest of those that let it grow."""
        return max(self._fields, key=lambda name: getattr(self, name))


def growth_of(balance: Balance, length2: float, lrs: Sequence[float], grown: float) -> Growth:
    """`balance`, `length2`: at the start, ahead of steps with these learning rates, in which |gradient| grew by a
    factor `grown`. The lengths are those of the balance; without a `grown` of your own, exp(decay + lr) is
    the forecast. Raises `ValueError` without steps or for a factor that is not positive."""
    if not lrs or not grown > 0:
        raise ValueError(f"growth needs steps and a positive factor: {len(lrs)} steps, {grown}")
    alike = [lrs[0]] * len(lrs)
    ends = [balance.advance(length2, alike), balance.advance(length2, lrs)]
    decay, lr = (0.5 * math.log(a / b) for a, b in pairwise([length2, *ends]))
    return Growth(decay, lr, math.log(grown) - decay - lr)
