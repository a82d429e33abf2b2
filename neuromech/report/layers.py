"""The model as its user knows it: families by layer, layers of one form together, and how far off laws were in each."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuromech.report.evidence import Evidence
from neuromech.report.family import FamilyRecord
from neuromech.report.verdict import Status
from neuromech.rounding import eps_of, rounding_bound

BINS = 60  # of a heat strip
DECADES = 6.0  # that a strip shows, to either side of what rounding can do
NONE = 255  # a bin without a value
ORDER: tuple[Status, ...] = ("broken", "diverged", "close", "rounding", "observed", "empty")
_STRONG: tuple[Evidence, ...] = ("predicted", "checked", "measured", "unknown", "found")


@dataclass(frozen=True)
class Layer:
    """One module that owns parameters, with the families that move them. `size`: number of its parameters.
    `rests_on`: the evidence on laws that fared as `status` says, the strongest first."""

    name: str
    kind: str
    shapes: str
    size: int
    families: tuple[int, ...]
    status: Status
    rests_on: tuple[Evidence, ...]
    worst: float
    strip: str
    little: bool = False  # within what rounding can do, which is so much that it says little


def layers_of(meta: Mapping[str, Any], found: Sequence[FamilyRecord], n_steps: int) -> list[Layer]:
    """The layers of the model, those that need attention first, else in their order in the model."""
    modules: dict[str, Mapping[str, Any]] = {str(m["name"]): m for m in meta.get("modules") or () if "name" in m}
    own: dict[str, list[FamilyRecord]] = {name: [] for name in modules}
    for f in found:
        for name in dict.fromkeys(p.rpartition(".")[0] for p in f.parameters) or [f.name]:
            own.setdefault(name, []).append(f)
    out = [_layer(name, modules.get(name, {}), fs, n_steps) for name, fs in own.items()]
    return sorted(out, key=lambda layer: ORDER.index(layer.status) if layer.status in ORDER[:3] else 3)


def _layer(name: str, module: Mapping[str, Any], found: Sequence[FamilyRecord], n_steps: int) -> Layer:
    status: Status = min((f.verdict.status for f in found), key=ORDER.index, default="empty")
    same = [f for f in found if f.verdict.status == status] or list(found)
    worst = [f.verdict.worst for f in found if not math.isnan(f.verdict.worst)]
    shapes: Mapping[str, Any] = module.get("shapes") or {}
    return Layer(
        name=name or "(the model itself)",
        kind=str(module.get("type") or ""),
        shapes=", ".join(f"{k} {'×'.join(map(str, v))}" for k, v in shapes.items()),
        size=sum(math.prod(v) for v in shapes.values()),
        families=tuple(f.index for f in found),
        status=status,
        rests_on=tuple(sorted({f.evidence for f in same}, key=_STRONG.index)),
        worst=max(worst, default=math.nan),
        strip=strip(found, n_steps),
        little=any(f.verdict.little for f in same),
    )


def strip(found: Sequence[FamilyRecord], n_steps: int) -> str:
    """How far off the exact law was in each stretch of the run, relative to what rounding can do: bytes, as base64.

    The largest ratio, as decades: 0 to 254 are those from -`DECADES` to `DECADES`; `NONE` is not a value.
    """
    wide = min(BINS, max(n_steps, 1))  # a stretch is no shorter than a step, lest one that was recorded look empty
    worst = np.full(wide, -np.inf)
    for f in found:
        step, off = f.distances["step"].to_numpy(float), f.distances["exact"].to_numpy(float)
        known = (step > 0) & ~np.isnan(off)
        bins = np.minimum((step[known] - 1) * wide // max(n_steps, 1), wide - 1).astype(int)
        eps = eps_of(f.dtype)
        allowed = rounding_bound(step[known], float(np.finfo(np.float32).eps) if math.isnan(eps) else eps)
        np.maximum.at(worst, bins, off[known] / allowed)
    with np.errstate(divide="ignore"):
        decades = np.log10(np.maximum(worst, 0.0))
    scaled = np.clip((decades + DECADES) / (2 * DECADES), 0.0, 1.0) * (NONE - 1)
    data = np.where(np.isneginf(worst), NONE, np.nan_to_num(scaled)).astype(np.uint8)
    return base64.b64encode(data.tobytes()).decode()
