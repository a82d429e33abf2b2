"""Forecasts of a run that goes on: where normalised weights and the charges of rescalings will be some steps from now,
with a schedule or without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.dynamics import growth_of
from neuromech.report.charges_ahead import outlook_of_sides, said_of, why_not
from neuromech.report.forecasts import Knobs, knobs, losses_of, outlook_of, rates_of, recorded

if TYPE_CHECKING:
    import pandas as pd

    from neuromech.report.facts import RunFacts
    from neuromech.report.family import FamilyRecord

COLUMNS = (
    "symmetry", "kind", "name", "members", "step", "at", "now", "end", "low", "high", "undecayed", "equilibrium",
    "time_constant", "reached", "gradient_growth", "grows_by", "why_not",
)  # fmt: skip
LEVEL = 0.8
NEAR = 0.01  # of both squared lengths: that close to its equilibrium a charge counts as there


def ahead(facts: RunFacts, steps: int, rates: Sequence[Sequence[float]] | None, optimizer: int = 0) -> pd.DataFrame:
    """One row per scale or rescale family: what it will be after `steps` more steps.

    `rates[g]`: the learning rates of param group g of the optimizer of that number; None, and for others: they stay.
    now, end, low, high     squared lengths of the recorded members, or charges of whole rescale families; the last two
                            between which the end is in 80 % of forecasts; that nothing changes, `now`, is the baseline
    reached                 the first step at which the equilibrium of the last learning rate is near (10 %; of a
                            charge, 1 % of the squared lengths of its sides); nan: none
    gradient_growth         the factor by which gradients will have grown for the lengths' sake
    grows_by                the larger cause of that: decay or lr
    why_not                 why there is no forecast
    """
    import pandas as pd

    losses = losses_of(facts.loss, len(rates_of(facts.steps)))
    rows = []
    for f in facts.families:
        if f.kind in ("scale", "rescale"):
            which = {"symmetry": f.index, "kind": f.kind, "name": f.name}
            when = {"step": facts.n_steps, "at": facts.n_steps + steps}
            rows.append(which | when | _of_family(f, facts, steps, rates, optimizer, losses))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _of_family(
    f: FamilyRecord,
    facts: RunFacts,
    steps: int,
    rates: Sequence[Sequence[float]] | None,
    optimizer: int,
    losses: np.ndarray | None,
) -> dict[str, Any]:
    own = knobs(facts.meta, f.parameters, f.size)
    if own is None:
        return {"why_not": "its parameters are in several groups of other settings, or in none"}
    past = rates_of(facts.steps, own.optimizer) * own.relative
    last = float(past[past > 0][-1]) if (past > 0).any() else 0.0
    lrs = [last] * steps if rates is None or own.optimizer != optimizer else list(rates[own.group])[:steps]
    if changed := _changed(facts):
        return {"why_not": f"settings were changed lately: {changed}"}
    if f.kind == "rescale":
        return _of_charge(f, facts, own, past, losses, lrs)
    rows = recorded(f)
    if len(rows) and int(rows["step"].max()) - int(rows["step"].min()) < 8:
        return {"why_not": "too few steps were recorded"}
    if rows.empty or not np.isfinite(rows[["observed", "turn"]].to_numpy(float)).all():
        return {"why_not": "no member was recorded, or lengths are not numbers"}
    if (rows["observed"] <= 0).any():
        return {"why_not": "a squared length is not positive"}
    return _foreseen(rows, own, past, losses, lrs)


def _changed(facts: RunFacts) -> str:
    """The last change of a setting but the learning rate in the later half of the run; empty if there is none."""
    said = facts.events["message"].astype(str)
    changed = said.str.contains("weight_decay|momentum|betas", regex=True)
    changed = changed & (facts.events["kind"] == "settings") & (facts.events["step"] > facts.n_steps // 2)
    return str(said[changed].iloc[-1]) if changed.any() else ""


def _of_charge(
    f: FamilyRecord, facts: RunFacts, own: Knobs, past: np.ndarray, losses: np.ndarray | None, lrs: list[float]
) -> dict[str, Any]:
    if why := why_not(facts.meta, f, own):
        return {"why_not": why}
    of = facts.sides[facts.sides["symmetry"] == f.index] if "symmetry" in facts.sides else facts.sides
    rows = f.whole[np.isfinite(f.whole["observed"].to_numpy(float))]
    if of.empty or rows.empty:
        return {"why_not": "too few steps were recorded"}
    last = int(rows["step"].iloc[-1])
    try:
        sides = outlook_of_sides(facts.meta, f, own, of, past, losses, last)
    except ValueError as error:
        return {"why_not": str(error)}
    now = float(rows["observed"].iloc[-1])
    told = said_of(sides, now, lrs, lrs[-1])
    path, rest = np.array(sides.path(now, lrs)), told["equilibrium"]
    near = (
        np.flatnonzero(np.abs(path - rest) <= NEAR * sum(sides.lengths(rest))) if math.isfinite(rest) else np.zeros(0)
    )
    return told | {
        "members": f.size,
        "now": now,
        "reached": last + int(near[0]) if len(near) else math.nan,
        "gradient_growth": math.nan,
        "grows_by": "",
        "why_not": "",
    }


def _foreseen(
    rows: pd.DataFrame, own: Knobs, past: np.ndarray, losses: np.ndarray | None, lrs: list[float]
) -> dict[str, Any]:
    single = [(outlook_of(x, own, past, losses), float(x["observed"].iloc[-1])) for _, x in rows.groupby("member")]
    paths = [b.path(c, lrs) for b, c in single]
    low, high = np.sum([b.interval(c, lrs, LEVEL) for b, c in single], axis=0)
    rest, now = sum(b.equilibrium(lrs[-1]) for b, _ in single), sum(c for _, c in single)
    whole = np.sum(paths, axis=0)
    near = np.flatnonzero(np.abs(whole / rest - 1) <= 0.1) if math.isfinite(rest) and rest > 0 else np.zeros(0)
    grown = [growth_of(b, c, lrs, 1.0) for b, c in single]
    by = {name: float(np.mean([getattr(g, name) for g in grown])) for name in ("decay", "lr")}
    growth = math.exp(sum(by.values()))
    return {
        "members": len(single),
        "now": now,
        "end": float(whole[-1]),
        "low": float(low),
        "high": float(high),
        "undecayed": sum(replace(b, decay=0.0).advance(c, lrs) for b, c in single),
        "equilibrium": rest,
        "time_constant": float(np.mean([b.time_constant(lrs[-1]) for b, _ in single])),
        "reached": int(rows["step"].max()) + int(near[0]) if len(near) else math.nan,
        "gradient_growth": growth,
        "grows_by": max(by, key=lambda name: by[name]) if growth > 1 else "",
        "why_not": "",
    }
