"""How a run went, told from facts that are written down by hand: every sentence, and where each begins to be said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from neuromech.report.facts import Ending, RunFacts
from neuromech.report.family import FamilyRecord
from neuromech.report.outcome import SLOWER, diverged, ended, followed, trained
from neuromech.report.statements import Statement
from neuromech.report.verdict import LawVerdict

NONE = pd.DataFrame({"step": [], "kind": [], "message": []})
ENDING = Ending("finished", "", "", "", math.nan, math.nan)


def facts(n_steps: int = 20, **more: Any) -> RunFacts:
    return replace(RunFacts({}, [], n_steps, pd.DataFrame(), [], [], NONE, {}, [], [], NONE, ENDING), **more)


def seen(name: str, *values: float, first: int = 1) -> RunFacts:
    rows = pd.DataFrame({"step": range(first, first + len(values)), "value": values})
    return facts(first + len(values) - 1, metrics={name: rows})


def family(name: str, verdict: LawVerdict, evidence: Any = "predicted", **columns: list[float]) -> FamilyRecord:
    n = len(next(iter(columns.values()), []))
    whole = pd.DataFrame({"step": range(n), "observed": [1.0] * n, "scale": [1.0] * n} | columns)
    empty = pd.DataFrame()
    return FamilyRecord(0, "scale", 1, name, "", 0.0, (), "float32", whole, empty, empty, verdict, empty, evidence)


def test_steps_of_several_optimizers_are_told_in_iterations() -> None:
    steps = pd.DataFrame({"step": [0, 1, 2, 3, 4], "iteration": [0, 1, 1, 2, 2]})
    some = replace(seen("loss", 2.0, 0.5), n_steps=4, steps=steps)
    rows = {"loss": pd.DataFrame({"step": [1, 3], "value": [2.0, 0.5]})}
    (said,) = trained(replace(some, metrics=rows))
    assert said.text == "4 steps of several optimizers in 2 iterations, loss 2 → 0.5."
    alone = pd.DataFrame({"step": [0, 1, 2], "iteration": [0, 1, 2]})  # the table is behind the metrics
    (said,) = trained(replace(some, steps=alone))
    assert said.text.startswith("4 steps, loss")


@pytest.mark.parametrize(
    ("values", "maximize", "rises"),
    [
        ([-8.0] * 20 + [-1.0] * 20, False, "The loss rose: from -8 to -1"),
        ([-1.0, -8.0] * 10 + [-2.0] * 20, False, ""),  # no more than its noise
        ([-8.0] * 20 + [-9.0] * 20, False, ""),
        ([0.0] * 20 + [2.0] * 20, False, "The loss rose: from 0 to 2"),
        ([1.0] * 20 + [4.0] * 20, True, ""),
        ([4.0] * 20 + [1.0] * 20, True, "The objective fell, though an optimizer maximizes it: from 4 to 1"),
        ([4.0] * 20 + [1.0] * 20, False, ""),
    ],
)
def test_which_way_is_worse(values: list[float], maximize: bool, rises: str) -> None:
    meta = {"optimizers": [{"class": "SGD", "groups": [{"lr": 0.1, "maximize": maximize}]}]}
    texts = [s.text for s in diverged(replace(seen("loss", *values), meta=meta))]
    assert [t[: len(rises)] for t in texts] == [rises] * bool(rises)


def told(some: RunFacts) -> list[tuple[str, str, str, int | None]]:
    return [(s.tone, s.text, s.beside, s.step) for s in diverged(some)]


def test_how_far_it_came() -> None:
    def text(some: RunFacts) -> list[str]:
        return [s.text for s in trained(some)]

    assert text(facts(0)) == []
    assert text(facts(1)) == ["1 step."]
    assert text(facts(1234)) == ["1,234 steps."]
    assert text(seen("loss", 2.0, 0.5)) == ["2 steps, loss 2 → 0.5."]
    assert text(seen("loss", 2.0)) == ["1 step, loss 2."]
    assert text(seen("accuracy", 2.0)) == ["1 step."]
    assert text(seen("loss", math.nan, 2.0)) == ["2 steps, loss not a number → 2."]
    assert text(replace(seen("loss", 2.0, 3.0, first=2), n_steps=4)) == ["4 steps, loss 2 (step 2) → 3 (step 3)."]
    assert text(seen("loss", 2.0, 3.0, first=1_233)) == ["1,234 steps, loss 2 (step 1,233) → 3."]
    assert text(replace(seen("loss", 2.0, 3.0, first=1_005), meta={"every": 1_005})) == ["1,006 steps, loss 2 → 3."]
    assert text(facts(2, metrics={"loss": pd.DataFrame({"step": [], "value": []})})) == ["2 steps."]
    (said,) = trained(facts(3))
    assert (said.key, said.tone) == ("trained", "none")


@pytest.mark.parametrize(
    ("values", "when", "here"),
    [
        ([1.0, math.nan, math.inf], "from step 2 on", "from here on"),
        ([1.0, 2.0, -math.inf], "from step 3 on", "from here on"),
        ([1.0, math.nan, 2.0], "at step 2", "here"),
        ([1.0, math.nan, 2.0, math.nan, 2.0], "at step 2 and 1 other", "here and at 1 other step"),
        ([math.nan, 1.0, math.nan, math.nan, 2.0], "at step 1 and 2 others", "here and at 2 other steps"),
    ],
)
def test_what_is_no_number_and_for_how_long(values: list[float], when: str, here: str) -> None:
    at = next(k for k, v in enumerate(values, 1) if not math.isfinite(v))
    assert told(seen("loss", *values)) == [
        ("bad", f"The loss is not finite {when}.", f"The loss is not finite {here}.", at)
    ]


def test_a_loss_or_weights_that_are_no_numbers_are_graver_than_others() -> None:
    for name, subject, tone in [
        ("weight norm", "The norm of all weights", "bad"),
        ("gradient norm", "The norm of the gradient", "mixed"),
        ("my number", "my number (logged)", "mixed"),
    ]:
        ((seen_tone, text, _, _),) = told(seen(name, 1.0, math.nan, first=1_000))
        assert (seen_tone, text) == (tone, f"{subject} is not finite from step 1,001 on.")
    (said,) = diverged(seen("loss", 1.0, math.nan))
    assert said.key == "not finite"


def test_where_an_explosion_begins() -> None:
    assert told(seen("loss", 1.0, 1_000.0)) == []
    assert told(seen("loss", 1.0, 1_100.0)) == [
        ("bad", "The loss exploded: from 1 to 1,100 at step 2.", "The loss exploded: from 1 to 1,100.", 2)
    ]
    assert told(seen("loss", 1.0, 1e4, 101.0))[0][0] == "bad"
    ((tone, text, beside, step),) = told(seen("loss", 1.0, 2.0, 1e4, 100.0, first=2_000))
    assert (tone, step) == ("mixed", 2_002)
    assert text == "The loss exploded: from 1 to 10,000 at step 2,002, and came back to 100."
    assert beside == "The loss exploded: from 1 to 10,000, and came back to 100."
    for nothing in ([1e9], [0.0, 1e9], [math.nan, 1e9], [math.nan]):
        assert not [t for t in told(seen("loss", *nothing)) if "exploded" in t[1]]
    (said,) = diverged(seen("loss", 1.0, 1e9))
    assert (said.key, said.do) == ("exploded", SLOWER)
    assert told(seen("my number", 1.0, 1e9)) == []


def test_an_explosion_is_told_from_where_it_begins_not_from_where_it_is_largest() -> None:
    assert told(seen("weight norm", 1.0, 2e3, 5e3, 9e3)) == [
        ("bad", "The norm of all weights exploded from step 2 on: from 1 to 9,000 at step 4.",
         "The norm of all weights exploded: from 1 to 9,000 at step 4.", 2)
    ]  # fmt: skip


def test_which_weights_grew_most_is_told_with_the_norm_of_all() -> None:
    grown = family("b", LawVerdict("rounding", ""), scale=[1.0, 1e9])

    def said(**values: list[float]) -> list[str]:
        rows = {k: pd.DataFrame({"step": [1, 2], "value": v}) for k, v in values.items()}
        metrics = {name: rows[key] for name, key in (("loss", "loss"), ("weight norm", "norm")) if key in rows}
        return [s.text for s in diverged(facts(families=[grown], metrics=metrics))]

    alone = "Weights exploded: the size of b grew by a factor of 1×10⁹."
    loss = "The loss exploded: from 1.23 to 12,300 at step 2."
    assert said(loss=[1.234, 12_345.0], norm=[1.0, 9.0]) == [loss, alone]
    assert said(loss=[1.234, 12_345.0], norm=[1.234, 12_345.0]) == [
        loss,
        "The norm of all weights exploded: from 1.2 to 12,000 at step 2; most of all b.",
    ]


def test_an_explosion_begins_beyond_its_limit() -> None:
    assert told(seen("weight norm", 1.0, 1_000.0, 1_100.0))[0][3] == 3


def test_one_loss_has_one_number_in_every_sentence() -> None:
    some = seen("loss", 1.0, 1e9, 746.2)
    (said,) = trained(some)
    assert said.text == "3 steps, loss 1 → 746."
    assert told(some)[0][1].endswith("and came back to 746.")


def test_what_is_lost_at_one_step_is_told_once() -> None:
    rows = {name: pd.DataFrame({"step": [1, 2], "value": [1.0, math.nan]}) for name in ("loss", "weight norm", "mine")}
    rows["gradient norm"] = pd.DataFrame({"step": [1, 2, 3], "value": [1.0, 1.0, math.nan]})
    assert told(facts(3, metrics=rows)) == [
        ("bad", "The loss, the norm of all weights and mine (logged) are not finite from step 2 on.",
         "The loss, the norm of all weights and mine (logged) are not finite from here on.", 2),
        ("mixed", "The norm of the gradient is not finite from step 3 on.",
         "The norm of the gradient is not finite from here on.", 3),
    ]  # fmt: skip


def test_a_number_below_zero_is_told_with_its_sign() -> None:
    ((_, text, _, _),) = told(seen("loss", -1.0, -5_000.0))
    assert text == "The loss exploded: from -1 to -5,000 at step 2."
    ((_, text, _, _),) = told(seen("loss", -1.0, 5_000.0, -0.5))
    assert text == "The loss exploded: from -1 to 5,000 at step 2, and came back to -0.5."


def test_gradients_are_held_against_their_usual_size() -> None:
    assert told(seen("gradient norm", 1e-6, 1.0, 1.0, 999.0)) == []
    ((tone, text, _, _),) = told(seen("gradient norm", 1e-6, 1.0, 1.0, 1_100.0))
    assert (tone, text) == ("mixed", "The norm of the gradient exploded: from 1×10⁻⁶ to 1,100 at step 4.")
    assert told(seen("gradient norm", 5.0, 1.0, 1.0, 4_900.0)) == []
    assert told(seen("weight norm", 1e-6, 1.0, 1.0, 1.0))[0][0] == "bad"


def test_where_a_loss_has_risen() -> None:
    def said(*values: float) -> list[Statement]:
        return [*diverged(seen("loss", *values))]

    low, high = [1.0] * 18, [1.5] * 18
    assert said(*low, *high) == []
    (rose,) = said(*low, *[1.6] * 18)
    assert rose.text == "The loss rose: from 1 to 1.6, medians of the first and of the last tenth."
    assert (rose.key, rose.tone, rose.step) == ("rose", "mixed", None)
    assert rose.do == f"{SLOWER}; or see whether the data or the loss changed"
    (rose,) = said(1.0, 3.0, *[2.0] * 16, 4.0, 6.0)
    assert rose.text.startswith("The loss rose: from 2 to 5, medians")
    (rose,) = said(*[0.1] * 18, *[0.2] * 18)
    assert rose.text.startswith("The loss rose: from 0.1 to 0.2, medians")
    assert [s.key for s in said(*[0.0] * 20, *[5.0] * 20)] == ["rose"]
    lost = said(*low, math.nan, *[1.6] * 18)  # what is no number has no part in it
    assert [s.key for s in lost] == ["not finite", "rose"]
    assert said(*[1.0] * 9, *[1.6] * 10) == []
    assert [s.key for s in said(*[1.0] * 10, *[1.6] * 10)] == ["rose"]
    assert [*diverged(seen("weight norm", *low, *[9.0] * 18))] == []


def lost(name: str, since: int, before: Any, *observed: float) -> FamilyRecord:
    return family(name, LawVerdict("diverged", "", since=since, before=before), observed=list(observed))


def test_charges_that_are_no_numbers() -> None:
    good = family("b", LawVerdict("rounding", ""), observed=[1.0, 1.0])
    one = lost("a", 2, "rounding", 1.0, 1.0, math.nan, math.inf)
    two = lost("c", 3, "close", 1.0, 1.0, 1.0, math.nan)
    end = "NaN or infinite from step 2 on"
    assert told(facts(families=[one, good])) == [
        ("bad", f"1 charge is {end}; until then 1 of 1 law held to rounding.",
         "1 charge is NaN or infinite from here on; until then 1 of 1 law held to rounding.", 2)
    ]  # fmt: skip
    assert told(facts(families=[two, one, good]))[0][1] == (
        f"2 charges are {end}; until then 1 of 2 laws held to rounding."
    )
    found = family("d", LawVerdict("observed", ""), "found")
    assert told(facts(families=[one, two, found]))[0][1].startswith(f"All charges are {end}; until then 1 of 2 laws")
    assert told(facts(families=[replace(one, verdict=replace(one.verdict, before="close"))]))[0][1] == (
        f"All charges are {end}."
    )
    back = lost("a", 2, None, 1.0, 1.0, math.nan, 1.0)
    ((_, text, beside, _),) = told(facts(families=[back, good]))
    assert text == "1 charge is NaN or infinite at step 2, though not for good."
    assert beside == "1 charge is NaN or infinite here, though not for good."
    assert "though not for good" in told(facts(families=[back, one]))[0][1]
    begun = lost("a", 0, None, math.nan, math.nan)
    assert told(facts(families=[begun])) == [
        ("bad", "All charges are NaN or infinite from step 0 on.", "All charges are NaN or infinite from here on.", 0)
    ]
    late = lost("a", 1_000, None, *[1.0] * 1_000, math.nan)
    (said,) = diverged(facts(families=[late, good]))
    assert (said.key, said.text) == ("not finite", "1 charge is NaN or infinite from step 1,000 on.")


def test_weights_that_explode_without_a_loss() -> None:
    def grown(name: str, *scale: float, evidence: Any = "predicted") -> FamilyRecord:
        return family(name, LawVerdict("rounding", ""), evidence, scale=list(scale))

    assert told(facts(families=[grown("a", 1.0, 1e6)])) == []
    (said,) = diverged(facts(families=[grown("a", 1.0, 1.2e6), grown("b", 2.0, 4e7, 1.0), grown("c", 1.0, 1.0)]))
    assert said.text == "Weights exploded: the size of b grew by a factor of 2×10⁷."
    assert (said.key, said.tone, said.step, said.do) == ("exploded", "bad", None, SLOWER)
    norm = {"weight norm": pd.DataFrame({"step": [1, 2], "value": [1.0, 1e4]})}
    (said,) = diverged(facts(families=[grown("a", 1.0, 1e8), grown("b", 1.0, 1e9)], metrics=norm))
    assert said.text == "The norm of all weights exploded: from 1 to 10,000 at step 2; most of all b."
    assert said.short == "The norm of all weights exploded: from 1 to 10,000 at step 2."
    assert told(facts(families=[grown("a", 1e-3, 1e2)])) == []
    assert len(told(facts(families=[grown("a", 1e-6, 1e3)]))) == 1
    assert told(facts(families=[grown("a", 1.0, 1e9, evidence="found")])) == []
    assert told(facts(families=[grown("a", 0.0, math.nan, 1.0, 1e5, math.inf)])) == []
    assert told(facts(families=[grown("a", 0.0, math.nan)])) == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("finished", None),
        ("interrupted", ("interrupted", "none", "The run was interrupted by hand.", 20)),
        ("raised", ("ended", "bad", "The run ended with E: oh.", 20)),
        ("killed", ("ended", "bad", "The process is gone and no end was recorded: it was killed. Last written T.", 20)),
        ("failed", ("ended", "mixed", "Measuring stopped before training did: E: oh.", 20)),
        ("running", ("running", "none", "The run was still going on when this was written. Last written T.", None)),
        ("unknown", ("running", "none", "No end of the run was seen. Last written T.", None)),
    ],
)
def test_how_it_ended(how: Any, said: tuple[str, str, str, int | None] | None) -> None:
    ending = Ending(how, "E: oh", "", "T", math.nan, math.nan)
    some = facts(ending=ending, sessions=[{}, {"process": {"pid": 1}}])
    assert [(s.key, s.tone, s.text, s.step) for s in ended(some)] == ([said] if said else [])
    if how in ("killed", "running"):
        (short,) = ended(facts(ending=replace(ending, last="")))
        assert "Last written" not in short.text


def test_an_end_without_words_and_runs_without_a_process() -> None:
    ending = Ending("raised", "", "", "", math.nan, math.nan)
    (said,) = ended(facts(0, ending=ending))
    assert (said.text, said.step) == ("The run ended with an exception.", None)
    (said,) = ended(facts(0, ending=replace(ending, how="interrupted")))
    assert said.step is None
    unknown = replace(ending, how="unknown")
    assert [*ended(facts(ending=unknown))] == [*ended(facts(ending=unknown, sessions=[{"process": {}}, {}]))] == []


def test_who_is_followed() -> None:
    some = [family(e, LawVerdict("empty", ""), e) for e in ("predicted", "checked", "measured", "found")]
    assert [f.name for f in followed(facts(families=some))] == ["predicted", "checked", "measured"]
