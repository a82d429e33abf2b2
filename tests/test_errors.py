"""Warnings begin with one short line and a code."""

from __future__ import annotations

import pytest

from neuromech.errors import FIRST_LINE, NeuromechWarning, code_of, headed, warn


@pytest.mark.parametrize("message", ["short", "one clause: and more", "a very long clause " * 20, "x" * 300])
def test_the_first_line_is_short_and_has_a_code(message: str) -> None:
    first, *rest = headed(message, code_of("Edited weights!")).splitlines()
    assert first.startswith("NM-edited-weights: ")
    assert len(first) <= FIRST_LINE
    assert rest[-1] == "  neuromech explain NM-edited-weights says more."
    assert message in first or message in rest[0]


def test_a_warning_points_at_the_users_line() -> None:
    with pytest.warns(NeuromechWarning, match="NM-failed: something") as seen:
        warn("something: at length", "failed")
    assert seen[0].filename == __file__
