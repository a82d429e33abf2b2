"""Forecasts for the charges of rescalings under SGD: made early in a run and scored against its end, or of one that
goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.dynamics import TwoSides, two_sides
from neuromech.report.family import FamilyRecord
from neuromech.report.forecasts import LEAST_STEPS, LEVEL, MADE_AT, Knobs, knobs, losses_of, rates_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ChargeForecast:
    """What was forecast for the charge of one family, summed over its members, and what came.

    `low`, `high`: between which the end should be in 80 % of all forecasts. `undecayed`: the end without weight decay;
    `equilibrium` (infinite: none) and `time_constant` (steps): at the learning rate of step `made_at`. `size`: of both
    sides together at the last reading, which errors are relative to, as a charge may be zero.
    """

    family: FamilyRecord
    made_at: int
    until: int
    now: float
    end: float
    came: float
    low: float
    high: float
    undecayed: float
    equilibrium: float
    time_constant: float
    size: float

    @property
    def members(self) -> int:
        """All of the family."""
        return self.family.size

    @property
    def coupled(self) -> bool:
        """Decay is never behind a preconditioner here."""
        return False

    @property
    def error(self) -> float:
        """Relative to the size of both sides."""
        return abs(self.end - self.came) / self.size

    @property
    def baseline(self) -> float:
        """The error of the forecast that nothing changes."""
        return abs(self.now - self.came) / self.size


def charge_forecasts(
    meta: Mapping[str, Any],
    found: Sequence[FamilyRecord],
    steps: pd.DataFrame,
    sides: pd.DataFrame,
    loss: pd.DataFrame | None = None,
) -> list[ChargeForecast]:
    """One for every rescale family of which something can be said; none in a short run. `sides`: that table."""
    n = len(rates_of(steps))
    if n <= LEAST_STEPS:
        return []
    made, losses, first = [], losses_of(loss, n), int(MADE_AT * (n - 1))
    for f, of_sides in _rescalings(found, sides):
        own = knobs(meta, f.parameters, f.size)
        rows = f.whole[np.isfinite(f.whole["observed"].to_numpy(float))]
        if own is None or why_not(meta, f, own) or rows.empty or rows["step"].max() <= first:
            continue
        rates = rates_of(steps, own.optimizer) * own.relative
        try:
            made_of = outlook_of_sides(meta, f, own, of_sides, rates, losses, first)
        except ValueError:
            continue
        until = int(rows["step"].max())
        now, came = (float(rows.loc[rows["step"] <= k, "observed"].iloc[-1]) for k in (first, until))
        before, last = rates[: first + 1], of_sides.iloc[-1]
        lr = float(before[before > 0][-1])
        size = float(last["weights_up"] + last["weights_down"])
        said = said_of(made_of, now, rates[first + 1 : until + 1].tolist(), lr)
        made.append(ChargeForecast(f, first, until, now, came=came, size=size, **said))
    return made


def said_of(sides: TwoSides, now: float, ahead: Sequence[float], lr: float) -> dict[str, float]:
    """What is forecast for steps with these learning rates; the equilibrium is that at `lr`."""
    low, high = sides.interval(now, ahead, LEVEL)
    return {
        "end": sides.path(now, ahead)[-1],
        "low": low,
        "high": high,
        "undecayed": replace(sides, decay=0.0).path(now, ahead)[-1],
        "equilibrium": sides.equilibrium(lr),
        "time_constant": sides.time_constant(lr),
    }


def why_not(meta: Mapping[str, Any], f: FamilyRecord, own: Knobs) -> str:
    """Why there is no forecast for this rescale family, whatever was recorded; empty if there may be one."""
    if f.evidence != "predicted" or own.power != 1:
        return "this optimizer moves its charge in first order, by gradients that are yet to come"
    known = meta.get("symmetries") or ()
    terms = known[f.index].get("terms") or () if f.index < len(known) else ()
    if len({str(t.get("weight")).lstrip("-") for t in terms}) > 1:
        return "its sides take different powers of the factor"
    return ""


def outlook_of_sides(
    meta: Mapping[str, Any],
    f: FamilyRecord,
    own: Knobs,
    sides: pd.DataFrame,
    rates: np.ndarray,
    losses: np.ndarray | None,
    at: int,
) -> TwoSides:
    """At step `at`, from the later half of the run until then. Raises `ValueError` for too little."""
    rows = f.whole[(f.whole["step"] >= at // 2) & (f.whole["step"] <= at)]
    rows = rows[np.isfinite(rows["observed"].to_numpy(float))]
    late = sides[(sides["step"] >= at // 2) & (sides["step"] <= at)]
    if rows.empty:
        raise ValueError("no charge was recorded")
    last = int(rows["step"].iloc[-1])
    group = meta["optimizers"][own.optimizer]["groups"][own.group]
    return two_sides(
        rows["observed"].tolist(), rows["step"].tolist(), late[["weights_up", "weights_down"]].to_numpy(float).tolist(),
        late[["gradient_up", "gradient_down"]].to_numpy(float).tolist(), rates[1 : last + 1].tolist(), own.told,
        (1.0 - float(group.get("dampening") or 0.0)) / (1.0 - own.told.memory),
        None if losses is None else losses[1 : last + 1].tolist(),
    )  # fmt: skip


def _rescalings(found: Sequence[FamilyRecord], sides: pd.DataFrame) -> list[tuple[FamilyRecord, pd.DataFrame]]:
    """Each with the readings of its sides."""
    if "symmetry" not in sides:
        return []
    once = sides.drop_duplicates(["step", "symmetry"], keep="last").sort_values(["symmetry", "step"])
    of = dict(list(once.groupby("symmetry")))
    return [(f, of[f.index]) for f in found if f.kind == "rescale" and f.index in of]
