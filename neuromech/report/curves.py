"""Curves for the page: thinned so that no extreme is lost, packed as float32, and told in words."""

from __future__ import annotations

import base64
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.report.canvas import corners, drawable, even, peaks
from neuromech.report.family import FamilyRecord
from neuromech.report.terms import TERMS, VISIBLE
from neuromech.report.words import number, share

if TYPE_CHECKING:
    import pandas as pd

FEW = 120  # points of a line where there are many families
MEMBERS = 6
TURNS = 3  # that are told of a curve


def packed(values: Any) -> str:
    """As base64 of little-endian float32; what cannot be drawn is nan."""
    with np.errstate(over="ignore"):
        return base64.b64encode(drawable(values).astype("<f4").tobytes()).decode()


def of_family(f: FamilyRecord, few: bool) -> dict[str, Any]:
    """What the page draws of a family: lines against steps, each packed."""
    return {"charge": _charge(f, few), "off": _off(f, few), "members": _members(f, few), "moved": _moved(f, few)}


def _thin(index: np.ndarray, few: bool) -> np.ndarray:
    return index[even(len(index), FEW)] if few else index


def _charge(f: FamilyRecord, few: bool) -> dict[str, str]:
    rows = f.whole
    observed = drawable(rows["observed"])
    shown = _thin(corners(observed), few)
    lines = {law: drawable(rows[law])[shown] for law in ("exact", "continuous", "flow")}
    out = {"step": packed(rows["step"].to_numpy(float)[shown]), "observed": packed(observed[shown])}
    return out | {law: packed(v) for law, v in lines.items() if np.isfinite(v).any() and not (few and law != "exact")}


def _off(f: FamilyRecord, few: bool) -> dict[str, str]:
    rows = f.distances[f.distances["step"] > 0]
    out: dict[str, str] = {}
    exact = rows["exact"].to_numpy(float)
    shown = _thin(peaks(exact), few)
    laws = {law: rows[law].to_numpy(float)[shown] for law in ("exact", "ideal", "continuous", "flow")}
    if f.kind != "translation" and not f.broken_by:
        laws.pop("ideal")  # the exact law without a leak: the same line
    for law, values in laws.items():
        if np.isfinite(values).any() and not (few and law != "exact"):
            out[law] = packed(values)
    return {"step": packed(rows["step"].to_numpy(float)[shown])} | out if out else {}


def _members(f: FamilyRecord, few: bool) -> list[dict[str, Any]]:
    known = sorted(f.members["member"].unique())
    if len(known) < 2 or few:
        return []
    out = []
    for member in (known[i] for i in even(len(known), MEMBERS)):
        rows = f.members[f.members["member"] == member]
        rows = rows.iloc[even(len(rows), FEW // 2)]
        out.append(
            {"member": int(member), "step": packed(rows["step"]), "observed": packed(rows["observed"])}
            | ({"exact": packed(rows["exact"])} if rows["exact"].notna().any() else {})
        )
    return out


def _moved(f: FamilyRecord, few: bool) -> dict[str, str]:
    rows = f.terms[f.terms["member"] < 0]
    names = shown_terms(rows)
    rows = rows.iloc[even(len(rows), FEW // 4 if few else FEW)]
    lines = {name: packed(rows[name]) for name in names}
    return {"step": packed(rows["step"])} | lines if len(rows) > 1 and lines else {}


def shown_terms(rows: pd.DataFrame) -> list[str]:
    """The terms that can be seen beside the largest."""
    size = {t: float(np.nanmax(np.abs(drawable(rows[t])), initial=0.0)) for t in TERMS if t in rows and len(rows)}
    largest = max(size.values(), default=0.0)
    return [t for t, x in size.items() if x > VISIBLE * largest and largest > 0]


def told(step: Any, values: Any) -> str:
    """A curve in words: "rises from 10 to 12 by step 64, then falls to 10"."""
    x, y = np.asarray(step, float), drawable(values)
    known = np.isfinite(y)
    lost = f"; not a number from step {x[int(np.argmin(known))]:,.0f} on" if not known.all() else ""
    x, y = x[known], y[known]
    if not len(y):
        return "never a number"
    span = float(y.max() - y.min())
    if len(y) == 1 or span <= 1e-6 * float(np.abs(y).max()):
        return f"stays at {number(float(y[0]))}{lost}"
    turns = _turning_points(y, 0.1 * span)
    parts: list[str] = []
    for a, b in list(pairwise(turns))[:TURNS]:
        verb = "rises" if y[b] > y[a] else "falls"
        start = f" from {number(float(y[a]))}" if not parts else ""
        by = f" by step {x[b]:,.0f}" if b < len(y) - 1 else ""
        parts.append(f"{verb}{start} to {number(float(y[b]))}{by}")
    more = f", then goes up and down and ends at {number(float(y[-1]))}" if len(turns) - 1 > TURNS else ""
    return ", then ".join(parts) + more + lost


def _turning_points(y: np.ndarray, least: float) -> list[int]:
    """First, last, and the extremes between them that stand out by `least`."""
    out, best, direction = [0], 0, 0.0
    for i in range(1, len(y)):
        if direction == 0:
            if abs(y[i] - y[0]) > least:
                direction, best = math.copysign(1.0, y[i] - y[0]), i
        elif direction * (y[i] - y[best]) >= 0:
            best = i
        elif direction * (y[best] - y[i]) > least:
            out.append(best)
            direction, best = -direction, i
    return [*out, len(y) - 1]


def told_of(f: FamilyRecord) -> str:
    """The charge of a family in words, and how far off its law was."""
    if not len(f.whole):
        return "nothing was recorded"
    shown = corners(drawable(f.whole["observed"]))
    text = told(f.whole["step"].to_numpy(float)[shown], f.whole["observed"].to_numpy(float)[shown])
    worst = f.verdict.worst
    return text if math.isnan(worst) else f"{text}; its law is off by at most {share(worst)}"
