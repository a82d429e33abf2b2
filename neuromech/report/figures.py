"""Figures of a report: every law has one colour and one line style, in all of them.

Each function returns a matplotlib `Figure` that no window shows; `svg` makes it text.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.report.families import Family
from neuromech.report.verdict import EPS64, eps_of, rounding_bound
from neuromech.report.words import power_of_ten

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

DECADES = 30  # relative distances are cut at 10^-30 and 10^30
LARGEST = 1e100  # what is larger cannot be told from infinity, and matplotlib cannot scale it
POINTS = 240
MARKERS = 22
MEMBERS = 6


def family_figure(family: Family) -> Figure:
    """The charge of the family, some of its members, and how far each law was off."""
    panels: list[tuple[float, Callable[[Axes], None]]] = [(1.6, partial(_draw_charge, family=family))]
    if members := _some_members(family.members):
        panels.append((1.0, partial(_draw_members, members=members, size=family.size)))
    if laws := _laws_of(family):
        panels.append((1.0, partial(_draw_distances, family=family, laws=laws)))
    return _stacked(4.6, panels)


def _stacked(width: float, panels: Sequence[tuple[float, Callable[[Axes], None]]], top: float = 0.18) -> Figure:
    """Panels of given heights in inches, one above the other."""
    with _style():
        figure, axes = _figure(width, [height for height, _ in panels], top)
        for ax, (_, draw) in zip(axes, panels, strict=True):
            draw(ax)
        _finish(axes)
    return figure


def overview_figure(found: Sequence[Family], steps: pd.DataFrame) -> Figure | None:
    """How far every family was off its exact law, above the learning rate if it changes; None if there is neither."""
    predicted = [f for f in found if f.distances.loc[f.distances["step"] > 0, "exact"].notna().any()]
    rates = _changing_rates(steps)
    panels: list[tuple[float, Callable[[Axes], None]]] = []
    if predicted:
        panels.append((2.7, partial(_draw_families, found=predicted)))
    if rates:
        panels.append((0.7, partial(_draw_rates, rates=rates)))
    return _stacked(10.0, panels, top=0.3) if panels else None


def svg(figure: Figure) -> str:
    """The figure as an SVG document."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "neuromech"}):
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return out.getvalue()


# -- panels ----------------------------------------------------------------------------------------------------------


def _draw_families(ax: Axes, found: Sequence[Family]) -> None:
    """One line a family, coloured by kind, and the bounds of the number formats."""
    import pandas as pd
    import seaborn as sns

    lines = []
    for f in found:
        shown = f.distances[f.distances["step"] > 0].dropna(subset="exact")
        shown = shown.iloc[_peaks(shown["exact"].to_numpy(float))]
        lines.append(shown[["step", "exact"]].assign(family=f.index, kind=f.kind))
    data = pd.concat(lines, ignore_index=True)
    eps = sorted({e for f in found if not math.isnan(e := eps_of(f.dtype))})
    step = np.unique(data["step"].to_numpy(float))
    _log_axis(ax, data["exact"].to_numpy(float), step, eps)
    data["exact"] = _lifted(ax, data["exact"].to_numpy(float))
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
        rows = rows.iloc[_corners(rows["lr"].to_numpy(float))]
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


def _changing_rates(steps: pd.DataFrame) -> list[pd.DataFrame]:
    """The steps of each optimizer, if the learning rate of any of them changes."""
    if not {"step", "optimizer", "lr"} <= {*steps}:
        return []
    each = [rows for _, rows in steps[steps["step"] > 0].groupby("optimizer")]
    return each if any(rows["lr"].nunique() > 1 for rows in each) else []


def _draw_charge(ax: Axes, family: Family) -> None:
    rows = family.whole
    step, observed = rows["step"].to_numpy(float), _drawable(rows["observed"])
    shown = _corners(observed)
    for law in ("flow", "continuous", "exact"):
        values = _drawable(rows[law])
        ax.plot(step[shown], values[shown], color=COLOURS[law], linestyle=STYLES[law], linewidth=WIDTHS[law], zorder=3)
    dots = _even(len(step), MARKERS)
    ax.plot(step[dots], observed[dots], "o", color=OBSERVED, markersize=4.2, markerfacecolor="white", zorder=2)
    _fit(ax, observed, [_drawable(rows[law]) for law in ("exact", "continuous", "flow")], _drawable(rows["scale"]))
    ax.set_ylabel(f"sum over {family.size:,}" if family.size > 1 else "charge")


