"""Figures of a run for Python and notebooks: matplotlib axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuromech.errors import RecordError
from neuromech.record import Run
from neuromech.report.canvas import corners, drawable, stacked
from neuromech.report.facts import RunFacts, gather
from neuromech.report.figures import family_figure, overview_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(run: Run, what: str | int | None = None) -> list[Axes]:
    """Axes of a figure. `what`: part of the name of a family or its number, the name of a logged number, or None: the
    loss above how far off every law was. `axes[0].figure` is the figure.

    Raises `RecordError` if nothing of that name was recorded; says what was.
    """
    facts = gather(run)
    if what is None:
        return _overview(facts)
    if isinstance(what, str) and what in facts.metrics:
        return _metric(facts, what)
    found = [f for f in facts.families if (what == f.index if isinstance(what, int) else str(what) in f.name)]
    shown = next((f for f in found if len(f.whole)), None)
    if shown is None:
        there = [*facts.metrics, *(f.name for f in facts.families if len(f.whole))]
        listed = ", ".join(there[:8]) or "nothing yet"
        raise RecordError(f"nothing that was recorded is called {what!r}; there is {listed}")
    return list(family_figure(shown).axes)


def _overview(facts: RunFacts) -> list[Axes]:
    figure = overview_figure(facts.families, facts.steps)
    if figure is None:
        if "loss" not in facts.metrics:
            raise RecordError("nothing was recorded yet that could be drawn: take at least one step")
        return _metric(facts, "loss")
    return list(figure.axes)


def _metric(facts: RunFacts, name: str) -> list[Axes]:
    rows = facts.metrics[name]
    values = drawable(rows["value"])
    shown = corners(values)

    def draw(ax: Any) -> None:
        ax.plot(rows["step"].to_numpy(float)[shown], values[shown], color="#0072B2", linewidth=1.4)
        for fault in facts.faults:
            ax.axvline(fault.step, color="#9c1c1c", linewidth=1, linestyle=":")
        ax.set_ylabel(name)

    return list(stacked(6.0, [(2.4, draw)]).axes)
