"""The canvas of a figure: panels, axes that hide nothing, and thinning out that loses no extreme."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.report.words import power_of_ten
from neuromech.rounding import EPS64, rounding_bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DECADES = 30  # relative distances are cut at 10^-30 and 10^30
LARGEST = 1e100  # what is larger cannot be told from infinity, and matplotlib cannot scale it
POINTS = 240  # of a line, at most about


def stacked(width: float, panels: Sequence[tuple[float, Callable[[Axes], None]]], top: float = 0.18) -> Figure:
    """Panels of given heights in inches, one above the other."""
    with _style():
        figure, axes = _figure(width, [height for height, _ in panels], top)
        for ax, (_, draw) in zip(axes, panels, strict=True):
            draw(ax)
        _finish(axes)
    return figure


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


def svg(figure: Figure) -> str:
    """The figure as an SVG document."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "neuromech"}):
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return out.getvalue()


def log_axis(ax: Axes, values: np.ndarray, step: np.ndarray, eps: Sequence[float]) -> None:
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


def lifted(ax: Axes, values: np.ndarray) -> np.ndarray:
    """Zeros to the bottom line of a log axis; what is not finite is left out."""
    return np.where(np.isfinite(values), np.clip(values, *ax.get_ylim()), np.nan)


def drawable(values: Any) -> np.ndarray:
    """As floats, with nan for what cannot be drawn."""
    values = np.asarray(values, float)
    return np.where(np.abs(values) < LARGEST, values, np.nan)


def fit(ax: Axes, observed: np.ndarray, laws: Sequence[np.ndarray], scale: np.ndarray) -> None:
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


def corners(values: np.ndarray) -> np.ndarray:
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


def peaks(values: np.ndarray) -> np.ndarray:
    """Indices of at most about `POINTS` values: the largest of each stretch, so that no excess is lost."""
    n = len(values)
    if n <= POINTS:
        return np.arange(n)
    edges = np.linspace(0, n, POINTS + 1).astype(int)
    known = np.where(np.isnan(values), -1.0, values)
    return np.unique([0, n - 1, *(int(a + known[a:b].argmax()) for a, b in pairwise(edges))])


def even(n: int, most: int) -> np.ndarray:
    """At most `most` of n indices, evenly spread, first and last included."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int)) if n else np.arange(0)
