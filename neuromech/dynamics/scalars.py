"""The few numbers of a run that a logger should draw: of one step, over all families, in no more than 30 tags.

    loss                        the loss of the newest step
    weight_norm, gradient_norm  of all parameters, at the last step that took them: eight in every doubling of steps
    residual/<evidence>         how far off the worst law was, among those that rest on the same evidence
    norm/<which>                the length of normalised weights, family by family
    update_to_weight/<which>    |change| / |weights| of the newest step
    angle/<which>               (rad) by which the newest step turned them
    effective_lr/<which>        the learning rate that weights of length one would feel
    faults                      how many the monitor has found

<which> is smallest, median or largest. Costs O(families), when it is asked for; no step waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuromech.dynamics.forecast import effective_lr
from neuromech.dynamics.laws import Reading
from neuromech.dynamics.rows import Rows
from neuromech.optimizers import Hyperparameters
from neuromech.symmetry import Symmetry

SPREAD: dict[str, Callable[[np.ndarray], Any]] = {"smallest": np.min, "median": np.median, "largest": np.max}


class Newest(NamedTuple):
    """What is kept of a step for those who ask for its scalars, each [rows]: less than half of a reading."""

    observed: Tensor
    exact: Tensor
    scale: Tensor
    before: Tensor
    square: Tensor
    turn: Tensor

    @classmethod
    def of(cls, reading: Reading) -> Newest:
        exact, square = reading.exact.clone(), reading.gains[0].clone()  # of arrays that are freed then
        before = reading.observed - reading.gains.sum(0)
        return cls(reading.observed, exact, reading.scale, before, square, reading.turn)


def scalars_of(
    symmetries: Sequence[Symmetry],
    evidence: Sequence[str],
    held: Sequence[Hyperparameters | None],
    rows: Rows,
    readings: Sequence[Newest],
) -> dict[str, float]:
    """Of the newest step of each optimizer, the newest last. `held`: of the group that moves a family, if any."""
    if not readings or not rows.families:
        return {}
    newest = readings[-1]
    off = rows.maxima(rows.residuals(newest.exact[None], newest.observed, newest.scale)[0])
    moved = torch.stack([_moved(rows, r) for r in readings])  # [optimizers, 3, families]
    # A family is read where it moved: other optimizers step in between.
    which = moved[:, 1].nan_to_num().argmax(0)
    before, square, turn = moved.gather(0, which.expand(1, 3, -1))[0].cpu().numpy()
    residual, now = off.cpu().numpy(), rows.sums(newest.observed).cpu().numpy()
    out: dict[str, float] = {}
    for kind in dict.fromkeys(evidence):
        out[f"residual/{kind}"] = float(np.max([r for r, e in zip(residual, evidence, strict=True) if e == kind]))
    scale = np.array([s.kind == "scale" for s in symmetries])
    out |= spread("norm", np.sqrt(now[scale].clip(0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        out |= spread("update_to_weight", np.sqrt((square / before)[scale]))
    out |= spread("angle", np.sqrt(turn[scale]))
    sizes = rows.sizes.cpu().numpy()
    rates = [_effective(t, c) for t, c in zip(held, now / sizes, strict=True)]
    return out | spread("effective_lr", np.array(rates)[scale])


def _moved(rows: Rows, newest: Newest) -> Tensor:
    """By family: squared length before, that of the step, mean sin^2 of its angle: [3, families]."""
    turn = rows.sums(newest.turn) / rows.sizes
    return torch.stack((*rows.sums(torch.stack((newest.before, newest.square))), turn))


def _effective(told: Hyperparameters | None, length2: float) -> float:
    """Of a family whose members have this squared length in the mean."""
    if told is None or length2 <= 0:
        return math.nan
    return effective_lr(told.lr, length2, told.memory, told.power)


def spread(tag: str, values: np.ndarray) -> dict[str, float]:
    """`tag`/smallest, median and largest of those values that are finite."""
    values = values[np.isfinite(values)]
    return {f"{tag}/{name}": float(of(values)) for name, of in SPREAD.items()} if len(values) else {}
