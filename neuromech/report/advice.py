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
FACTOR = 2.0  # between learning rates that are told to be equivalent
NOTHING = 0.01  # a change of the squared length that does not matter


def advice(made: Sequence[Forecast]) -> list[str]:
    """Sentences on the settings, from the forecasts whose score is good enough."""
    good = [f for f in made if f.error <= FAILED and not f.angle_error > TURNED]
    if not good:
        return [f"{_failed(made)}: nothing is concluded from them."] if made else []
    out: list[str] = []
    for some in _by_settings(good):
        decay = some[0].weight_decay
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
                f"Weight decay {exactly(decay)} does nothing here for {which}: by step {some[0].until:,} it changes "
                f"their squared length by less than {share(NOTHING)}."
            )
        elif power >= 0:
            out.append(f"{equivalence(some[0], which)} {difference(some)}")
    return out


def _failed(made: Sequence[Forecast]) -> str:
    """In what forecasts failed, of which none is good."""
    lengths = any(not f.error <= FAILED for f in made)
    angles = any(f.angle_error > TURNED for f in made)
    if lengths and angles:
        return (
            f"Each forecast was off by more than {share(FAILED)} in the squared length, or by more than "
            f"{share(TURNED)} in the angle"
        )
    what, by = ("squared lengths", FAILED) if lengths else ("angles", TURNED)
    return f"The forecasts of {what} were off by more than {share(by)}"


def equivalence(f: Forecast, which: str) -> str:
    """Settings that train scale-invariant weights to the same function at every step, whatever the schedule."""
    faster, weaker, longer = equivalent(f.lr, f.weight_decay, FACTOR, f.power)
    now, then = f"learning rate {exactly(f.lr)} with weight decay {exactly(f.weight_decay)} is", exactly(faster)
    if f.scheduled:
        least, from_ = number(f.lr_least), number(FACTOR * f.lr_least)
        most, to = exactly(f.lr_most), exactly(FACTOR * f.lr_most)
        now = f"a schedule of learning rates from {least} to {most} with weight decay {exactly(f.weight_decay)} is"
        then = f"the same schedule from {from_} to {to}"
    return (
        f"For {which}, in a parameter group of their own, {now} equivalent to {then} with {exactly(weaker)}, started "
        f"{number(longer)} times as long: the same function at every step."
    )


def difference(some: Sequence[Forecast]) -> str:
    """Settings with the same product differ in the length that they settle at, and before they have."""
    longer = equivalent(some[0].lr, some[0].weight_decay, FACTOR, some[0].power)[2]
    last = max(some, key=lambda f: f.time_constant)
    when = f" at the learning rate of step {last.made_at:,}" if last.scheduled else ""
    return (
        f"Started alike, these two settings differ only in the length that weights settle at ({number(longer)} times) "
        f"and in the steps until then, some {number(5 * last.time_constant)}{when}: in equilibrium only the product of "
        "the two matters."
    )


def _which(some: Sequence[Forecast], every: bool) -> str:
    if every:
        return "these weights"
    more = f" and {len(some) - MOST} more" if len(some) > MOST else ""
    return listing([f.family.name for f in some][:MOST]) + more


def _by_settings(made: Sequence[Forecast]) -> list[list[Forecast]]:
    out: dict[tuple[float, ...], list[Forecast]] = {}
    for f in made:
        out.setdefault((f.lr, f.lr_least, f.lr_most, f.weight_decay), []).append(f)
    return [*out.values()]
