"""The lengths of normalised weights, step by step: how they turn, and the equilibrium that they are on the way to.

By the laws of dynamics/forecast.py, with what was measured in the later half of the run until each step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.report.forecasts import Knobs, knobs, rates_of
from neuromech.report.words import number

if TYPE_CHECKING:
    import pandas as pd

    from neuromech.report.family import FamilyRecord

COLUMNS = (
    "step", "symmetry", "name", "norm", "update_to_weight", "angle", "effective_lr", "gradient", "equilibrium_norm",
    "equilibrium_angle", "time_constant", "excess", "equipartition", "reached",
)  # fmt: skip
PER_OCTAVE = 16  # rows for every doubling of the number of steps
NEAR = 0.1  # of the equilibrium's squared length: that close it counts as reached


def norms(
    meta: Mapping[str, Any], found: Sequence[FamilyRecord], steps: pd.DataFrame, sides: pd.DataFrame
) -> pd.DataFrame:
    """One row per scale or rescale family and step, 16 (rescale: 8) for every doubling of the number of steps.

    `sides`: that table of the records.

    norm                of all members together
    update_to_weight    |step| / |weights|, root mean square since the row before
    angle               (rad) by which one step turned a member, likewise
    effective_lr        the learning rate that a member of length one would feel
    gradient            the size of the gradient at a member of length one (SGD; nan elsewhere)
    equilibrium_norm, equilibrium_angle, time_constant (steps)    at the learning rate of that step
    excess              (step / its size in equilibrium)^2 at this length: well above 1 is out of the ordinary
    equipartition       of a rescaling: the energy of gradients on its left side over that on its right; 1 where noise
                        has brought the charge to rest
    reached             "reached", "at step N" if the learning rate stays, or "never", and why
    """
    import pandas as pd

    tables = []
    for f in found:
        own = knobs(meta, f.parameters, f.size) if f.kind == "scale" else None
        if own is not None and len(f.terms):
            tables.append(_of_family(f, own, rates_of(steps, own.optimizer) * own.relative))
    tables = [t for t in (*tables, *_of_sides(found, sides)) if len(t)]
    together = [t.reindex(columns=list(COLUMNS)) for t in tables]
    return pd.concat(together, ignore_index=True) if together else pd.DataFrame(columns=list(COLUMNS))


def _of_sides(found: Sequence[FamilyRecord], sides: pd.DataFrame) -> list[pd.DataFrame]:
    if "symmetry" not in sides:
        return []
    names = {f.index: f.name for f in found}
    once = sides.drop_duplicates(["step", "symmetry"], keep="last").sort_values(["symmetry", "step"])
    with np.errstate(all="ignore"):
        shared = once["gradient_up"] / once["gradient_down"]
    norm = np.sqrt(once["weights_up"] + once["weights_down"])
    told = once[["step", "symmetry"]].assign(norm=norm, equipartition=shared, reached="")
    return [told.assign(name=told["symmetry"].map(names))]


def _of_family(family: FamilyRecord, own: Knobs, rates: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    terms = family.terms[family.terms["member"] < 0]
    rows = terms.merge(family.whole[["step", "observed"]], on="step").drop_duplicates("step", keep="last")
    step = rows["step"].to_numpy(int)
    shown = step % np.maximum(1, 2 ** np.floor(np.log2(np.maximum(step, 1))).astype(int) // PER_OCTAVE) == 0
    rows = rows[shown & (step < len(rates))]
    if len(rows) < 2:
        return pd.DataFrame()
    step, told = rows["step"].to_numpy(int), own.told
    c = rows["observed"].to_numpy(float) / family.size  # of a member, in the mean
    middle = np.concatenate([c[:1], (c[1:] + c[:-1]) / 2])
    turn, square, decayed = (rows[x].to_numpy(float) for x in ("turn", "discretization", "weight_decay"))
    taken, time, kicked = (np.cumsum(x)[step] for x in (rates > 0, rates, rates**2))
    with np.errstate(all="ignore"):
        n = _change(taken)
        angle = np.sqrt(_change(turn) / n)
        update = np.sqrt(_change(square) / family.size / n / middle)
        # Sums over the later half of the run until each row.
        start = np.searchsorted(step, step // 2)
        size = _since(np.cumsum(_change(turn, 0.0) * middle ** (1 + told.power)), start) / _since(kicked, start)
        shrunk = -_since(decayed / family.size, start) / _since(np.cumsum(_change(time, 0.0) * middle), start)
        decay = np.maximum(shrunk, 0.0) if own.separable else np.full(len(c), math.nan)
        strength, lr = size * told.accumulation, rates[step]
        power = 1 + told.power
        rest = (lr * strength / decay) ** (1 / power) if power else np.full(len(c), math.inf)
        tau = 1 / (power * decay * lr) if power else np.full(len(c), math.inf)
        turns = np.sqrt(lr * decay / told.accumulation)
        away = np.abs((c / rest) ** power - 1) / ((1 + NEAR) ** power - 1)
        wait = np.where(away > 1, tau * np.log(away), 0.0)
        gradient = np.sqrt(size * (1 - told.memory**2)) if told.power == 1 else np.full(len(c), math.nan)
        # In equilibrium a step of this optimizer turns weights by `turns`; the same step at another length turns them
        # by more or less.
        excess = angle**2 / (turns**2 * (rest / c) ** power)
        effective = lr / ((1 - told.memory) * c) if told.power == 1 else lr / c ** (0.5 * power)
    return pd.DataFrame(
        {
            "step": step,
            "symmetry": family.index,
            "name": family.name,
            "norm": np.sqrt(np.maximum(rows["observed"].to_numpy(float), 0.0)),
            "update_to_weight": update,
            "angle": angle,
            "effective_lr": effective,
            "gradient": gradient,
            "equilibrium_norm": np.sqrt(rest * family.size),
            "equilibrium_angle": turns,
            "time_constant": tau,
            "equipartition": math.nan,
            "excess": np.where(np.isfinite(excess), excess, math.nan),
            "reached": [_reached(own, r, w, s) for r, w, s in zip(rest, wait, step, strict=True)],
        }
    ).iloc[1:]


def _change(x: np.ndarray, first: float = math.nan) -> np.ndarray:
    return np.concatenate([[first], np.diff(x)])


def _since(total: np.ndarray, start: np.ndarray) -> np.ndarray:
    return np.asarray(total - total[start])


def _reached(own: Knobs, rest: float, wait: float, step: int) -> str:
    if own.told.weight_decay == 0:
        return "never: no weight decay"
    if own.told.power < 0:
        return "never: updates are relative to the weights"
    if not own.separable:
        return "unknown: weight decay goes through the preconditioner"
    if not math.isfinite(rest) or not math.isfinite(wait):
        return "unknown"
    return "reached" if wait == 0 else f"at step {number(step + wait)}"
