"""Rows of the two tables by layer: how the laws fared, and what moved the charges. Layers of one form are one row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from neuromech.detect import merged
from neuromech.report.facts import RunFacts
from neuromech.report.family import FamilyRecord
from neuromech.report.layers import Layer
from neuromech.report.terms import TERMS, titles

CAUSE_ROWS = 40
SAYS = {
    "rounding": ("ok", "✓", "holds"),
    "close": ("mixed", "≈", "holds closely"),
    "broken": ("bad", "✗", "broken"),
    "diverged": ("bad", "✗", "not a number"),
    "observed": ("none", "–", "no prediction"),
    "empty": ("none", "–", "not followed"),
}
IDENTITY = ("none", "=", "balances")  # as it would whatever happened
LITTLE = ("none", "≈", "within coarse rounding")
UNKNOWN = ("none", "?", "not known")  # whether it could have failed
NOTHING = ("none", "–", "no symmetry")
UNREADABLE = ("none", "?", "not readable")
NOT_LOOKED = ("none", "–", "not looked for")
# The same, of a layer that was opened.
NONE = "No symmetry was found that moves these parameters."
UNSOUGHT = "Nothing is known of these parameters: this run completed no search for symmetries."


def rows(layers: Sequence[Layer], facts: RunFacts) -> list[dict[str, Any]]:
    """Layers of one form as one row, as `detect` prints them; what is broken comes first."""
    out = []
    for which, name in _alike(layers):
        own = [layers[i] for i in which]
        worst = [x.worst for x in own if not math.isnan(x.worst)]
        kinds = sorted({facts.families[place(facts, i)].kind for x in own for i in x.families})
        furthest = max(own, key=lambda x: -1.0 if math.isnan(x.worst) else x.worst)
        out.append(
            {
                "name": name,
                "layers": " ".join(map(str, which)),
                "kind": own[0].kind,
                "shapes": own[0].shapes,
                "size": sum(x.size for x in own),
                "families": sum(len(x.families) for x in own) if facts.looked else "–",
                "kinds": ", ".join(kinds),
                "says": _says(own[0], facts),
                "status": own[0].status,
                "evidence": ", ".join(own[0].rests_on),
                "worst": max(worst, default=math.nan),
                "strip": furthest.strip,
                "text": " ".join([name, *(x.name for x in own[:3]), own[0].kind, *kinds]).lower(),
            }
        )
    order = {"broken": 0, "diverged": 0, "close": 1}
    return sorted(out, key=lambda r: order.get(r["status"], 2))


def _alike(layers: Sequence[Layer]) -> list[tuple[Sequence[int], str]]:
    """Which layers share a row, and what the row is called."""
    keys = [((x.kind, x.shapes, x.status, x.rests_on, x.little, len(x.families)), (x.name,)) for x in layers]
    return [(which, name) for which, (name,) in merged(keys)] if layers else []


def _says(layer: Layer, facts: RunFacts) -> tuple[str, str, str]:
    if not facts.looked:
        return NOT_LOOKED
    return UNREADABLE if layer.families and facts.charges_lost else says(layer)


def says(layer: Layer) -> tuple[str, str, str]:
    """Tone, sign and word."""
    if not layer.families:
        return NOTHING
    holds = layer.status in ("rounding", "close")
    if holds and set(layer.rests_on) <= {"measured", "unknown"}:
        return IDENTITY if "measured" in layer.rests_on else UNKNOWN
    return LITTLE if layer.little else SAYS[layer.status]


def place(facts: RunFacts, index: int) -> int:
    return next((k for k, f in enumerate(facts.families) if f.index == index), 0)


def causes(layers: Sequence[Layer], facts: RunFacts) -> list[dict[str, Any]]:
    """By layer: which share of all that moved its charges came from which cause, at the last recorded step."""
    by_index, names = {f.index: f for f in facts.families}, titles(bool(facts.wrapper))
    out = []
    for which, name in _alike(layers):
        total = dict.fromkeys(TERMS, 0.0)
        for i in dict.fromkeys(k for w in which for k in layers[w].families):
            for cause, size in _last_terms(by_index.get(i)).items():
                total[cause] += size
        whole = sum(total.values())
        if whole > 0 and math.isfinite(whole):
            parts = [(c, 100 * x / whole) for c, x in total.items() if x > 5e-4 * whole]
            out.append({"name": name, "parts": parts, "told": ", ".join(f"{names[c]} {percent(p)}" for c, p in parts)})
    return out[:CAUSE_ROWS]


def percent(x: float) -> str:
    """Of a part that is there, and is not the whole: never 0 %, nor 100 % beside others."""
    return "under 1 %" if x <= 0.5 else "over 99 %" if 99.5 <= x < 100 - 1e-9 else f"{x:.0f} %"


def _last_terms(f: FamilyRecord | None) -> dict[str, float]:
    """Sizes of the terms of a family at its last step, relative to its scale."""
    if f is None or not len(f.terms) or not len(f.whole):
        return {}
    rows = f.terms[f.terms["member"] < 0]
    scale = float(np.nanmax(f.whole["scale"].to_numpy(float), initial=0.0))
    if not len(rows) or not (math.isfinite(scale) and scale > 0):
        return {}
    last = rows.iloc[-1]
    return {c: abs(float(last[c])) / scale for c in TERMS if c in rows and math.isfinite(float(last[c]))}
