"""At which steps of a run a charge was held against its law: what is said of the law is said of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from neuromech.report.words import listing

KINDS_OF_GAPS = 3  # that are told


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


def at_which(said: Sequence[str]) -> str:
    """At which steps laws were judged, if not at all: `said` by the verdict of each."""
    gaps = Counter(text for text in said if text).most_common()
    if not gaps:
        return ""
    if gaps[0][1] == len(said):
        return f", {gaps[0][0]}"
    rest = sum(n for _, n in gaps[KINDS_OF_GAPS:])
    told = [f"{n} of them only {text}" for text, n in gaps[:KINDS_OF_GAPS]]
    return f", {listing(told + ([f'{rest} more not at every step'] if rest else []))}"
