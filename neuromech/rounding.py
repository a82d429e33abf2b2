"""What rounding alone can do to a law: derived, not tuned.

**How rounding grows.** A charge is a sum over parameters. When a step rounds a parameter (relative error at most
eps/2), its square errs by at most eps, so the charge errs by at most eps times its scale, the same sum of absolute
values. The law itself adds less than `LAW_OPERATIONS` roundings of float64 a step. These errors are independent from
step to step, so by Hoeffding's inequality (1963, theorem 2) the sum of k of them exceeds `CONFIDENCE` sqrt(k) times the
largest one with a probability below 2 exp(-CONFIDENCE^2 / 2) = 3e-14. An error stays when the charge itself decays:
everything is therefore relative to the largest scale so far.

**One event.** The same probability bounds what else is left to chance, so that no threshold stands by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 8.0
LAW_OPERATIONS = 3
EPS64 = torch.finfo(torch.float64).eps
CHANCE = 2.0 * math.exp(-(CONFIDENCE**2) / 2.0)
"""The probability of an event that counts as impossible: that of a deviation by `CONFIDENCE`."""

Steps = TypeVar("Steps", "float", "np.ndarray")


def eps_of(dtype: str) -> float:
    """The spacing of numbers around 1 in `float32`, `torch.bfloat16`, ...; of several, the coarsest; nan if unknown."""
    found = [getattr(torch, name.strip().removeprefix("torch."), None) for name in dtype.split(",")]
    return coarsest([d for d in found if isinstance(d, torch.dtype)], math.nan)


def coarsest(formats: Iterable[torch.dtype], none: float = 0.0) -> float:
    """The spacing of numbers around 1 in the coarsest of these formats; `none`: if none of them has fractions."""
    return max((float(torch.finfo(d).eps) for d in formats if d.is_floating_point or d.is_complex), default=none)


def rounding_bound(steps: Steps, eps: float) -> Steps:
    """What rounding can add up to after `steps` (a number or an array), relative to the largest scale so far."""
    bound: Steps = CONFIDENCE * (eps + LAW_OPERATIONS * EPS64) * (steps + 1.0) ** 0.5
    return bound
