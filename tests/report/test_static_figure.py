"""The figure that needs no script: well-formed, its labels apart from each other and from the title of the axis."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from neuromech.report.static_figure import curve, round_numbers
from neuromech.report.words import apart

WIDEST = 7  # of a digit in 12 px


@pytest.mark.parametrize(
    ("values", "log"),
    [([1.6, 0.3, 0.01], True), ([1000.001, 1000.002, 1000.004], False), ([-2.41e-7, -2.44e-7, -2.4e-7], False)],
)
def test_labels_differ_and_leave_room_for_the_title(values: list[float], log: bool) -> None:
    svg = ET.fromstring(curve([1, 2, 3], values, "charge", "a curve", [(2.0, "a fault")], log))
    texts = [t for t in svg.iter("text") if t.get("text-anchor") == "end" and float(t.get("y", "0")) < 200]
    labels = [t.text or "" for t in texts]
    assert 2 <= len(labels) == len(set(labels)) <= 7
    for text, label in zip(texts, labels, strict=True):
        assert float(text.get("x", "0")) - WIDEST * len(label) >= 18  # the title is turned, 12 px high, about x = 12
    (grid,) = {line.get("x1") for line in svg.iter("line") if line.get("class") == "grid"}
    path = next(p.get("d") or "" for p in svg.iter("path"))
    assert re.match(rf"M{float(grid or 0):.1f},", path)
    assert next(svg.iter("title")).text == "step 2: a fault"


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (5.5278, 5.5285), (-3e17, 1e18), (1.0, 1.0 + 1e-9), (-2e-9, 7e-9)]
)
def test_an_axis_has_a_few_round_numbers_whose_labels_are_true(low: float, high: float) -> None:
    levels = round_numbers(low, high)
    assert 3 <= len(levels) <= 7
    assert low <= min(levels)
    assert max(levels) <= high
    gaps = {round((b - a) / (levels[1] - levels[0]), 6) for a, b in itertools.pairwise(levels)}
    assert gaps == {1.0}
    for level, label in zip(levels, apart(levels), strict=True):
        plain = label.replace(",", "").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
        assert float(plain.replace("×10", "e")) == pytest.approx(level, abs=0.02 * (levels[1] - levels[0]))


def test_whole_numbers_of_a_logarithmic_axis() -> None:
    assert round_numbers(-0.3, 18.2, whole=True) == [0.0, 5.0, 10.0, 15.0]
    assert round_numbers(-2.1, 0.3, whole=True) == [-2.0, -1.0, 0.0]


def test_one_step_has_two_labels() -> None:
    svg = ET.fromstring(curve([0, 1], [5.5, 5.4], "charge", "a curve", [], False))
    assert [t.text for t in svg.iter("text") if t.get("y") == "221"] == ["0", "1"]
