"""At which steps of a run a charge was held against its law: what is said of the law is said of these."""

from __future__ import annotations

import numpy as np


def held_at(steps: np.ndarray, n_steps: int, every: int = 1) -> str:
    """What is to be said if these are not all the steps that were due, as "until step 38 of 200"; else nothing.

    `steps`: those at which there is a charge and a prediction, ascending, without the start. Due is one in `every`.
    """
    if not len(steps):
        return "at the start" if n_steps >= every else ""
    first, last = int(steps[0]), int(steps[-1])
    if (np.diff(steps) > every).any():
        return f"at {len(steps):,} of {n_steps:,} steps"
    begun, until = first <= every, n_steps - last < every
    if begun and until:
        return ""
    if begun:
        return f"until step {last:,} of {n_steps:,}"
    return f"from step {first:,} on" if until else f"from step {first:,} to step {last:,} of {n_steps:,}"
