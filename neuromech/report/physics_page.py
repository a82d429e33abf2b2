"""The page of a physical model: what it keeps and how well, and how energy and the like drift along a rollout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from neuromech.errors import RecordError
from neuromech.report import curves
from neuromech.report.canvas import corners, drawable
from neuromech.report.page import write
from neuromech.report.rendering import rendered
from neuromech.report.words import many, number, share

if TYPE_CHECKING:
    from neuromech.physics import Audit

STYLES = ("exact", "continuous", "flow", "ideal")


def physics_report(
    audit: Audit, path: str | Path, *, title: str = "", drifts: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a page about what `neuromech.physics.audit` found; returns its path.

    `drifts`: by name, a quantity along rollouts [T] or [T, B], drawn as its change since the start: the root mean
    square over B, and the largest. Raises `RecordError` if `path` cannot be written, or for quantities of another
    shape.
    """
    charts = [_drift(name, values) for name, values in (drifts or {}).items()]
    worst = max(audit.residuals, key=lambda r: r.mean, default=None)
    headline = f"{many(len(audit.residuals), 'quantity', 'quantities')} audited"
    headline += f"; furthest off is {worst.name}: {share(worst.mean)} of its size on average." if worst else "."
    page = rendered(
        "physics",
        {"metrics": [], "marks": [], "causes": {}, "layers": [], "families": [], "overlays": charts},
        title=title or "Physical model",
        headline=headline,
        residuals=audit.residuals,
        left_out=audit.left_out,
        charts=charts,
    )
    return write(Path(path), page)


def _drift(name: str, values: Tensor) -> dict[str, Any]:
    series = np.asarray(values.detach().double().cpu())
    if series.ndim not in (1, 2) or len(series) < 2:
        raise RecordError(f"drifts[{name!r}] is [T] or [T, B] with T at least 2, not {list(series.shape)}")
    off = np.abs(series - series[0]).reshape(len(series), -1)
    lines = {"root mean square": np.sqrt((off**2).mean(1)), "largest": off.max(1)}
    step = np.arange(len(series), dtype=float)
    out = []
    for (label, y), style in zip(lines.items() if off.shape[1] > 1 else [("change", off[:, 0])], STYLES, strict=False):
        shown = corners(drawable(y))
        out.append(
            {"step": curves.packed(step[shown]), "value": curves.packed(y[shown]), "label": label, "style": style}
        )
    told = f"{name} is off its start by {number(float(off[-1].max()))} at the end"
    return {"title": f"Drift of {name}", "unit": f"|change of {name}|", "alt": f"{told}.", "lines": out}
