"""Statements in their order, the headline and the tone that follow from them."""

from __future__ import annotations

import random

import pytest

from neuromech.report.statements import Judgement, Statement, Tone, rank

RAN = Statement("trained", "none", "20 steps.")
HELD = Statement("laws", "ok", "3 laws held.")


@pytest.mark.parametrize(
    ("tones", "whole"),
    [
        ([], "none"), (["none"], "none"), (["ok"], "ok"), (["none", "ok", "none"], "ok"), (["ok", "mixed"], "mixed"),
        (["none", "mixed"], "mixed"), (["mixed", "bad", "ok"], "bad"), (["bad"], "bad"),
    ],
)  # fmt: skip
def test_the_tone_of_the_whole_is_the_gravest_and_green_needs_a_law_that_held(tones: list[Tone], whole: Tone) -> None:
    assert Judgement(tuple(Statement("x", tone, "") for tone in tones)).tone == whole


def test_the_headline_tells_two_kinds_of_what_is_grave_and_counts_the_rest() -> None:
    def headline(*some: Statement) -> str:
        return Judgement((RAN, *some)).headline

    def bad(key: str, text: str, short: str = "") -> Statement:
        return Statement(key, "bad", text, short=short)

    assert headline(HELD) == "20 steps. 3 laws held."
    assert headline(bad("exploded", "A."), HELD) == "20 steps. A. 3 laws held."
    assert headline(bad("exploded", "A."), bad("fault", "B with all evidence.", "B."), HELD) == (
        "20 steps. A. B. 3 laws held."
    )
    assert headline(bad("exploded", "A."), bad("exploded", "A2."), bad("fault", "B.")) == (
        "20 steps. A. B. And 1 more finding."
    )
    assert headline(*(bad(f"k{i}", f"K{i}.") for i in range(5))) == "20 steps. K0. K1. And 3 more findings."
    assert headline(bad("fault", "B."), Statement("rose", "mixed", "M."), HELD) == "20 steps. B. 3 laws held."
    assert headline(Statement("rose", "mixed", "M."), HELD) == "20 steps. M. 3 laws held."
    coarse = Statement("laws", "mixed", "Nearly held.")
    assert headline(coarse) == "20 steps. Nearly held."
    assert headline(Statement("rose", "mixed", "M."), coarse) == "20 steps. M. Nearly held."
    assert headline(Statement("limit", "none", "L."), Statement("nothing", "none", "N.")) == "20 steps. N."


def test_views_of_what_is_said() -> None:
    limit, broken, slow = (
        Statement("limit", "none", "L"),
        Statement("broken", "bad", "B"),
        Statement("limit", "mixed", "S"),
    )
    said = Judgement((RAN, broken, HELD, limit, slow))
    assert said.wrong == [broken, slow]
    assert said.limits == [limit, slow]
    assert said.has("broken")
    assert not said.has("fault")


def test_what_came_of_it_stands_before_its_cause_and_how_far_it_came_before_all() -> None:
    order = [
        RAN,
        Statement("not finite", "bad", ""), Statement("exploded", "bad", ""), Statement("fault", "bad", ""),
        Statement("nothing moved", "bad", ""), Statement("broken", "bad", ""), Statement("ended", "bad", ""),
        Statement("rose", "bad", ""), Statement("exploded", "mixed", ""), Statement("rose", "mixed", ""),
        HELD, Statement("laws", "none", ""),
    ]  # fmt: skip
    for seed in range(20):
        assert sorted(random.Random(seed).sample(order, len(order)), key=rank) == order
