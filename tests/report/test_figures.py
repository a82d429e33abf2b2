"""Figures show what was recorded: every excess, every zero, in the colours of the legend."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuromech.record import Record
from neuromech.report import canvas, figures
from neuromech.report.canvas import POINTS, svg
from neuromech.report.family import COLUMNS, FamilyRecord, families
from neuromech.report.figures import COLOURS, family_figure, overview_figure
from neuromech.report.verdict import LAWS
from tests.families import fast

from .simulate import train


def found_in(record: Record) -> list[FamilyRecord]:
    return families(record.meta, record.frame("charges"))


def one(columns: dict[str, object], dtype: str = "float64") -> FamilyRecord:
    """A family of one member from columns of its rows."""
    rows = pd.DataFrame({"symmetry": 0, "member": -1, "scale": 1.0} | columns).reindex(
        columns=["step", "symmetry", "member", *COLUMNS]
    )
    return families({"symmetries": [{"name": "w", "kind": "scale", "size": 1}], "dtype": dtype}, rows)[0]


def coloured(ax: object, colour: str) -> list[object]:
    return [line for line in ax.get_lines() if line.get_color() == colour]  # type: ignore[attr-defined]


def test_the_lines_are_the_records() -> None:
    record = train(40)
    for family in found_in(record):
        axes = family_figure(family).axes
        assert len(axes) == (3 if family.size > 1 else 2)
        for law in ("exact", "continuous", "flow"):
            (line,) = coloured(axes[0], COLOURS[law])
            np.testing.assert_array_equal(line.get_xdata(), family.whole["step"])
            np.testing.assert_array_equal(line.get_ydata(), family.whole[law])
            (line,) = coloured(axes[-1], COLOURS[law])
            np.testing.assert_array_equal(
                line.get_ydata(), np.maximum(family.distances[law][1:], axes[-1].get_ylim()[0])
            )
        (dots,) = coloured(axes[0], figures.OBSERVED)
        assert set(dots.get_ydata()) <= set(family.whole["observed"])
        assert {dots.get_xdata()[0], dots.get_xdata()[-1]} == {0, 40}
        assert axes[-1].get_xlabel() == "step"
        assert all(ax.get_ylabel() for ax in axes)


def test_the_ideal_law_is_drawn_where_it_differs() -> None:
    family = found_in(train(10))[0]
    assert not coloured(family_figure(family).axes[-1], COLOURS["ideal"])
    leaking = replace(family, broken_by=("eps",))
    assert coloured(family_figure(leaking).axes[-1], COLOURS["ideal"])


@given(st.lists(st.floats(), min_size=1, max_size=3 * POINTS), st.integers(0, 10**6))
def test_thinning_keeps_ends_and_extremes(values: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.concatenate([values, rng.standard_normal(seed % 2000)])
    for picked in (canvas.corners(x), canvas.peaks(x)):
        assert (np.diff(picked) > 0).all()
        assert {picked[0], picked[-1]} == {0, len(x) - 1}
        assert len(picked) <= POINTS + 2
    finite, known = x[np.isfinite(x)], x[~np.isnan(x)]
    if len(finite) == len(x):
        assert finite.min() in x[canvas.corners(x)]
        assert finite.max() in x[canvas.corners(x)]
    if len(known) and known.max() >= 0:
        assert known.max() in x[canvas.peaks(x)]


def test_zeros_lie_on_a_line_of_their_own_and_nothing_is_hidden() -> None:
    off = [0.0, 0.0, 1e-16, 0.0, 1e-3]
    ax = family_figure(one({"step": range(5), "observed": 1.0, "exact": 1.0, "residual": off})).axes[-1]
    labels = {text.get_text(): tick for tick, text in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    (line,) = coloured(ax, COLOURS["exact"])
    assert line.get_ydata().tolist() == [labels["0"], 1e-16, labels["0"], 1e-3]
    assert labels["0"] < 1e-16
    low, high = ax.get_ylim()
    assert low == labels["0"]
    assert high >= 1e-3
    assert "10⁻³" in labels or "10⁻²" in labels


def test_without_zeros_there_is_no_line_for_them() -> None:
    ax = family_figure(one({"step": range(3), "observed": 1.0, "exact": 1.0, "residual": [0, 1e-9, 1e-3]})).axes[-1]
    assert "0" not in [text.get_text() for text in ax.get_yticklabels()]
    assert ax.get_ylim()[0] <= 1e-16  # the rounding bound is in view


@pytest.mark.parametrize("size", [1e-80, 1e-5, 1.0, 1e7, 1e80])
def test_the_observation_is_in_view_and_a_law_that_runs_away_does_not_squeeze_it(size: float) -> None:
    step = np.arange(50)
    observed = size * (1 + 0.5 * np.sin(step / 10))
    family = one({"step": step, "observed": observed, "exact": observed, "flow": size * 2.0**step, "scale": size})
    ax = family_figure(family).axes[0]
    low, high = ax.get_ylim()
    assert low < observed.min() < observed.max() < high
    assert high - low < 8 * np.ptp(observed)


def test_rounding_does_not_fill_the_panel_of_a_charge_that_stays() -> None:
    noise = 1 + 1e-15 * np.array([0.0, 1, 0, 1, 1])
    low, high = family_figure(one({"step": range(5), "observed": noise, "exact": 1.0})).axes[0].get_ylim()
    assert high - low >= 1e-3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e308, 5e-324])
@pytest.mark.parametrize("law", fast(["observed", "exact", "flow"], ["exact"]))
def test_odd_numbers_are_drawn_or_left_out_but_never_stop_a_report(value: float, law: str) -> None:
    columns: dict[str, object] = {"step": range(4), "observed": 1.0, **dict.fromkeys(LAWS, 1.0), "residual": 1e-12}
    figure = family_figure(one(columns | {law: [1.0, 1.0, value, value], f"{law}_residual": abs(value)}))
    ET.fromstring(svg(figure))


def test_without_predictions_there_is_no_panel_for_distances() -> None:
    (ax,) = family_figure(one({"step": range(4), "observed": 1.0})).axes
    assert ax.get_yscale() == "linear"


def test_a_single_step_is_seen() -> None:
    family = one({"step": [0, 1], "observed": 1.0, "exact": 1.0, "residual": [0.0, 1e-9]})
    figure = overview_figure([family], pd.DataFrame())
    assert figure is not None
    for ax in (family_figure(family).axes[-1], figure.axes[0]):
        assert [line.get_marker() for line in ax.get_lines() if len(line.get_xdata()) == 1] == ["o"]
        assert ax.get_xlim()[0] <= 0 < 1 < ax.get_xlim()[1]


def test_the_overview_has_a_line_a_family_and_the_rate_if_it_changes() -> None:
    record = train(40)
    figure = overview_figure(found_in(record), record.frame("steps"))
    assert figure is not None
    assert len(figure.axes) == 1
    assert sum(len(line.get_xdata()) == 40 for line in figure.axes[0].get_lines()) == 3
    changing = train(40, lr=lambda k: 0.1 if k < 20 else 0.01)
    steps = changing.frame("steps")
    figure = overview_figure(found_in(changing), steps)
    assert figure is not None
    (line,) = figure.axes[1].get_lines()
    assert line.get_xdata().tolist() == list(range(1, 41))
    assert line.get_ydata().tolist() == steps["lr"].tolist()[1:]
    alone = overview_figure(found_in(train(5, adam=True)), steps)
    assert alone is not None
    assert len(alone.axes) == 1
    assert overview_figure([], pd.DataFrame()) is None


def test_two_number_formats_have_two_bounds() -> None:
    columns: dict[str, object] = {"step": range(4), "observed": 1.0, "exact": 1.0, "residual": 1e-9}
    both = [one(columns, "float32"), replace(one(columns, "float64"), index=1)]
    figure = overview_figure(both, pd.DataFrame())
    assert figure is not None
    assert len(figure.axes[0].collections) == 2


def test_svg_is_well_formed_the_same_each_time_and_points_nowhere() -> None:
    family = found_in(train(12))[0]
    text = svg(family_figure(family))
    ET.fromstring(text)
    assert text == svg(family_figure(family))
    assert re.findall(r'href="(?!#)', text) == []
    assert "url(http" not in text


def test_long_runs_give_small_figures() -> None:
    step = np.arange(100_000)
    off = np.full(len(step), 1e-14)
    off[54_321] = 1e-7
    walk = np.cumsum(np.random.default_rng(0).standard_normal(len(step)))
    family = one({"step": step, "observed": walk, "exact": walk, "residual": off})
    assert 1e-7 in coloured(family_figure(family).axes[-1], COLOURS["exact"])[0].get_ydata()
    assert len(svg(family_figure(family))) < 100_000
