"""Layers of the page: no step that was recorded looks empty, no share that is there is told as none."""

import base64
import math
from dataclasses import replace

import pytest

from neuromech.report.facts import gather
from neuromech.report.layer_table import percent
from neuromech.report.layers import BINS, NONE, strip
from tests.report.simulate import train


@pytest.mark.parametrize("steps", [1, 2, 7, 40, 59, 60, 61, 97])
def test_every_recorded_step_has_a_colour_in_the_strip(steps: int) -> None:
    families = gather(train(steps)).families
    seen = base64.b64decode(strip(families, steps))
    assert len(seen) == min(steps, BINS)
    assert NONE not in seen


def test_steps_that_were_not_recorded_are_empty_in_the_strip() -> None:
    (f, *_) = gather(train(12)).families
    late = replace(f, distances=f.distances[f.distances["step"] > 8])
    seen = base64.b64decode(strip([late], 12))
    assert [x == NONE for x in seen] == [True] * 8 + [False] * 4


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (0.06, "under 1 %"), (0.5, "under 1 %"), (0.51, "1 %"), (12.4, "12 %"), (99.4, "99 %"), (99.7, "over 99 %"),
        (100.0, "100 %"), (100 * (1 - 1e-16), "100 %"),
    ],
)  # fmt: skip
def test_a_share_is_never_rounded_to_none_or_to_all(part: float, said: str) -> None:
    assert percent(part) == said
    assert math.isfinite(part)
