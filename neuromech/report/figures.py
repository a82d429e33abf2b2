"""Figures of a report: every law has one colour and one line style, in all of them.

Each function returns a matplotlib `Figure` that no window shows; `canvas.svg` makes it text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.report.canvas import POINTS, corners, drawable, even, fit, lifted, log_axis, peaks, stacked
from neuromech.report.family import FamilyRecord
from neuromech.report.terms import draw_terms, visible
from neuromech.rounding import eps_of, rounding_bound

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which people with any colour vision tell apart; line styles tell it again.
OBSERVED = "#333333"
COLOURS = {"exact": "#0072B2", "ideal": "#009E73", "continuous": "#D55E00", "flow": "#AA4499"}
STYLES: dict[str, Any] = {
    "exact": "-",
    "ideal": (0, (5, 1.5, 1, 1.5)),
    "continuous": (0, (5, 2)),
    "flow": (0, (1, 1.5)),
}
WIDTHS = {"exact": 1.6, "ideal": 1.3, "continuous": 1.3, "flow": 1.6}
KIND_COLOURS = {"scale": "#0072B2", "rescale": "#D55E00", "translation": "#009E73"}
ROUNDING = "#e4e7eb"

MARKERS = 22
MEMBERS = 6


def family_figure(family: FamilyRecord) -> Figure:
    """The charge of the family, some of its members, how far each law was off, and what moved the charge."""
    panels: list[tuple[float, Callable[[Axes], None]]] = [(1.6, partial(_draw_charge, family=family))]
    if members := _some_members(family.members):
        panels.append((1.0, partial(_draw_members, members=members, size=family.size)))
    if laws := _laws_of(family):
        panels.append((1.0, partial(_draw_distances, family=family, laws=laws)))
    moved = family.terms[family.terms["member"] < 0]
    if len(moved) > 1 and visible([moved]):
        panels.append((1.1, partial(draw_terms, rows=moved)))
    return stacked(4.6, panels)


def overview_figure(found: Sequence[FamilyRecord], steps: pd.DataFrame) -> Figure | None:
    """How far every family was off its exact law, above the learning rate if it changes; None if there is neither."""
    predicted = [f for f in found if f.distances.loc[f.distances["step"] > 0, "exact"].notna().any()]
    rates = _changing_rates(steps)
    panels: list[tuple[float, Callable[[Axes], None]]] = []
    if predicted:
        panels.append((2.7, partial(_draw_families, found=predicted)))
    if rates:
        panels.append((0.7, partial(_draw_rates, rates=rates)))
    return stacked(10.0, panels, top=0.3) if panels else None


def _draw_charge(ax: Axes, family: FamilyRecord) -> None:
    rows = family.whole
    step, observed = rows["step"].to_numpy(float), drawable(rows["observed"])
    shown = corners(observed)
    for law in ("flow", "continuous", "exact"):
        values = drawable(rows[law])
        ax.plot(step[shown], values[shown], color=COLOURS[law], linestyle=STYLES[law], linewidth=WIDTHS[law], zorder=3)
    dots = even(len(step), MARKERS)
    ax.plot(step[dots], observed[dots], "o", color=OBSERVED, markersize=4.2, markerfacecolor="white", zorder=2)
    fit(ax, observed, [drawable(rows[law]) for law in ("exact", "continuous", "flow")], drawable(rows["scale"]))
    ax.set_ylabel(f"sum over {family.size:,}" if family.size > 1 else "charge")


def _draw_members(ax: Axes, members: Sequence[pd.DataFrame], size: int) -> None:
    for rows in members:
        some = rows.iloc[even(len(rows), MARKERS // 2)]
        lines = rows.iloc[corners(drawable(rows["observed"]))]
        law, colour = ("exact", COLOURS["exact"]) if rows["exact"].notna().any() else ("observed", OBSERVED)
        ax.plot(lines["step"], drawable(lines[law]), color=colour, linewidth=0.9, alpha=0.6)
        ax.plot(
            some["step"], drawable(some["observed"]), "o", color=OBSERVED, markersize=2.2, markeredgewidth=0, alpha=0.6
        )
    observed, exact, scale = (drawable(np.concatenate([m[c] for m in members])) for c in ("observed", "exact", "scale"))
    fit(ax, observed, [exact], scale)
    ax.set_ylabel(f"{len(members)} of {size:,}" if len(members) < size else f"all {size}")


def _laws_of(family: FamilyRecord) -> list[str]:
    """The laws that predicted something, the exact one last and so on top."""
    rows = family.distances[family.distances["step"] > 0]
    laws = [law for law in ("flow", "continuous", "ideal", "exact") if rows[law].notna().any()]
    if not (family.broken_by or family.kind == "translation") and {"exact", "ideal"} <= set(laws):
        laws.remove("ideal")  # the exact law without a leak: the same line
    return laws


def _draw_distances(ax: Axes, family: FamilyRecord, laws: Sequence[str]) -> None:
    rows = family.distances[family.distances["step"] > 0]
    eps = [e for e in [eps_of(family.dtype)] if not math.isnan(e)]
    step = rows["step"].to_numpy(float)
    log_axis(ax, np.concatenate([rows[law].to_numpy(float) for law in laws]), step, eps)
    for e in eps:
        _draw_bound(ax, step, e)
    for law in laws:
        values = rows[law].to_numpy(float)
        keep = peaks(values)
        ax.plot(
            step[keep],
            lifted(ax, values[keep]),
            color=COLOURS[law],
            linestyle=STYLES[law],
            linewidth=WIDTHS[law] * 0.8,
            marker=_marker(step),
            markersize=4,
            clip_on=False,
            zorder=3,
        )
    ax.set_ylabel("off by (relative)")


def _draw_families(ax: Axes, found: Sequence[FamilyRecord]) -> None:
    """One line a family, coloured by kind, and the bounds of the number formats."""
    import pandas as pd
    import seaborn as sns

    lines = []
    for f in found:
        shown = f.distances[f.distances["step"] > 0].dropna(subset="exact")
        shown = shown.iloc[peaks(shown["exact"].to_numpy(float))]
        lines.append(shown[["step", "exact"]].assign(family=f.index, kind=f.kind))
    data = pd.concat(lines, ignore_index=True)
    eps = sorted({e for f in found if not math.isnan(e := eps_of(f.dtype))})
    step = np.unique(data["step"].to_numpy(float))
    log_axis(ax, data["exact"].to_numpy(float), step, eps)
    data["exact"] = lifted(ax, data["exact"].to_numpy(float))
    for e in eps:
        _draw_bound(ax, step, e)
    kinds = [kind for kind in dict.fromkeys([*KIND_COLOURS, *data["kind"]]) if (data["kind"] == kind).any()]
    palette = {kind: KIND_COLOURS.get(kind, OBSERVED) for kind in kinds}
    style = {
        "palette": palette,
        "alpha": 0.75,
        "linewidth": 1.1,
        "marker": _marker(step),
        "markersize": 4,
    }
    sns.lineplot(data, x="step", y="exact", hue="kind", hue_order=kinds, units="family", estimator=None, ax=ax, **style)
    ax.legend(title=None, frameon=False, ncols=len(kinds), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    ax.set_ylabel("off by (relative)")


def _draw_rates(ax: Axes, rates: Sequence[pd.DataFrame]) -> None:
    for number, rows in enumerate(rates):
        rows = rows.iloc[corners(rows["lr"].to_numpy(float))]
        ax.step(
            rows["step"],
            rows["lr"],
            where="pre",
            color=OBSERVED,
            linewidth=1.1,
            linestyle=["-", "--", ":", "-."][number % 4],
        )
    ax.set_ylim(bottom=0)
    ax.set_ylabel("learning rate")


def _draw_bound(ax: Axes, step: np.ndarray, eps: float) -> None:
    """Grey: what rounding explains."""
    step = step[even(len(step), POINTS // 4)]
    if len(step):
        ax.fill_between(step, ax.get_ylim()[0], rounding_bound(step, eps), color=ROUNDING, linewidth=0, zorder=0)


def _changing_rates(steps: pd.DataFrame) -> list[pd.DataFrame]:
    """The steps of each optimizer, if the learning rate of any of them changes."""
    if not {"step", "optimizer", "lr"} <= {*steps}:
        return []
    each = [rows for _, rows in steps[steps["step"] > 0].groupby("optimizer")]
    return each if any(rows["lr"].nunique() > 1 for rows in each) else []


def _some_members(members: pd.DataFrame) -> list[pd.DataFrame]:
    """At most `MEMBERS` members, evenly chosen; none if the family has but one."""
    known = sorted(members["member"].unique())
    if len(known) < 2:
        return []
    return [members[members["member"] == known[i]] for i in even(len(known), MEMBERS)]


def _marker(step: np.ndarray) -> str | None:
    """A line of one point would not be seen."""
    return "o" if len(step) == 1 else None
