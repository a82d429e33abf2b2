"""Forecasts made early in a run, scored against its end: the lengths of scale-invariant weights, and how they turn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.dynamics import TERMS, Balance, effective_lr, equivalent, measure
from neuromech.optimizers import known_rule
from neuromech.report.family import FamilyRecord
from neuromech.report.words import exactly, number, share

if TYPE_CHECKING:
    import pandas as pd

MADE_AT = 0.2  # of the run
LEAST_STEPS = 50
FADES = 3.0  # a gradient's strength is not taken to change faster than this power of the step number
NOTHING = 0.01  # a change of the squared length that does not matter


@dataclass(frozen=True)
class Forecast:
    """What was forecast for the recorded members of one family, and what came: squared lengths are summed over them.

    `equilibrium` and `time_constant` (in steps) are those at the learning rate of step `made_at`; `angle`: (rad a step)
    of the last fifth of the run, nan where nothing is known of the optimizer's memory; `undecayed`: the end without
    weight decay.
    """

    family: FamilyRecord
    made_at: int
    members: int
    now: float
    end: float
    came: float
    undecayed: float
    equilibrium: float
    time_constant: float
    angle: float
    turned: float
    effective: float

    @property
    def error(self) -> float:
        """Relative to what came."""
        return abs(self.end - self.came) / self.came

    @property
    def decay_matters(self) -> bool:
        return abs(self.undecayed - self.end) > NOTHING * self.end


@dataclass(frozen=True)
class Knobs:
    """What is known of the one optimizer of a run: `power` as in `forecast.Balance`, `memory` is momentum or beta1.

    `separable`: what weight decay does to a squared length can be told from what the update does: it is decoupled, or
    the update is linear in the gradients that it joins. Behind a preconditioner it is a part of the update.
    """

    name: str
    power: int
    memory: float
    lr: float
    weight_decay: float
    separable: bool = True


def knobs(meta: Mapping[str, Any]) -> Knobs | None:
    """None: no optimizer, or several of different kinds."""
    known = list(meta.get("optimizers") or ())
    if len({o.get("class") for o in known}) != 1 or not known[0].get("groups"):
        return None
    groups = known[0]["groups"]
    group = max(groups, key=lambda g: float(g.get("weight_decay") or 0.0))
    name = str(known[0]["class"])
    lr, decay = float(group.get("lr") or 0.0), float(group.get("weight_decay") or 0.0)
    rule = known_rule(str(known[0].get("rule", name)))
    if rule is None:
        return Knobs(name, 0, math.nan, lr, decay, separable=False)
    return Knobs(name, rule.power, rule.memory(group), lr, decay, rule.decoupled(group) or rule.power == 1)


def forecasts(meta: Mapping[str, Any], found: Sequence[FamilyRecord], steps: pd.DataFrame) -> list[Forecast]:
    """One for every family of squared lengths that was recorded often enough; none in a short run."""
    told, rates = knobs(meta), _rates(steps)
    if told is None or len(rates) <= LEAST_STEPS:
        return []
    made = (forecast(f, told, rates) for f in found if f.kind == "scale")
    return [f for f in made if f is not None]


def forecast(family: FamilyRecord, told: Knobs, rates: np.ndarray) -> Forecast | None:
    """`rates[k]`: the learning rate of step k; None: too little was recorded, or what was is no number."""
    if not len(family.terms) or not len(family.members):
        return None
    rows = family.terms.merge(family.members[["step", "member", "observed"]], on=["step", "member"])
    at = rows.loc[rows["step"] <= MADE_AT * (len(rates) - 1), "step"].max()
    window = rows[(rows["step"] >= 0.7 * at) & (rows["step"] <= at)]
    last = int(rows["step"].max()) if len(rows) else 0
    if window["step"].nunique() < 3 or last <= at or not np.isfinite(rows["observed"]).all():
        return None
    first = int(at)
    fade = _fade(rows[rows["step"] <= at], told, rates)
    single = [replace(_balance(own, told, rates), fade=fade, at=first) for _, own in window.groupby("member")]
    now, came = (rows.loc[rows["step"] == k].sort_values("member")["observed"].to_numpy() for k in (first, last))
    if len(now) != len(came) or (np.concatenate([now, came]) <= 0).any():
        return None
    ahead, lr = rates[first + 1 : last + 1].tolist(), float(rates[first])
    paths = [b.path(c, ahead) for b, c in zip(single, now, strict=True)]
    return Forecast(
        family=family,
        made_at=first,
        members=len(now),
        now=float(now.sum()),
        end=sum(path[-1] for path in paths),
        came=float(came.sum()),
        undecayed=sum(replace(b, decay=0.0).advance(c, ahead) for b, c in zip(single, now, strict=True)),
        equilibrium=sum(b.equilibrium(lr) for b in single),
        time_constant=float(np.mean([b.time_constant(lr) for b in single])),
        angle=_angle(single, paths, told.memory, rates, last),
        turned=_turned(family, last),
        effective=float(np.mean([effective_lr(lr, c, told.memory, told.power) for c in now])),
    )


def _balance(own: pd.DataFrame, told: Knobs, rates: np.ndarray) -> Balance:
    """The balance of one member, from its rows in the window."""
    steps = own["step"].to_numpy(int)
    length2 = own["observed"].to_numpy(float)
    decayed = np.diff(own["weight_decay"].to_numpy(float))
    driven = np.diff(own[[t for t in TERMS if t != "weight_decay"]].to_numpy(float).sum(1))
    middle = (length2[1:] + length2[:-1]) / 2
    lrs = [rates[a + 1 : b + 1].tolist() for a, b in pairwise(steps)]
    return measure(middle.tolist(), decayed.tolist(), driven.tolist(), lrs, told.power)


def _fade(rows: pd.DataFrame, told: Knobs, rates: np.ndarray) -> float:
    """How fast the strength has been falling, as a power of the step number, over all members together."""
    last = int(rows["step"].max())
    thirds = [rows[(rows["step"] >= a * last) & (rows["step"] <= b * last)] for a, b in ((0.25, 0.5), (0.5, 1.0))]
    if any(third["step"].nunique() < 3 for third in thirds):
        return 0.0
    early, late = (sum(_balance(x, told, rates).strength for _, x in third.groupby("member")) for third in thirds)
    return min(max(math.log(early / late) / math.log(2.0), -FADES), FADES) if early > 0 and late > 0 else 0.0


def _angle(
    single: Sequence[Balance], paths: Sequence[Sequence[float]], memory: float, rates: np.ndarray, last: int
) -> float:
    """The angle of one step forecast for the last fifth of the run, root mean square over its steps and all members;
    `paths`: squared lengths from the step at which the forecast is made to the last."""
    if math.isnan(memory):
        return math.nan
    tail = range(int(0.8 * last) + 1, last + 1)
    turned = [
        b.angle(float(rates[k]), path[k - 1 - b.at], memory, k) ** 2
        for b, path in zip(single, paths, strict=True)
        for k in tail
    ]
    return math.sqrt(float(np.mean(turned)))


def _turned(family: FamilyRecord, last: int) -> float:
    """The angle by which one step turned the weights, root mean square over the last fifth and all members."""
    whole = family.terms[(family.terms["member"] < 0) & (family.terms["step"] >= 0.8 * last)]
    if len(whole) < 2:
        return math.nan
    a, b = whole.iloc[0], whole.iloc[-1]
    return math.sqrt(max(0.0, float((b["turn"] - a["turn"]) / (b["step"] - a["step"]))))


def _rates(steps: pd.DataFrame) -> np.ndarray:
    """The learning rate of every step, by its number."""
    if not len(steps) or "lr" not in steps:
        return np.zeros(0)
    out = np.zeros(int(steps["step"].max()) + 1)
    out[steps["step"].to_numpy(int)] = steps["lr"].to_numpy(float)
    return out


def remarks(told: Knobs | None, made: Sequence[Forecast]) -> list[str]:
    """What follows for the settings of the run, in sentences."""
    if told is None or not made:
        return []
    out = []
    idle = [f for f in made if not f.decay_matters]
    if told.weight_decay > 0 and idle and told.separable:
        which = "these weights" if len(idle) == len(made) else ", ".join(f.family.name for f in idle)
        out.append(
            f"Weight decay {exactly(told.weight_decay)} does nothing here for {which}: to the end of the run it "
            f"changes their squared length by less than {share(NOTHING)}."
        )
    if told.weight_decay == 0:
        out.append(
            "Without weight decay these weights have no equilibrium: they only grow, and so their effective learning "
            "rate only falls."
        )
    elif told.separable and told.power >= 0 and len(idle) < len(made):
        lr, decay, longer = equivalent(told.lr, told.weight_decay, 2.0, told.power)
        out.append(
            f"For these weights learning rate {exactly(told.lr)} with weight decay {exactly(told.weight_decay)} is "
            f"equivalent to {exactly(lr)} with {exactly(decay)}, started {number(longer)} times as long: the same "
            "function at every step. In equilibrium only the product of the two matters."
        )
    return out
