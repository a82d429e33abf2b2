"""Forecasts made early in a run, scored against its end: the lengths of scale-invariant weights, and how they turn."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.dynamics import Balance, effective_lr, outlook
from neuromech.optimizers import Hyperparameters, hyperparameters_of, known_rule
from neuromech.report.evidence import holds_any
from neuromech.report.family import FamilyRecord

if TYPE_CHECKING:
    import pandas as pd

MADE_AT = 0.2  # of the run
LEAST_STEPS = 50
LEVEL = 0.8  # of the intervals


@dataclass(frozen=True)
class Forecast:
    """What was forecast for the recorded members of one family, and what came: squared lengths are summed over them.

    `until`: the step that was forecast, the last one recorded. The end means this step.
    `low`, `high`: between which the end should be in 80 % of all forecasts.
    `equilibrium` and `time_constant` (in steps) are those at the learning rate of step `made_at`; `angle`: (rad a step)
    of the last fifth of the run, from how the weights turned until then; `turned_before`: that measured
    before the forecast; `undecayed`: the end without weight decay; `lr`, `weight_decay`: of the parameters' own group,
    `lr` as the run began, `lr_least` and `lr_most` the least and the largest that moved anything;
    `coupled`: the decay goes through a preconditioner, and cannot be told apart. What could not be measured is nan.
    """

    family: FamilyRecord
    made_at: int
    until: int
    members: int
    now: float
    end: float
    came: float
    low: float
    high: float
    undecayed: float
    equilibrium: float
    time_constant: float
    angle: float
    turned: float
    turned_before: float
    effective: float
    lr: float
    weight_decay: float
    power: int
    coupled: bool
    lr_least: float
    lr_most: float

    @property
    def scheduled(self) -> bool:
        """The learning rate did not stay what it was."""
        return self.lr_most > self.lr_least * (1 + 1e-6)

    @property
    def error(self) -> float:
        """Of the squared length, relative to what came."""
        return abs(self.end - self.came) / self.came

    @property
    def baseline(self) -> float:
        """The error of the forecast that nothing changes."""
        return abs(self.now - self.came) / self.came

    @property
    def angle_error(self) -> float:
        """Of the angle, relative to what was measured."""
        return abs(self.angle - self.turned) / self.turned if self.turned > 0 else math.nan

    @property
    def angle_baseline(self) -> float:
        """The error of the angle if weights went on turning as they did."""
        return abs(self.turned_before - self.turned) / self.turned if self.turned > 0 else math.nan


@dataclass(frozen=True)
class Knobs:
    """What is known of the one group of settings that moves some parameters; `optimizer`, `group`: their numbers.

    `relative`: the learning rate relative to that of the optimizer's first group; `entries`: of one member of a family,
    0 if that is not known. `separable`: what weight decay does to a squared length can be told from what the update
    does: it is decoupled, or the update is linear in the gradients that it joins.
    """

    name: str
    told: Hyperparameters
    relative: float = 1.0
    entries: int = 0
    optimizer: int = 0
    group: int = 0

    @property
    def separable(self) -> bool:
        return not math.isnan(self.told.decay)

    @property
    def power(self) -> int:
        return self.told.power


def knobs(meta: Mapping[str, Any], parameters: Collection[str] = (), members: int = 1) -> Knobs | None:
    """Of the group that holds `parameters`. None: no group, or several with different settings."""
    known = [
        ((i, k), o, group)
        for i, o in enumerate(meta.get("optimizers") or ())
        for k, group in enumerate(o.get("groups") or ())
        if holds_any(group, parameters)
    ]
    if not known or len({str(o.get("class")) for _, o, _ in known}) != 1:
        return None
    index, optimizer, group = known[0]
    if any((g.get("lr"), g.get("weight_decay")) != (group.get("lr"), group.get("weight_decay")) for _, _, g in known):
        return None
    if optimizer.get("wrapper"):
        return None  # its steps are not those of its class
    name = str(optimizer["class"])
    lr, first = float(group.get("lr") or 0.0), float(optimizer["groups"][0].get("lr") or 0.0)
    known_shapes = _shapes(meta)
    shapes = [known_shapes[name] for name in parameters if name in known_shapes]
    shape: Sequence[int] = shapes[0] if len(shapes) == len(parameters) == 1 else ()
    told = hyperparameters_of(known_rule(str(optimizer.get("rule", name))), group, shape)
    return Knobs(name, told, lr / first if first > 0 else 1.0, math.prod(shape) // members if shape else 0, *index)


def _shapes(meta: Mapping[str, Any]) -> dict[str, list[int]]:
    """Of the parameters, by their names."""
    return {
        f"{m['name']}.{key}" if m.get("name") else str(key): shape
        for m in meta.get("modules") or ()
        for key, shape in (m.get("shapes") or {}).items()
    }


def forecasts(
    meta: Mapping[str, Any], found: Sequence[FamilyRecord], steps: pd.DataFrame, loss: pd.DataFrame | None = None
) -> list[Forecast]:
    """One for every family of squared lengths that was recorded often enough; none in a short run.

    `loss`: step and value, where the run knows it.
    """
    if len(rates_of(steps)) <= LEAST_STEPS:
        return []
    losses = losses_of(loss, len(rates_of(steps)))
    known = ((f, knobs(meta, f.parameters, f.size)) for f in found if f.kind == "scale")
    made = (
        forecast(f, own, rates_of(steps, own.optimizer) * own.relative, losses) for f, own in known if own is not None
    )
    return [f for f in made if f is not None]


def forecast(family: FamilyRecord, own: Knobs, rates: np.ndarray, losses: np.ndarray | None = None) -> Forecast | None:
    """`rates[k]`, `losses[k]`: of step k; None: too little was recorded, or what was is not a number."""
    if not len(family.terms) or not len(family.members):
        return None
    rows = recorded(family)
    at = rows.loc[rows["step"] <= MADE_AT * (len(rates) - 1), "step"].max()
    window = rows[(rows["step"] >= 0.7 * at) & (rows["step"] <= at)]
    last = int(rows["step"].max()) if len(rows) else 0
    if window["step"].nunique() < 3 or last <= at or not np.isfinite(rows[["observed", "turn"]].to_numpy(float)).all():
        return None
    first, told = int(at), own.told
    single = [outlook_of(x, own, rates, losses) for _, x in rows[rows["step"] <= at].groupby("member")]
    now, came = (rows.loc[rows["step"] == k].sort_values("member")["observed"].to_numpy() for k in (first, last))
    if len(now) != len(came) or (np.concatenate([now, came]) <= 0).any():
        return None
    ahead, before = rates[first + 1 : last + 1].tolist(), rates[: first + 1]
    lr = float(before[before > 0][-1]) if (before > 0).any() else 0.0  # at 0 another optimizer may step
    unknown = any(b.strength <= 0 for b in single)  # what drives the weights was not to be seen in the noise
    paths = [b.path(c, ahead) for b, c in zip(single, now, strict=True)]
    low, high = np.sum([b.interval(c, ahead, LEVEL) for b, c in zip(single, now, strict=True)], axis=0)
    turned_before, moved = _turned(family, int(0.7 * first), first), rates[rates > 0]
    return Forecast(
        family=family,
        made_at=first,
        until=last,
        members=len(now),
        now=float(now.sum()),
        end=sum(path[-1] for path in paths),
        came=float(came.sum()),
        low=float(low),
        high=float(high),
        undecayed=sum(replace(b, decay=0.0).advance(c, ahead) for b, c in zip(single, now, strict=True)),
        equilibrium=math.nan if unknown else sum(b.equilibrium(lr) for b in single),
        time_constant=float(np.mean([b.time_constant(lr) for b in single])),
        angle=math.nan if unknown else _angle(single, window, paths, turned_before, rates, last),
        turned=_turned(family, int(0.8 * last), last),
        turned_before=turned_before,
        effective=float(np.mean([effective_lr(lr, c, told.memory, told.power) for c in now])),
        lr=told.lr,
        weight_decay=told.weight_decay,
        power=told.power,
        coupled=told.weight_decay > 0 and not own.separable,
        lr_least=float(moved.min()) if len(moved) else told.lr,
        lr_most=float(moved.max()) if len(moved) else told.lr,
    )


def recorded(family: FamilyRecord) -> pd.DataFrame:
    """What is known of single members at each step: how they have turned, what decay has done, the charge."""
    moved = family.terms[["step", "member", "turn", "weight_decay"]]
    return moved.merge(family.members[["step", "member", "observed"]], on=["step", "member"])


def outlook_of(rows: pd.DataFrame, own: Knobs, rates: np.ndarray, losses: np.ndarray | None) -> Balance:
    """Of one member, from its rows so far."""
    steps = rows["step"].to_numpy(int)
    begun, last = int(steps[0]), int(steps[-1])  # a resumed run need not begin at 0
    turns = np.diff(rows["turn"].to_numpy(float), prepend=0.0).clip(0.0)
    told = own.told if own.entries else own.told._replace(unit=math.nan)
    if own.separable:  # then the law knows what decay does, whatever it is made of
        late, length2 = slice(len(steps) // 2, None), rows["observed"].to_numpy(float)
        shrunk = (np.diff(np.cumsum(rates)[steps]) * (length2[1:] + length2[:-1]) / 2)[late].sum()
        decayed = np.diff(rows["weight_decay"].to_numpy(float))[late].sum()
        told = told._replace(decay=max(0.0, -decayed / shrunk) if shrunk > 0 else 0.0)
    seen = None if losses is None else losses[begun + 1 : last + 1].tolist()
    return outlook(
        rows["observed"].tolist(), turns.tolist(), rates[begun + 1 : last + 1].tolist(), told, own.entries, seen,
        (steps - begun).tolist(),
    )  # fmt: skip


def losses_of(loss: pd.DataFrame | None, n: int) -> np.ndarray | None:
    """The loss of every step, by its number; None if one is missing or is not a number."""
    if loss is None:
        return None
    out = np.full(n, math.nan)
    known = loss[(loss["step"] >= 0) & (loss["step"] < n)]
    out[known["step"].to_numpy(int)] = known["value"].to_numpy(float)
    return out if np.isfinite(out[1:]).all() else None


def _angle(
    single: Sequence[Balance],
    window: pd.DataFrame,
    paths: Sequence[Sequence[float]],
    turned: float,
    rates: np.ndarray,
    last: int,
) -> float:
    """The angle of one step forecast for the last fifth of the run, root mean square over its steps and all members.

    `turned`: that measured in the `window`; from there it goes with the learning rate, the strength and the length.
    `paths`: squared lengths from the step at which the forecast is made to the last.
    """

    def drives(b: Balance, steps: np.ndarray, length2: np.ndarray) -> np.ndarray:
        lr = rates[steps]
        return np.asarray(lr**2 * b.strength * b.trend.factors(steps, lr) / length2 ** (1 + b.power))

    each = [(own["step"].to_numpy(int), own["observed"].to_numpy(float)) for _, own in window.groupby("member")]
    resting = rates[each[0][0][0] : each[0][0][-1] + 1] == 0  # optimizers take turns, and members have a stride
    if resting.any():
        dense = [np.arange(steps[0], steps[-1] + 1) for steps, _ in each]
        each = [(k, np.interp(k, *own)) for k, own in zip(dense, each, strict=True)]
    before = np.concatenate([drives(b, k[1:], length2[1:]) for b, (k, length2) in zip(single, each, strict=True)])
    first = last + 1 - len(paths[0])  # the step at which the forecast is made
    tail = np.arange(max(first, int(0.8 * last)) + 1, last + 1)
    ahead = np.concatenate(
        [drives(b, tail, np.asarray(path)[tail - 1 - first]) for b, path in zip(single, paths, strict=True)]
    )
    usual = float(before.mean()) if len(before) else 0.0
    return turned * math.sqrt(float(ahead.mean()) / usual) if usual > 0 else math.nan


def _turned(family: FamilyRecord, first: int, last: int) -> float:
    """The angle by which one step turned the weights, root mean square over these steps and all members."""
    step = family.terms["step"]
    whole = family.terms[(family.terms["member"] < 0) & (step >= first) & (step <= last)]
    if len(whole) < 2:
        return math.nan
    a, b = whole.iloc[0], whole.iloc[-1]
    return math.sqrt(max(0.0, float((b["turn"] - a["turn"]) / (b["step"] - a["step"]))))


def rates_of(steps: pd.DataFrame, optimizer: int | None = None) -> np.ndarray:
    """The learning rate of every step, by its number; 0 in the steps of other optimizers than that of this number."""
    if not len(steps) or "lr" not in steps:
        return np.zeros(0)
    out = np.zeros(int(steps["step"].max()) + 1)
    if optimizer is not None and "optimizer" in steps and steps["optimizer"].nunique() > 1:
        steps = steps[steps["optimizer"] == optimizer]
    out[steps["step"].to_numpy(int)] = steps["lr"].to_numpy(float)
    return out
