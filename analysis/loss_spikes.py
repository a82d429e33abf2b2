"""Judges runs of `experiments.loss_spikes`: what warns of a spike of the loss, how far ahead, and how often in vain.

    python -m analysis.loss_spikes runs/loss_spikes

A spike is a loss that rises above the median of the 30 steps before by five times their spread. A quantity warns where
the mean over the tensors of its logarithm, in units of its own last 30 steps, passes a threshold; the threshold is set
on the first half of the seeds so that one step in 100 that no spike follows within 8 steps warns, and tested on the
others. Exits with 1 if no quantity of the weights foresees more spikes than chance does at its rate of alarms, with a
probability below 5 %; the loss itself stands beside them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.reporting import asked, show, verdict
from neuromech.record import read

WINDOW, LEAD, QUIET, SPREADS = 30, 8, 10, 5.0
ALARMS = 0.01  # of the steps that no spike follows
CHANCE = 0.05
QUANTITIES = ("turn", "first", "second", "loss")


def unusual(x: np.ndarray) -> np.ndarray:
    """How far each value lies above the median of those before it, in units of their spread; nan at the start."""
    past = pd.Series(x).rolling(WINDOW, min_periods=WINDOW // 2)
    spread = (past.quantile(0.84) - past.quantile(0.16)).shift(1) / 2
    return np.asarray((x - past.median().shift(1)) / spread.clip(lower=1e-12), dtype=float)


def spikes(loss: np.ndarray) -> list[int]:
    """Steps at which a spike begins: none in the 10 steps before."""
    high = np.flatnonzero(np.nan_to_num(unusual(loss)) > SPREADS)
    return [int(k) for i, k in enumerate(high) if i == 0 or k - high[i - 1] > QUIET]


def series(run: pd.DataFrame) -> dict[str, np.ndarray]:
    """What is known before the loss of a step is: each quantity of the step before it."""
    out = {}
    for name in QUANTITIES:
        if name == "loss":
            x = unusual(run.groupby("step")["loss"].first().to_numpy())
        else:
            wide = run.pivot(index="step", columns="tensor", values=name).to_numpy()
            x = np.mean([unusual(np.log(np.maximum(c, 1e-30))) for c in wide.T], axis=0)
        out[name] = np.concatenate([[np.nan], x[:-1]])
    return out


def ahead_of(steps: int, begun: list[int]) -> np.ndarray:
    """For every step, whether a spike begins at it or within the next 8; those within one are left out (-1)."""
    out = np.zeros(steps, dtype=int)
    for k in begun:
        out[k + 1 : k + QUIET] = -1
        out[max(0, k - LEAD + 1) : k + 1] = 1
    return out


def warnings(frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    """By quantity: threshold, and on the seeds that it was not set on: spikes, foreseen, lead, false alarms."""
    runs = []
    for _, run in frame.groupby(["model", "seed"]):
        model, seed = str(run["model"].iloc[0]), int(run["seed"].iloc[0])
        loss = run.groupby("step")["loss"].first().to_numpy()
        begun = spikes(loss)
        runs.append((model, seed, begun, ahead_of(len(loss), begun), series(run)))
    half = sorted({seed for _, seed, *_ in runs})[: len({seed for _, seed, *_ in runs}) // 2]
    for name in QUANTITIES:
        calm = np.concatenate([np.nan_to_num(x[name])[near == 0] for _, s, _, near, x in runs if s in half])
        threshold = float(np.quantile(calm, 1 - ALARMS))
        leads, n, alarms, steps = [], 0, 0, 0
        for _, seed, begun, near, x in runs:
            if seed in half:
                continue
            warned = np.nan_to_num(x[name]) > threshold
            alarms, steps = alarms + int(warned[near == 0].sum()), steps + int((near == 0).sum())
            n += len(begun)
            for k in begun:
                first = np.flatnonzero(warned[max(0, k - LEAD + 1) : k + 1])
                if len(first):
                    leads.append(min(LEAD - 1, k) - int(first[0]) + 1)
        rate = alarms / max(1, steps)
        yield {
            "quantity": name,
            "threshold": threshold,
            "spikes": n,
            "foreseen": len(leads) / max(1, n),
            "by chance": (chance := 1 - (1 - rate) ** LEAD),
            "p": sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(len(leads), n + 1)),
            "median lead": float(np.median(leads)) if leads else float("nan"),
            "false alarms": rate,
        }


def main() -> int:
    directory, _ = asked(__doc__)
    rows = pd.DataFrame(warnings(read(directory).frame("spikes", every_session=True)))
    show(rows, "{:.3f}")
    ours = rows[rows["quantity"] != "loss"]
    best = ours.sort_values("p").iloc[0]
    said = (
        f"of {best['spikes']} spikes {best['quantity']} foresees {best['foreseen']:.0%} (chance: "
        f"{best['by chance']:.0%}), {best['median lead']:.0f} steps ahead in the median, with "
        f"{best['false alarms']:.1%} false alarms a step"
    )
    return verdict(bool(best["p"] < CHANCE), said, f"NOTHING FORESEES SPIKES BETTER THAN CHANCE: {said}")


if __name__ == "__main__":
    sys.exit(main())
