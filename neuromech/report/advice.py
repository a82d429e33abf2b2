"""What follows from scored forecasts for the settings of a run, in sentences; nothing from a forecast that failed.

Each of the three kinds of advice was tried by a second run (tests/report/test_advice.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from neuromech.dynamics import equivalent
from neuromech.report.forecasts import Forecast
from neuromech.report.words import exactly, listing, number, share

FAILED = 0.25  # a relative error from which on nothing is concluded
TURNED = 1.0  # likewise, of the angle of a step
MOST = 3  # weights that are named in a sentence
NOTHING = 0.01  # a change of the squared length that does not matter


def advice(made: Sequence[Forecast]) -> list[str]:
    """Sentences on the settings, from the forecasts whose score is good enough."""
    good = [f for f in made if f.error <= FAILED and not f.angle_error > TURNED]
    if not good:
        off = (
            f"The forecasts were off by more than {share(FAILED)}, or those of the angle by more than {share(TURNED)}: "
            "nothing is concluded from them."
        )
        return [off] if made else []
    out: list[str] = []
    for (lr, decay), some in _by_settings(good).items():
        which = _which(some, len(some) == len(made))
        power = some[0].power
        if any(f.coupled for f in some):
            out.append(
                f"The weight decay {exactly(decay)} of {which} goes through the preconditioner of the optimizer: what "
                "it does is not told apart from the rest."
            )
        elif decay == 0:
            only = " They only grow, and so their effective learning rate only falls." if power == 1 else ""
            out.append(f"Without weight decay {which} have no equilibrium.{only}")
        elif all(abs(f.undecayed - f.end) <= NOTHING * f.end for f in some):
            out.append(
                f"Weight decay {exactly(decay)} does nothing here for {which}: to the end of the run it changes their "
                f"squared length by less than {share(NOTHING)}."
            )
        elif power >= 0:
            out.append(f"{equivalence(lr, decay, power, which)} {difference(lr, decay, power, some)}")
    return out


def equivalence(lr: float, decay: float, power: int, which: str) -> str:
    """Settings that train scale-invariant weights to the same function at every step."""
    faster, weaker, longer = equivalent(lr, decay, 2.0, power)
    return (
        f"For {which}, in a parameter group of their own, learning rate {exactly(lr)} with weight decay "
        f"{exactly(decay)} is equivalent to {exactly(faster)} with {exactly(weaker)}, started {number(longer)} "
        "times as long: the same function at every step."
    )


def difference(lr: float, decay: float, power: int, some: Sequence[Forecast]) -> str:
    """Settings with the same product differ in the length that they settle at, and before they have."""
    longer = equivalent(lr, decay, 2.0, power)[2]
    settles = max(f.time_constant for f in some)
    return (
        f"Started alike, these two settings differ only in the length that weights settle at ({number(longer)} times) "
        f"and in the steps until then, some {number(5 * settles)}: in equilibrium only the product of the two matters."
    )


def _which(some: Sequence[Forecast], every: bool) -> str:
    if every:
        return "these weights"
    more = f" and {len(some) - MOST} more" if len(some) > MOST else ""
    return listing([f.family.name for f in some][:MOST]) + more


def _by_settings(made: Sequence[Forecast]) -> dict[tuple[float, float], list[Forecast]]:
    out: dict[tuple[float, float], list[Forecast]] = {}
    for f in made:
        out.setdefault((f.lr, f.weight_decay), []).append(f)
    return out