def _draw_members(ax: Axes, members: Sequence[pd.DataFrame], size: int) -> None:
    for rows in members:
        some = rows.iloc[_even(len(rows), MARKERS // 2)]
        lines = rows.iloc[_corners(_drawable(rows["observed"]))]
        law, colour = ("exact", COLOURS["exact"]) if rows["exact"].notna().any() else ("observed", OBSERVED)
        ax.plot(lines["step"], _drawable(lines[law]), color=colour, linewidth=0.9, alpha=0.6)
        ax.plot(
            some["step"], _drawable(some["observed"]), "o", color=OBSERVED, markersize=2.2, markeredgewidth=0, alpha=0.6
        )
    observed, exact, scale = (
        _drawable(np.concatenate([m[c] for m in members])) for c in ("observed", "exact", "scale")
    )
    _fit(ax, observed, [exact], scale)
    ax.set_ylabel(f"{len(members)} of {size:,}" if len(members) < size else f"all {size}")


def _laws_of(family: Family) -> list[str]:
    """The laws that predicted something, the exact one last and so on top."""
    rows = family.distances[family.distances["step"] > 0]
    laws = [law for law in ("flow", "continuous", "ideal", "exact") if rows[law].notna().any()]
    if not family.broken_by and {"exact", "ideal"} <= set(laws):
        laws.remove("ideal")  # the exact law without a leak: the same line
    return laws


def _draw_distances(ax: Axes, family: Family, laws: Sequence[str]) -> None:
    rows = family.distances[family.distances["step"] > 0]
    eps = [e for e in [eps_of(family.dtype)] if not math.isnan(e)]
    step = rows["step"].to_numpy(float)
    _log_axis(ax, np.concatenate([rows[law].to_numpy(float) for law in laws]), step, eps)
    for e in eps:
        _draw_bound(ax, step, e)
    for law in laws:
        values = rows[law].to_numpy(float)
        keep = _peaks(values)
        ax.plot(
            step[keep],
            _lifted(ax, values[keep]),
            color=COLOURS[law],
            linestyle=STYLES[law],
            linewidth=WIDTHS[law] * 0.8,
            marker=_marker(step),
            markersize=4,
            clip_on=False,
            zorder=3,
        )
    ax.set_ylabel("off by (relative)")


def _draw_bound(ax: Axes, step: np.ndarray, eps: float) -> None:
    """Grey: what rounding explains."""
    step = step[_even(len(step), POINTS // 4)]
    if len(step):
        ax.fill_between(step, ax.get_ylim()[0], rounding_bound(step, eps), color=ROUNDING, linewidth=0, zorder=0)


def _log_axis(ax: Axes, values: np.ndarray, step: np.ndarray, eps: Sequence[float]) -> None:
    """Decades that hold all positive values and the bounds; zeros lie on a bottom line of their own, labelled 0."""
    positive = values[np.isfinite(values) & (values > 0)]
    marks = np.concatenate([positive, eps, *(rounding_bound(step[-1:], e) for e in eps)])
    zero = bool((values == 0).any())
    low, high = (marks.min(), marks.max()) if len(marks) else (EPS64, 1.0)
    bottom = max(math.floor(math.log10(low)), -DECADES) - zero
    top = min(max(math.ceil(math.log10(high) + 0.2), bottom + 1), DECADES)
    every = max(1, math.ceil((top - bottom) / 5))
    decades = [d for d in range(top, bottom - 1, -every) if not zero or d > bottom]
    ax.set_yscale("log")
    ax.set_ylim(10.0**bottom, 10.0**top)
    ticks = [10.0**d for d in decades] + ([10.0**bottom] if zero else [])
    ax.set_yticks(ticks, [power_of_ten(d) for d in decades] + (["0"] if zero else []))
    ax.set_yticks([], minor=True)


def _lifted(ax: Axes, values: np.ndarray) -> np.ndarray:
    """Zeros to the bottom line of a log axis; what is not finite is left out."""
    return np.where(np.isfinite(values), np.clip(values, *ax.get_ylim()), np.nan)


def _drawable(values: Any) -> np.ndarray:
    """As floats, with nan for what cannot be drawn."""
    values = np.asarray(values, float)
    return np.where(np.abs(values) < LARGEST, values, np.nan)


def _fit(ax: Axes, observed: np.ndarray, laws: Sequence[np.ndarray], scale: np.ndarray) -> None:
    """Limits that show the observation and the exact law whole, the others as far as three times that range.

    At least a thousandth of the scale is shown, lest rounding fill the panel.
    """
    core = np.concatenate([observed, laws[0]])
    core = core[np.isfinite(core)]
    if not len(core):
        return
    low, high = float(core.min()), float(core.max())
    least = 1e-3 * float(np.max(scale[np.isfinite(scale)], initial=max(abs(low), abs(high)))) or 1.0
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    span = high - low
    for values in laws[1:]:
        values = values[np.isfinite(values)]
        if len(values):
            low = max(min(low, float(values.min())), low - 2 * span)
            high = min(max(high, float(values.max())), high + 2 * span)
    ax.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))


def _marker(step: np.ndarray) -> str | None:
    """A line of one point would not be seen."""
    return "o" if len(step) == 1 else None


# -- thinning out ----------------------------------------------------------------------------------------------------


def _corners(values: np.ndarray) -> np.ndarray:
    """Indices of at most about `POINTS` values: the smallest and the largest of each stretch, first and last."""
    n = len(values)
    if n <= POINTS:
        return np.arange(n)
    edges = np.linspace(0, n, POINTS // 2 + 1).astype(int)
    known = np.where(np.isfinite(values), values, 0.0)
    picked = {0, n - 1}
    for a, b in pairwise(edges):
        picked |= {int(a + known[a:b].argmin()), int(a + known[a:b].argmax())}
    return np.array(sorted(picked))


def _peaks(values: np.ndarray) -> np.ndarray:
    """Indices of at most about `POINTS` values: the largest of each stretch, so that no excess is lost."""
    n = len(values)
    if n <= POINTS:
        return np.arange(n)
    edges = np.linspace(0, n, POINTS + 1).astype(int)
    known = np.where(np.isnan(values), -1.0, values)
    return np.unique([0, n - 1, *(int(a + known[a:b].argmax()) for a, b in pairwise(edges))])


def _even(n: int, most: int) -> np.ndarray:
    """At most `most` of n indices, evenly spread, first and last included."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int)) if n else np.arange(0)


def _some_members(members: pd.DataFrame) -> list[pd.DataFrame]:
    """At most `MEMBERS` members, evenly chosen; none if the family has but one."""
    known = sorted(members["member"].unique())
    if len(known) < 2:
        return []
    return [members[members["member"] == known[i]] for i in _even(len(known), MEMBERS)]


# -- style -----------------------------------------------------------------------------------------------------------


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib as mpl
    import seaborn as sns

    lines: dict[Any, Any] = {
        "axes.linewidth": 0.7,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "grid.linewidth": 0.6,
    }
    ink = {"axes.edgecolor": "#888888", "text.color": "#222222", "axes.labelcolor": "#222222", "grid.color": "#eeeeee"}
    sizes = {"font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.fontsize": 9}
    ours = {
        "axes.formatter.useoffset": False,
        "axes.formatter.limits": (-4, 5),
        "axes.unicode_minus": True,
        "xtick.color": "#444444",
        "ytick.color": "#444444",
    }
    with sns.axes_style("ticks"), mpl.rc_context(lines | ink | sizes | ours):
        yield


def _figure(width: float, heights: Sequence[float], top: float = 0.18) -> tuple[Figure, list[Axes]]:
    """Panels of `heights` inches, one above the other, with margins that are the same in every figure."""
    from matplotlib.figure import Figure

    left, right, bottom, gap = 0.78, 0.06, 0.46, 0.14
    total = top + sum(heights) + gap * (len(heights) - 1) + bottom
    figure = Figure(figsize=(width, total))
    margins = {"left": left / width, "right": 1 - right / width, "top": 1 - top / total, "bottom": bottom / total}
    space = gap * len(heights) / sum(heights)
    axes = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, height_ratios=heights, gridspec_kw=margins | {"hspace": space}
    )
    for ax in axes[:, 0]:
        ax.yaxis.set_label_coords((0.14 - left) / (width - left - right), 0.5)
    return figure, list(axes[:, 0])


def _finish(axes: Sequence[Axes]) -> None:
    import seaborn as sns
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    for ax in axes:
        sns.despine(ax=ax)
        ax.grid(axis="y", zorder=-1)
        if ax.get_yscale() == "linear":
            ax.yaxis.set_major_locator(MaxNLocator(4))
        ax.set_xlabel("")
    first, last = min(ax.dataLim.x0 for ax in axes), max(ax.dataLim.x1 for ax in axes)
    first = min(first, last - 1)
    axes[-1].set_xlim(first - 0.02 * (last - first), last + 0.02 * (last - first))
    axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[-1].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes[-1].set_xlabel("step")
