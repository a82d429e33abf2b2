"""Does a law hold? Judged against what rounding can do, derived and not tuned.

The bound on rounding is that of `dynamics.rounding`; everything is relative to the largest scale so far.

What the bound leaves out: gradients of an exact symmetry cancel only up to their own rounding, which the records do not
tell. A law that exceeds the bound is therefore first said to hold within so much; it is called broken when more than
half of the digits are gone, sqrt(eps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from neuromech.report.held import held_at
from neuromech.report.words import number, share
from neuromech.rounding import eps_of, rounding_bound

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["rounding", "close", "broken", "diverged", "observed", "empty"]
LAWS = ("exact", "ideal", "continuous", "flow")
PAST = {"holds": "held", "broken": "was broken"}
TELLS_LITTLE = 0.1  # a bound on rounding that leaves not even the first digit


@dataclass(frozen=True)
class LawVerdict:
    """What can be said about one law.

    `worst`: the largest distance of the observed charge from the exact law, relative to the largest scale so far; nan
    if nothing was predicted. `allowed`: what rounding allows at step `at`, that of `worst` or, if the bound was
    exceeded, the worst step that did. `since`: the step from which the law is broken or the charge no number any more;
    `before`: in the latter case, the status until then. `where`: if the law was not held against every step that was
    due, against which it was. `still`: the charge is the same to the last bit in all rows.
    """

    status: Status
    text: str
    worst: float = math.nan
    allowed: float = math.nan
    at: int | None = None
    since: int | None = None
    before: Status | None = None
    where: str = ""
    still: bool = False

    @property
    def little(self) -> bool:
        """The law kept within what rounding can do, which is so much that it could hardly have failed."""
        return self.status in ("rounding", "close") and self.allowed >= TELLS_LITTLE


def distances(rows: pd.DataFrame) -> pd.DataFrame:
    """Distance of the observed charge from each law at each step, relative to the largest scale so far: step, *LAWS.

    `rows`: those of one family, by step. The recorded residuals are relative to the scale of their own step.
    """
    import pandas as pd

    scale = rows["scale"].to_numpy(float)
    largest = np.fmax.accumulate(scale)
    out = {"step": rows["step"].to_numpy()}
    with np.errstate(all="ignore"):
        decayed = np.where(largest > 0, scale / largest, 1.0)
        for law in LAWS:
            recorded = rows["residual" if law == "exact" else f"{law}_residual"].to_numpy(float)
            whole = np.abs(rows[law].to_numpy(float) - rows["observed"].to_numpy(float))
            whole = np.where(whole == 0, 0.0, whole / largest)
            out[law] = np.where(np.isnan(recorded), whole, recorded * decayed)
    return pd.DataFrame(out)


# Matrix families of which the records hold no charge: under sharding, and rotations, whose charge needs velocities too.
UNFOLLOWED = LawVerdict("observed", "found, but not followed in training")
ROTATION = LawVerdict("observed", "a rotation: its angular momentum cannot be read off the weights")


def judge(
    rows: pd.DataFrame, dtype: str, protected: bool = False, n_steps: int | None = None, every: int = 1
) -> LawVerdict:
    """The verdict on the exact law of one family, from its rows by step.

    `protected`: a symmetry should cancel the torque that the exact law reads; a torque beyond rounding breaks it.
    `n_steps`: of the run, None: up to the last row; one in `every` was to be recorded.
    """
    rows = rows.reset_index(drop=True)
    if not (rows["step"] > 0).any():
        return LawVerdict("empty", "the records hold no charge of any step")
    finite = np.isfinite(rows["observed"].to_numpy(float))
    if not finite.all():
        since = int(rows["step"][int(np.argmin(finite))])
        before = judge(rows[: int(np.argmin(finite))], dtype, protected, every=every)
        until = f"; until then it {_past(before.text)}" if before.at is not None else ""
        text = f"not a number any more from step {since:,} on{until}"
        return LawVerdict("diverged", text, before.worst, before.allowed, before.at, since, before.status)

    off = distances(rows)
    off = off[(off["step"] > 0) & off["exact"].notna()]
    if off.empty:
        return LawVerdict("observed", "observed, not predicted", still=rows["observed"].nunique() == 1)
    eps = eps_of(dtype)
    steps, distance = off["step"].to_numpy(), off["exact"].to_numpy()
    allowed = rounding_bound(steps, eps)
    beyond = ~(distance <= allowed)
    k = int(np.argmax(np.where(beyond, distance, -1.0) if beyond.any() else distance))
    worst, bound, at = float(distance.max()), float(allowed[k]), int(steps[k])
    where = held_at(steps, int(rows["step"].iloc[-1]) if n_steps is None else n_steps, every)
    tail = f"; judged {where}" if where else ""
    still = bool((rows["observed"] == rows["observed"].iloc[0]).all())
    verdict = partial(LawVerdict, where=where, still=still)

    half = math.sqrt(torch.finfo(torch.float32).eps if math.isnan(eps) else eps)
    torque = off["ideal"].to_numpy() if protected else np.zeros(len(off))
    if (
        worst <= np.fmax(half, bound)
        and (turned := np.nan_to_num(torque, nan=0.0) > np.fmax(half, np.nan_to_num(allowed))).any()
    ):
        since, furthest = int(steps[int(np.argmax(turned))]), float(np.nanmax(torque))
        text = f"broken from step {since:,}: gradients that should cancel have moved the charge by {share(furthest)}"
        return verdict("broken", text + tail, max(worst, furthest), bound, at, since)
    if not beyond.any():
        text = f"holds to rounding: never off by more than {number(worst)} (rounding allows {number(bound)})"
        if bound >= TELLS_LITTLE:
            can = f"rounding in {dtype} alone can do {share(bound)}"
            text = f"was off by up to {share(worst)}, and {can}: that says little"
        exactly = "never moved, as its law says" if still else "holds to the last digit"
        return verdict("rounding", (text if worst else exactly) + tail, worst, bound, at)
    if worst <= half:
        why = "the number format was not recorded" if math.isnan(bound) else f"rounding would allow {number(bound)}"
        return verdict("close", f"holds within {number(worst)} ({why}){tail}", worst, bound, at)
    since = int(steps[int(np.argmax(beyond))])
    text = f"broken from step {since:,}: observed departs from the law by {share(worst)}{tail}"
    return verdict("broken", text, worst, bound, at, since)


def _past(text: str) -> str:
    """What a verdict said until a step, told from behind it."""
    verb, rest = text.split(" ", 1)
    return f"{PAST.get(verb, verb)} {rest}"
