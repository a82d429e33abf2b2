"""What a practice is: a run that people rightly do, and that single steps could be taken for a fault."""

from __future__ import annotations

from collections.abc import Callable

from experiments.silent_bugs.nets import Watched

Practice = Callable[[int], Watched]
PRACTICES: dict[str, Practice] = {}
STEPS = 30


def practice(make: Practice) -> Practice:
    PRACTICES[make.__name__.replace("_", " ")] = make
    return make
