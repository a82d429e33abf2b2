"""From a stretch of steps to a forecast: how weights turned, how long they were, what the settings say -> `Balance`.

A step of squared length d^2 lengthens weights in the long run by d^2 times its optimizer's accumulation (`Rule`). What
it turns them by is thus a better estimate of what will drive their length than their lengthening itself, which early in
a run has a part that goes with the descent and does not last. Where updates are not linear in the gradients (Lion,
Muon) the accumulation is that of white gradients at first, and the measured one by and by.

The constants were chosen on the first seed of experiments.norm_forecasts; analysis.norm_forecasts tests them on others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from neuromech.dynamics.forecast import Balance
from neuromech.dynamics.trend import STEADY, Trend, Wake
from neuromech.optimizers import Hyperparameters

LEAST = 8
KNEE = 0.1  # of the first loss: below it gradients fade in proportion to the loss
STEEPEST = 1.5  # no loss is taken to fall by more than this power of the step number
FADE = 0.25  # how gradients fade if no loss is known
PATIENCE = 1.3  # accumulations after which a measured one begins to count
# By how much ln strength is off: where gradients drive, where updates are normalised, and where they have one size.
DRIVEN, NORMALISED, FIXED = 0.37, 0.33, 0.2


def outlook(
    length2: Sequence[float],
    turns: Sequence[float],
    lrs: Sequence[float],
    told: Hyperparameters,
    entries: int,
    losses: Sequence[float] | None = None,
    steps: Sequence[int] | None = None,
) -> Balance:
    """The balance at the end of a stretch from the first step of a run on.

    length2, turns: squared lengths at `steps` (counted from 0, which is before the first; None: 0, 1, 2, ...), and the
    sums of sin^2 of the angles by which the steps since the one before have turned the weights (the first is not read).
    lrs[k], losses[k]: of step k + 1, one for each step to the last of `steps`. `entries`: of the weights.

    Coupled decay behind a preconditioner is what lengths lack of what turns say. Raises `ValueError` for fewer than 8
    steps, or sequences that do not fit together.
    """
    c, turn, rates = (np.asarray(x, dtype=float) for x in (length2, turns, lrs))
    at = np.arange(len(c)) if steps is None else np.asarray(steps, dtype=int)
    last = int(at[-1]) if len(at) else 0
    if last < LEAST or not len(c) == len(turn) == len(at) or len(rates) != last:
        raise ValueError(
            f"an outlook needs {LEAST} steps or more, lengths and turns at the same ones and a learning rate for each "
            f"step: {last} steps, {len(c)} lengths, {len(turn)} turns, {len(rates)} learning rates"
        )
    rows = np.nonzero(at[:-1] >= last // 2)[0]
    if not len(rows):
        rows = np.array([len(at) - 2])
    begun = int(rows[0])
    time, square = (np.concatenate([[0.0], np.cumsum(rates**n)]) for n in (1, 2))
    kicked = float(square[last] - square[at[begun]])
    middle = (c[1:] + c[:-1]) / 2
    size = float((turn[1:] * middle ** (1 + told.power))[begun:].sum()) / kicked if kicked > 0 else 0.0
    gone = np.diff(time[at])[begun:]  # lr, summed up between the rows

    def lengthened(decay: float) -> float:
        """The strength that lengths show, apart from this decay."""
        kept = c[:-1][begun:] * np.exp(-decay * gone)
        return float(((c[1:][begun:] - kept) * middle[begun:] ** told.power).sum()) / kicked if kicked > 0 else 0.0

    decay, grip = told.decay, 0.0
    if math.isnan(told.accumulation):
        strength = max(0.0, lengthened(0.0 if math.isnan(decay) else decay))
    else:
        strength = size * told.accumulation
        if told.fixed and last > (begins := PATIENCE * told.accumulation) and size > 0:
            seen = max(lengthened(decay), strength / 4)
            strength *= (seen / strength) ** (1.0 - begins / last)
    if math.isnan(decay):
        grip = 0.5
        pulled = float((gone * middle[begun:] ** (1 + grip)).sum())
        lost = strength * kicked - float(c[-1] - c[begun])
        decay = max(0.0, lost / pulled) if told.weight_decay > 0 and pulled > 0 else 0.0
    lr = math.sqrt(kicked / (last - at[begun]))
    spread = FIXED if told.fixed else NORMALISED if told.power == 0 and not math.isnan(told.unit) else DRIVEN
    if told.fixed or strength <= 0 or (told.power == 0 and math.isnan(told.unit)):
        return Balance(decay, strength, told.power, STEADY._replace(at=last), grip, spread)
    known = readable(losses, last)
    fades = None if known is None else fading(known, lr)
    if told.power != 0:
        return Balance(decay, strength, told.power, fades or Trend(last, FADE), grip, spread)
    wake, trend, seen = None, Trend(last), 1.0
    if told.recall > 0 and c[:-1].min() > 0:
        gradients2 = 1.0 / c[:-1]
        if known is not None and fades is not None and known.min() > 0:
            trend = fades
            gradients2 *= (1.0 + 1.0 / fades.saturation) / (1.0 + KNEE * known[:3].mean() / known[at[1:] - 1])
        wake = _wake(told.recall, gradients2, np.diff(at), np.diff(square[at]) * (np.arange(1, len(at)) > begun))
        seen = wake.seen
    trend = trend._replace(rest=told.unit * entries * seen / strength)
    return Balance(decay, strength, told.power, trend, grip, spread, wake)


def readable(losses: Sequence[float] | None, last: int) -> np.ndarray | None:
    """The losses of the steps, if a trend can be read off them."""
    if losses is None:
        return None
    known = np.asarray(losses, dtype=float)[:last]
    good = np.isfinite(known).all() and known[:3].mean() > 0 and known[last // 10 :].min() > 0
    return known if good else None


def fading(known: np.ndarray, lr: float) -> Trend:
    """How squared gradients at length one fade with the loss."""
    last, seen = len(known), np.arange(len(known) // 10, len(known))
    fade = min(max(-float(np.polyfit(np.log(seen + 1.0), np.log(known[seen]), 1)[0]), 0.0), STEEPEST)
    late = float(known[last // 2 :].mean()) * 0.75**fade
    return Trend(last, fade, late / (KNEE * float(known[:3].mean())), lr=lr)


def _wake(kept: float, gradients2: np.ndarray, gaps: np.ndarray, counted: np.ndarray) -> Wake:
    """Of second moments that keep this share, from squared gradients that were alike for `gaps` steps each; `counted`:
    how much each counts for what was seen."""
    total = weight = ratio = 0.0
    left, shares = kept**gaps, counted / counted.sum()
    for gradient2, old, share in zip(gradients2.tolist(), left.tolist(), shares.tolist(), strict=True):
        new = (1.0 - old) / (1.0 - kept)
        total, weight = total * old + gradient2 * new, weight * old + new
        ratio += share * gradient2 * weight / total
    return Wake(kept, total, weight, ratio)
