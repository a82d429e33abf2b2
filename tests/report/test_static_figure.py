"""The figure that needs no script: well-formed, its labels apart from each other and from the title of the axis."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from neuromech.report.static_figure import curve

WIDEST = 7  # of a digit in 12 px


@pytest.mark.parametrize(
    ("values", "log"),
    [([1.6, 0.3, 0.01], True), ([1000.001, 1000.002, 1000.004], False), ([-2.41e-7, -2.44e-7, -2.4e-7], False)],
)
def test_labels_differ_and_leave_room_for_the_title(values: list[float], log: bool) -> None:
    svg = ET.fromstring(curve([1, 2, 3], values, "charge", "a curve", [(2.0, "a fault")], log))
    texts = [t for t in svg.iter("text") if t.get("text-anchor") == "end" and float(t.get("y", "0")) < 200]
    labels = [t.text or "" for t in texts]
    assert len(labels) == len(set(labels)) == 4
    for text, label in zip(texts, labels, strict=True):
        assert float(text.get("x", "0")) - WIDEST * len(label) >= 18  # the title is turned, 12 px high, about x = 12
    (grid,) = {line.get("x1") for line in svg.iter("line") if line.get("class") == "grid"}
    path = next(p.get("d") or "" for p in svg.iter("path"))
    assert re.match(rf"M{float(grid or 0):.1f},", path)
    assert next(svg.iter("title")).text == "step 2: a fault"
