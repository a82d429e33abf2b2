"""What moved a charge: its terms, stacked, so that their sum is the change that was observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.report.canvas import drawable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Okabe and Ito's palette; two greys for what no optimizer setting explains.
TERMS: dict[str, tuple[str, str]] = {
    "discretization": ("finite steps", "#56B4E9"),
    "weight_decay": ("weight decay", "#E69F00"),
    "momentum": ("momentum", "#009E73"),
    "preconditioner": ("preconditioner", "#CC79A7"),
    "leak": ("leak", "#D55E00"),
    "outside": ("edits from outside", "#444444"),
    "rounding": ("rounding", "#bbbbbb"),
    "unexplained": ("unexplained", "#c62828"),
}
COUNTER_TERMS = {"preconditioner": "counter terms"}  # what EoMOptimizer adds to the gradient
VISIBLE = 2e-3  # of the largest term
POINTS = 200


def titles(counter_terms: bool) -> dict[str, str]:
    """The terms by what they are called; of an `EoMOptimizer`, what changes the gradients are its `counter_terms`."""
    return {name: title for name, (title, _) in TERMS.items()} | (COUNTER_TERMS if counter_terms else {})


def visible(terms: Sequence[pd.DataFrame]) -> list[str]:
    """The terms that can be seen in at least one of these stacks, in their order."""
    return [name for name in TERMS if any(name in _shown(rows) for rows in terms)]


def _shown(rows: pd.DataFrame) -> list[str]:
    size = {name: float(np.nanmax(np.abs(drawable(rows[name])), initial=0.0)) for name in TERMS if name in rows}
    largest = max(size.values(), default=0.0)
    return [name for name, x in size.items() if x > VISIBLE * largest and largest > 0]


def draw_terms(ax: Axes, rows: pd.DataFrame) -> None:
    """Terms that raised the charge are stacked upwards, those that lowered it downwards; the line is their sum."""
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), POINTS)).astype(int))]
    step = rows["step"].to_numpy(float)
    stacks: Mapping[bool, Any] = {True: np.zeros(len(rows)), False: np.zeros(len(rows))}
    for name in _shown(rows):
        values = np.nan_to_num(drawable(rows[name]))
        for up, stack in stacks.items():
            part = np.clip(values, 0.0, None) if up else np.clip(values, None, 0.0)
            if part.any():
                ax.fill_between(step, stack, stack + part, color=TERMS[name][1], linewidth=0, alpha=0.9, zorder=2)
                stack += part
    total = sum(drawable(rows[name]) for name in TERMS if name in rows)
    ax.plot(step, total, color="#222222", linewidth=1.4, zorder=3)
    ax.axhline(0.0, color="#888888", linewidth=0.7, zorder=3)
    ax.set_ylabel("moved by")
