"""Judges runs of `experiments.norm_forecasts`: where squared lengths end, foreseen at 10, 20 and 50 % of a run.

    python -m analysis.norm_forecasts runs/norm_forecasts

Beside the forecast (`neuromech.dynamics.outlook`, told the learning rates ahead) stand persistence (nothing changes)
and the published equilibrium at the largest learning rate (Kosson et al. 2023). Angles are scored by the factor by
which they are off; 80 % intervals, of a strength that is off by up to a factor, by how many hold on models that the
factor was not fitted to. Exits with 1 if, after 20 % of the runs, the median error is more than 5 % or the worst more
than 25 %, angles are off by more than a factor of 1.1 in the median, or the intervals by more than 5 points.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.reporting import asked, show, verdict
from experiments.norm_forecasts import network
from neuromech.dynamics import Balance, outlook
from neuromech.dynamics.forecast import adamw_equilibrium, sgd_equilibrium
from neuromech.record import read

MADE_AT = (0.1, 0.2, 0.5)
KEY = ["model", "optimizer", "schedule", "seed", "tensor"]
POWER = {"SGD": 1, "AdamW": 0, "Muon": 0}
MEMORY = {"SGD": 0.9, "AdamW": 0.9, "Muon": 0.95}
CHOSEN_ON = ("mlp", "resnet")  # the models on which constants were chosen; the others test them
MEDIAN, WORST, ANGLE, LEVEL, POINTS = 0.05, 0.25, 1.1, 0.8, 0.05


def decay_of(by: str, weight_decay: float) -> float:
    """Of a squared length, per lr."""
    return 2.0 * weight_decay / (1.0 - MEMORY[by]) if by == "SGD" else 2.0 * weight_decay


def published(by: str, run: pd.DataFrame, made: int, entries: int, shape: tuple[int, ...]) -> float:
    """The squared length in equilibrium at the largest learning rate."""
    lr, decay = float(run["lr"].max()), float(run["weight_decay"].iloc[0])
    if by == "SGD":
        before = run.iloc[made // 2 : made]
        mu = MEMORY[by]
        gradient2 = (1 - mu**2) * (before["turn"] * before["length2"] ** 2).mean() / (before["lr"] ** 2).mean()
        return sgd_equilibrium(lr, decay, mu, 0.0, gradient2)
    if by == "Muon":  # a matrix with singular values of one, times its factor
        return adamw_equilibrium(lr, decay, round(min(shape) * max(1.0, shape[0] / shape[1])))
    return adamw_equilibrium(lr, decay, entries)


def scores(frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    """One row for each tensor of each run and each time at which forecasts are made."""
    shapes = {m: {n: tuple(p.shape) for n, p in network(m).named_parameters()} for m in frame["model"].unique()}
    for key, run in frame.groupby(KEY):
        run = run.sort_values("step")
        length2, lr, turn = (run[c].to_numpy() for c in ("length2", "lr", "turn"))
        by, shape, last = str(run["by"].iloc[0]), shapes[run["model"].iloc[0]][run["tensor"].iloc[0]], len(run) - 1
        decay = decay_of(by, float(run["weight_decay"].iloc[0]))
        for at in MADE_AT:
            made = round(at * last)
            past = length2[:made].tolist(), turn[:made].tolist(), lr[:made].tolist()
            balance = outlook(*past, decay, POWER[by], MEMORY[by])
            now, ahead = float(length2[made]), lr[made:last].tolist()
            path = balance.path(now, ahead)
            tail = range(round(0.8 * last), last)
            angles = [balance.angle(lr[k], path[k - made], MEMORY[by], k) ** 2 for k in tail if k >= made]
            turned = float(np.mean([turn[k] for k in tail]))
            yield dict(zip(KEY, key, strict=True)) | {
                "by": by,
                "at": at,
                "came": length2[-1],
                "forecast": path[-1],
                "persistence": now,
                "published": published(by, run, made, math.prod(shape), shape),
                "model": key[0],
                "angle": math.sqrt(float(np.mean(angles)) / turned) if turned > 0 else math.nan,
                "off": strength_off(balance, now, ahead, float(length2[-1])),
            }


def strength_off(balance: Balance, now: float, ahead: list[float], came: float) -> float:
    """log of the factor by which the foreseen strength has to be multiplied to give the length that came."""
    low, high = -6.0, 6.0
    for _ in range(24):
        middle = (low + high) / 2
        end = replace(balance, strength=balance.strength * math.exp(middle)).advance(now, ahead)
        low, high = (middle, high) if end < came else (low, middle)
    return (low + high) / 2


def held(rows: pd.DataFrame) -> pd.DataFrame:
    """How many 80 % intervals hold, by when they were made: their width is fitted to the models of `CHOSEN_ON`."""
    out = []
    for at, some in rows.groupby("at"):
        fitted = some[some["model"].isin(CHOSEN_ON)]
        spread = float(fitted["off"].abs().quantile(LEVEL))
        for name, part in (("fitted", fitted), ("tested", some.drop(fitted.index))):
            share = float((part["off"].abs() <= spread).mean()) if len(part) else math.nan
            out.append({"at": at, "on": name, "factor": math.exp(spread), "held": share, "forecasts": len(part)})
    return pd.DataFrame(out)


def main() -> int:
    directory, _ = asked(__doc__)
    frame = read(directory).frame("lengths", every_session=True)
    rows = pd.DataFrame(scores(frame))
    ways = ("persistence", "published", "forecast")
    for way in ways:
        rows[f"{way} off"] = (rows[way] - rows["came"]).abs() / rows["came"]
    columns = [f"{way} off" for way in ways]
    for by in (["by", "at"], ["model", "at"]):
        table = rows.groupby(by)[columns].agg(["median", "max"])
        table.columns = [" ".join(name) for name in table.columns]
        show(table.reset_index(), "{:.3f}")
        print()
    rows["angle off"] = np.exp(np.log(rows["angle"]).abs())
    show(rows.groupby(["by", "at"])["angle off"].median().reset_index(), "{:.3f}")
    intervals = held(rows)
    show(intervals, "{:.3f}")
    early = rows[rows["at"] == 0.2]
    tested = early[~early["model"].isin(CHOSEN_ON)]
    median, worst = float(early["forecast off"].median()), float(early["forecast off"].max())
    angle = float(early["angle off"].median())
    kept = intervals[(intervals["at"] == 0.2) & (intervals["on"] == "tested")]["held"]
    share = float(kept.iloc[0]) if len(kept) else math.nan
    unseen = float(tested["forecast off"].median())
    said = (
        f"after 20 %, over {len(early)} runs of a tensor, the end is off by {median:.1%} in the median and {worst:.0%} "
        f"at worst (models that no constant was chosen on: {unseen:.1%}); angles by a factor of {angle:.2f}; "
        f"{share:.0%} of the 80 % intervals hold"
    )
    good = median <= MEDIAN and worst <= WORST and angle <= ANGLE and abs(share - LEVEL) <= POINTS
    return verdict(good, "the forecasts hold", "short of 5 %, 25 %, 1.1 and 75 to 85 %", said)


if __name__ == "__main__":
    sys.exit(main())
