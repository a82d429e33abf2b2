"""A page about an audit: what a model, a rollout or data keep, in numbers and over time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.report import curves
from neuromech.report.canvas import corners, drawable
from neuromech.report.page import write
from neuromech.report.rendering import rendered
from neuromech.report.words import share

if TYPE_CHECKING:
    from neuromech.physics import Audit, Residual


def audit_page(found: Audit, path: str | Path, title: str = "What is conserved") -> Path:
    """Write the page; `found`: of `neuromech.physics.audit`. Returns its path.

    Raises `RecordError` if it cannot be written.
    """
    charts = [_chart(r) for r in found.residuals if len(r.curve) > 1]
    page = rendered(
        "conservation",
        {"metrics": [], "marks": [], "causes": {}, "layers": [], "families": [], "overlays": charts},
        title=title,
        headline=_said(found),
        about=found.about,
        residuals=found.residuals,
        left_out=found.left_out,
        charts=charts,
    )
    return write(Path(path), page)


def _said(found: Audit) -> str:
    if not found.residuals:
        return "Nothing could be asked of it."
    worst = max(found.residuals, key=lambda r: r.mean if math.isfinite(r.mean) else math.inf)
    least = f"The law that is kept least is {worst.name}: off by {share(worst.mean)} of its size, "
    return f"{least}{share(worst.worst)} at worst."


def _chart(r: Residual) -> dict[str, Any]:
    """How far off a law is after so many steps."""
    step, off = np.arange(len(r.curve), dtype=float), np.asarray(r.curve, dtype=float)
    shown = corners(drawable(off))
    packed = {"step": curves.packed(step[shown]), "value": curves.packed(off[shown])}
    return {
        "title": f"How far off {r.name} is",
        "unit": "of its size, rms",
        "alt": f"{r.name} is off by {share(float(off[-1]))} of its size after {len(off) - 1} steps.",
        "lines": [packed | {"label": r.name, "style": "exact"}],
    }
