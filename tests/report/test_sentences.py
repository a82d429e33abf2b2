"""Every sentence on faults, laws and limits, from facts that are written down by hand: when it is said, and how."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from neuromech.record import GRADIENT
from neuromech.report.evidence import MEANING, OF_MANY
from neuromech.report.facts import RunFacts
from neuromech.report.family import FamilyRecord
from neuromech.report.faults import FaultRecord
from neuromech.report.judgement import _faults, _laws, _limits, decide
from neuromech.report.on_the_flow import _decay_of_finite_steps
from neuromech.report.timeline import happened
from neuromech.report.verdict import ROTATION, LawVerdict, Status

from .test_outcome import ENDING, facts, family

FAULT = FaultRecord(0, 1_007, 1_007, 1, "c", "likely", "weights were changed", "w", "w changed", "look", ())
NO_MONITOR = "No monitor was on (`probe.monitor()`): causes of faults are not named."


def law(
    name: str, worst: float = 2e-7, status: Status = "rounding", evidence: Any = "predicted", **more: Any
) -> FamilyRecord:
    """A family whose charge moves; `more`: of its verdict."""
    return family(name, LawVerdict(status, "", worst, **more), evidence, observed=[1.0, 2.0, 3.0])


def run(*found: FamilyRecord, n_steps: int = 2, **more: Any) -> RunFacts:
    told = {"meta": {"optimizers": [{"class": "SGD"}]}} if found else {}
    return facts(n_steps, families=list(found), **told | more)


def laws(*found: FamilyRecord, **more: Any) -> list[tuple[str, str, str]]:
    return [(s.key, s.tone, s.text) for s in _laws(run(*found, **more))]


def limits(*found: FamilyRecord, **more: Any) -> list[tuple[str, str]]:
    told = [*_limits(run(*found, **more))]
    assert {s.key for s in told} <= {"limit"}
    return [(s.tone, s.text) for s in told if s.text != NO_MONITOR]


def test_a_fault_with_its_evidence() -> None:
    (said,) = _faults(facts(faults=[FAULT]))
    assert said.text == "Weights were changed (likely), at step 1,007: w changed."
    assert said.short == "Weights were changed (likely), at step 1,007."
    assert said.beside == "Weights were changed (likely): w changed."
    assert (said.key, said.tone, said.step, said.do) == ("fault", "bad", 1_007, "look")
    (said,) = _faults(facts(faults=[replace(FAULT, times=1_234, last=2_000)]))
    again = "seen 1,234 times by step 2,000"
    assert said.text == f"Weights were changed (likely), from step 1,007 on, {again}: w changed."
    assert said.short == "Weights were changed (likely), from step 1,007 on."
    assert said.beside == f"Weights were changed (likely), {again}: w changed."


def test_where_nothing_is_to_be_compared() -> None:
    def nothing(text: str) -> list[tuple[str, str, str]]:
        return [("nothing", "none", text)]

    assert laws() == nothing("Nothing was measured in this run: the model was not seen to compute anything.")
    rows = {"step": [0] * 4, "kind": ["no forward", "nothing measured", "no forward", "note"]}
    events = pd.DataFrame(rows | {"message": ["a.", "b.", "c: d.", "e."]})
    assert laws(events=events) == nothing("Nothing was measured in this run: c: d.")
    assert laws(events=events[:2]) == nothing("Nothing was measured in this run: b.")
    why = "so there is no conservation law to follow."
    assert laws(meta={"symmetries": []}) == nothing(f"No symmetry was found in this model, {why}")
    for n, claims in ((1, "1 claim failed when tried and was"), (2, "2 claims failed when tried and were")):
        some = laws(meta={"symmetries": [], "rejected": [{}] * n})
        assert some == nothing(f"No symmetry was found in this model: {claims} withdrawn, {why}")
    none_yet = "no optimizer step was recorded, so there is nothing to compare yet."
    assert laws(law("a"), n_steps=0) == nothing(f"1 family of symmetries was found; {none_yet}")
    assert laws(law("a"), law("b"), n_steps=0) == nothing(f"2 families of symmetries were found; {none_yet}")


def test_where_nothing_was_followed_or_predicted() -> None:
    found, seen = law("a", status="observed", evidence="found"), law("b", math.nan, "observed")
    assert laws(found) == [("laws", "none", "1 family found, none followed in training.")]
    assert laws(found, found) == [("laws", "none", "2 families found, none followed in training.")]
    assert laws(found, seen) == [("laws", "none", "1 charge was observed; none was predicted.")]
    assert laws(seen, seen) == [("laws", "none", "2 charges were observed; none was predicted.")]
    assert laws(law("c", status="diverged"), seen) == []  # which is told as an outcome
    start = law("d", status="empty")
    only = "Charges were recorded at the start only: no law was held against a step."
    assert laws(start) == [("laws", "none", only)]
    assert laws(start, seen)[0][2] == "2 charges were observed; none was predicted."


def test_laws_that_hold() -> None:
    ahead = "predicted ahead of every step"
    assert laws(law("a"), law("b", 1e-7)) == [("laws", "ok", f"2 laws {ahead} held to rounding (worst 2×10⁻⁷).")]
    assert laws(law("a", evidence="checked")) == [
        ("laws", "ok", "1 law checked against the optimizer's own state held to rounding (worst 2×10⁻⁷).")
    ]
    some = laws(
        law("a"), law("b", 0.001, "close"), law("c", 0.1, "diverged"), law("d", status="found", evidence="found")
    )
    assert some == [("laws", "mixed", f"2 of 3 laws {ahead} held to rounding, but for 1 within 0.001 (worst 0.001).")]
    identity = "only measured: an identity, which holds whatever happens."
    assert laws(law("a", evidence="measured")) == [("laws", "none", f"1 law was {identity}")]
    several = "2 laws were only measured: identities, which hold whatever happens."
    assert laws(*[law("a", evidence="measured")] * 2)[0][2] == several
    three = [law("m", evidence="measured"), law("c", evidence="checked"), law("p")]
    assert [text.split()[2] for _, _, text in laws(*three)] == ["predicted", "checked", "was"]


def test_laws_that_a_coarse_format_lets_hold() -> None:
    coarse = replace(law("a", 0.03, allowed=0.5), dtype="bfloat16")
    little = "off by up to 3 %, within what rounding can do. In this number format that says little."
    assert laws(coarse) == [("laws", "none", f"1 law predicted ahead of every step was {little}")]
    assert laws(coarse, coarse)[0][2] == f"2 laws predicted ahead of every step were {little}"
    ((_, tone, text),) = laws(coarse, law("b"))
    assert tone == "ok"
    assert text.endswith("held to rounding (worst 0.03). Of 1 of them that says little: bfloat16 is too coarse.")
    cut = replace(coarse, verdict=replace(coarse.verdict, where="until step 2 of 9"))
    assert ", within what rounding can do, until step 2 of 9. In this number format" in laws(cut)[0][2]


def test_a_law_with_gaps_was_predicted_ahead_of_the_steps_that_were_recorded() -> None:
    cut = law("a", where="until step 2 of 9")
    assert laws(cut)[0][2] == (
        "1 law predicted ahead of each recorded step held to rounding (worst 2×10⁻⁷), until step 2 of 9."
    )
    assert laws(cut, law("b"))[0][2].endswith("(worst 2×10⁻⁷), 1 of them only until step 2 of 9.")
    checked = law("a", evidence="checked", where="until step 2 of 9")
    assert laws(checked)[0][2].startswith("1 law checked against the optimizer's own state held")


def test_gaps_of_many_kinds_are_summed_up() -> None:
    some = [law("a", where=f"until step {k} of 9") for k in (1, 2, 2, 3, 4, 5)]
    assert laws(law("z"), *some)[0][2].endswith(
        ", 2 of them only until step 2 of 9, 1 of them only until step 1 of 9, 1 of them only until step 3 of 9 and 2 "
        "more not at every step."
    )


def test_broken_laws_and_what_the_monitor_noticed() -> None:
    broken = law("w", 0.25, "broken", since=1_200)
    events = pd.DataFrame({"step": [1], "kind": ["practice"], "message": ["step 1: a penalty."]})
    (said,) = _laws(run(broken))
    assert said.text == "1 of 1 law is broken, from step 1,200 on, by up to 25 %: w."
    assert said.short == "1 of 1 law is broken, from step 1,200 on, by up to 25 %."
    assert said.beside == "1 of 1 law is broken from here on, by up to 25 %: w."
    assert (said.key, said.tone, said.step) == ("broken", "bad", 1_200)
    assert said.do == (
        "look for what moves these weights beside the optimizer, and for penalties that are not in its settings"
    )
    said, held = _laws(run(broken, replace(broken, name="v"), law("h"), events=events))
    noticed = "What the monitor noticed: step 1: a penalty."
    assert said.text == f"2 of 3 laws are broken, from step 1,200 on, by up to 25 %: w and v. {noticed}"
    assert said.short == f"2 of 3 laws are broken, from step 1,200 on, by up to 25 %. {noticed}"
    assert said.beside == f"2 of 3 laws are broken from here on, by up to 25 %: w and v. {noticed}"
    assert held.text == "1 of 3 laws predicted ahead of every step held to rounding (worst 2×10⁻⁷)."


def test_a_law_that_breaks_while_a_run_explodes_is_first_to_be_tried_in_a_steady_run() -> None:
    (said,) = _laws(run(law("w", 0.25, "broken", since=2)), exploded=True)
    assert said.do.startswith("lower the learning rate, or warm it up: gradients that cancel")
    assert said.do.endswith(
        "If one breaks in a steady run too, look for what moves these weights beside the optimizer, and for penalties "
        "that are not in its settings"
    )
    loss = pd.DataFrame({"step": [1, 2, 3], "value": [1.0, 1e5, 1e6]})
    told = {s.key: s.do for s in decide(run(law("w", 0.25, "broken", since=2), metrics={"loss": loss})).statements}
    assert told["broken"] == said.do
    calm = pd.DataFrame({"step": [1, 2, 3], "value": [1.0, 0.9, 0.8]})
    told = {s.key: s.do for s in decide(run(law("w", 0.25, "broken", since=2), metrics={"loss": calm})).statements}
    assert told["broken"].startswith("look for what moves")


def test_of_broken_laws_the_first_step_and_the_largest_distance() -> None:
    both = law("a", 0.5, "broken", since=30), law("b", 0.2, "broken", since=12)
    (said,) = _laws(run(*both))
    assert said.text == "2 of 2 laws are broken, from step 12 on, by up to 50 %: a and b."


def unmoved(name: str = "a", n: int = 3) -> FamilyRecord:
    return family(name, LawVerdict("rounding", "", 0.0, still=True), observed=[1.0] * n)


def test_nothing_moved() -> None:
    (said,) = _laws(run(unmoved()))
    assert (said.key, said.tone, said.step) == ("nothing moved", "bad", 1)
    assert said.text == "Nothing moved: in 2 steps no charge changed by a bit."
    assert said.do == "look whether gradients were zeroed between backward and step, or rounded away"
    assert [s.key for s in _laws(run(unmoved(), law("b")))] == ["laws"]
    assert ("none", "1 charge never moved by a bit: that the law held says little there.") in limits(
        unmoved(), law("b")
    )
    (said,) = _laws(run(unmoved(), unmoved("b", 2), n_steps=9))
    assert said.text == "Nothing moved: in 2 recorded steps no charge changed by a bit."
    assert [s.key for s in _laws(run(unmoved(n=2), n_steps=1))] == ["laws"]


def test_nothing_moved_where_every_gradient_was_zero() -> None:
    for values, zero in (([0.0, 0.0], True), ([0.0, 1.0], False)):
        (said,) = _laws(run(unmoved(), metrics={GRADIENT: pd.DataFrame({"step": [1, 2], "value": values})}))
        assert ("exactly zero" in said.text, "loss depends on the weights" in said.do) == (zero, zero)


def test_a_learning_rate_of_zero_says_so_and_no_law_is_praised() -> None:
    steps = pd.DataFrame({"step": [0, 1, 2], "lr": [0.1, 0.0, 0.0]})
    (said,) = _laws(run(unmoved(), steps=steps))
    assert (said.tone, said.text) == (
        "mixed", "The learning rate was 0 at every step: in 2 steps no charge changed by a bit."
    )  # fmt: skip
    groups = {"optimizers": [{"class": "SGD", "groups": [{"lr": 0.0}, {"lr": 0.1}]}]}  # the table has the first only
    assert [s.tone for s in _laws(run(unmoved(), steps=steps, meta=groups))] == ["bad"]


def test_weights_that_something_else_has_moved() -> None:
    message = "before step 7, w changed otherwise than by an optimizer step (load_state_dict, ...): no law covers that"
    events = pd.DataFrame({"step": [7, 9], "kind": ["changed"] * 2, "message": [message] * 2})
    judged = decide(run(law("a"), events=events))
    (said,) = [s for s in judged.wrong if s.key == "changed"]
    assert said.text == (
        "Before step 7 and 1 more time, w changed otherwise than by an optimizer step (load_state_dict, ...): the laws "
        "start over there, and say nothing of it."
    )
    assert judged.tone == "mixed"
    assert "Before step 7 and 1 more time, weights changed otherwise than by an optimizer step." in judged.headline
    assert [e["step"] for e in happened(run(law("a"), events=events), judged)] == [7, 9]


def test_a_run_that_was_resumed_without_its_state() -> None:
    events = pd.DataFrame({"step": [0], "kind": ["no state"], "message": ["steps count from 0"]})
    judged = decide(run(law("a"), events=events))
    assert judged.tone == "mixed"
    assert "The run was resumed without the state of its probe, and counts its steps from 0 again." in judged.headline


def flow(off: float, moved: float = math.nan, **more: Any) -> list[tuple[str, str]]:
    """`off`: of the flow, at its worst; `moved`: by finite steps; both of a scale of 2."""
    whole = {"observed": [1.0, 2.0, 3.0], "flow": [1.0, 2.0 + off, 3.0], "scale": [1.0, 2.0, 2.0]}
    f = family("a", LawVerdict("rounding", "", 0.0), "measured", **whole)
    terms = pd.DataFrame({"member": [-1, -1, 0], "discretization": [9.0, moved, 7.0]})
    f = replace(f, terms=terms) if not math.isnan(moved) else f
    group = {"weight_decay": more.pop("decay", 0.0), "momentum": more.pop("momentum", 0.0)}
    wrapper = {"class": "EoM", "order": 2, "backend": "hvp"} | more
    steps = pd.DataFrame({"step": [0, 1, 2], "lr": [0.0, 0.3, 0.4]})
    meta = {"optimizers": [{"wrapper": wrapper, "groups": [group]}]}
    return [(s.tone, s.text) for s in _laws(run(f, meta=meta, steps=steps)) if s.key == "laws"]


def test_the_first_gradients_were_not_finite() -> None:
    events = pd.DataFrame({"step": [0, 0], "kind": ["no forward", "nothing measured"], "message": ["all NaN"] * 2})
    facts_ = facts(0, events=events, meta={})
    (said,) = _laws(facts_)
    assert (said.key, said.tone, said.text) == ("not finite", "bad", "Nothing was measured in this run: all NaN.")
    assert [e["text"] for e in happened(facts_, decide(facts_))] == [said.text]


def test_steps_on_the_flow() -> None:
    near = "EoM (order 2, hvp): charges stay within 0.5 % of the gradient flow"
    assert flow(0.01) == [("none", f"{near}.")]
    assert flow(0.01, 0.5) == [("none", f"{near}.")]  # nothing tells how far plain steps are off
    off = "; plain steps would be off by about 25 %, 50 times as far."
    assert flow(-0.01, -0.5, plain=1.0) == [("none", near + off)]
    assert flow(0.01, 0.25, plain=2.0) == [("none", near + off)]
    assert flow(1.0, 0.5, plain=1.0)[0][0] == "mixed"
    assert flow(0.5, 0.5, plain=1.0)[0][0] == "mixed"
    assert flow(0.0, 0.5, plain=1.0) == [("none", "EoM (order 2, hvp): charges stay within 0 of the gradient flow.")]
    assert flow(math.nan) == [("none", near.replace("0.5 %", "0") + ".")]
    # Decay in finite steps: 2 (0.2 / (1 - 0.5))^2 (0.3^2 + 0.4^2) = 0.08, which is more than a tenth of 0.25
    assert flow(0.01, 0.5, plain=1.0, decay=0.2, momentum=0.5) == [("none", f"{near}.")]
    # 2 (0.1 / (1 - 0.5))^2 0.25 = 0.02, which is less
    assert flow(0.01, 0.5, plain=1.0, decay=0.1, momentum=0.5) == [("none", near + off)]
    nowhere = family("a", LawVerdict("rounding", "", 0.0), observed=[1.0, 2.0], flow=[math.nan] * 2)
    (said,) = _laws(run(nowhere, meta={"optimizers": [{"wrapper": {"follow": "flow"}}]}))
    assert (said.key, said.tone, said.text) == (
        "laws",
        "none",
        "EoMOptimizer (order ?, ?): no charge was followed.",
    )
    lost = family("a", LawVerdict("diverged", "", since=1), observed=[1.0, math.nan], flow=[math.nan] * 2)
    (said,) = _laws(run(lost, meta={"optimizers": [{"wrapper": {"follow": "flow"}}]}))
    assert said.text == "EoMOptimizer (order ?, ?): no charge was a number to the end."
    found = family("a", LawVerdict("empty", ""), "found", observed=[])
    (said,) = _laws(run(found, meta={"optimizers": [{"wrapper": {"follow": "flow"}}]}))
    assert said.text == "EoMOptimizer (order ?, ?): no charge was followed."
    steps = pd.DataFrame({"step": [0, 1, 2], "lr": [0.0, 0.3, 0.4]})
    group = {"weight_decay": 0.2, "momentum": 0.5}
    meta = {"optimizers": [{"groups": [{"weight_decay": 0.1}, group]}, {}]}
    assert _decay_of_finite_steps(facts(meta=meta, steps=steps)) == pytest.approx(0.08)
    assert _decay_of_finite_steps(facts(meta=meta)) == 0.0
    cut = replace(nowhere.verdict, where="until step 1 of 9")
    near_by = family("a", cut, observed=[1.0, 2.0], flow=[1.0, 2.0])
    (said,) = _laws(run(near_by, meta={"optimizers": [{"wrapper": {"follow": "flow"}}]}))
    assert said.text.endswith(" of the gradient flow, until step 1 of 9.")


def test_steps_on_the_flow_are_judged_by_the_furthest_charge() -> None:
    def charge(off: float, moved: float | None, name: str) -> FamilyRecord:
        whole = {"observed": [1.0, 2.0, 3.0], "flow": [1.0, 2.0 + off, 3.0], "scale": [2.0] * 3}
        f = family(name, LawVerdict("rounding", "", 0.0), "measured", **whole)
        return f if moved is None else replace(f, terms=pd.DataFrame({"member": [-1], "discretization": [moved]}))

    meta = {"optimizers": [{"wrapper": {"class": "EoM", "order": 1, "backend": "hvp", "plain": 1.0}}]}
    (said,) = _laws(run(charge(0.02, 0.5, "a"), charge(0.0, 0.01, "b"), charge(0.0, None, "c"), meta=meta))
    assert said.text == (
        "EoM (order 1, hvp): charges stay within 1 % of the gradient flow; plain steps would be off by about 25 %, 25 "
        "times as far."
    )
    assert said.tone == "none"


def test_no_limits() -> None:
    assert limits(law("a")) == []
    assert [s.text for s in _limits(run(law("a")))] == [NO_MONITOR]
    assert [s.text for s in _limits(run(law("a"), n_steps=0))] == []
    assert [s.text for s in _limits(run(law("a"), meta={"monitor": {}}))] == []


def test_families_that_were_not_followed() -> None:
    matrix = replace(law("a", status="observed", evidence="found"), kind="matrix")
    scale, odd = replace(matrix, kind="scale"), replace(matrix, kind="other")
    end = "found, not followed in training: nothing is said about how they moved."
    assert limits(matrix) == [("none", f"1 matrix family {end}")]
    assert limits(scale, matrix, odd, matrix) == [("none", f"1 scale family, 2 matrix families and 1 family {end}")]
    assert limits(matrix, n_steps=0) == []
    rotation = replace(matrix, verdict=ROTATION)
    charge = "charge, an angular momentum, cannot be read off the weights, and is not followed."
    assert limits(rotation) == [("none", f"A rotation is among the symmetries (1 family). Its {charge}")]
    told = f"Rotations are among the symmetries (2 families). Their {charge}"
    assert limits(rotation, matrix, rotation) == [("none", told), ("none", f"1 matrix family {end}")]


def test_charges_without_a_prediction_and_what_laws_rest_on() -> None:
    silent = law("a", status="observed")
    assert limits(silent) == [("none", "1 charge was observed without a prediction.")]
    assert limits(silent, silent) == [("none", "2 charges were observed without a prediction.")]
    one, two = law("a", evidence="checked"), law("b", evidence="measured")
    assert limits(two, one, two) == [
        ("none", f"1 law is checked: {MEANING['checked']}."),
        ("none", f"2 laws are measured: {OF_MANY['measured']}."),
    ]
    assert limits(one, n_steps=0) == []


def test_what_is_said_where_the_description_of_a_run_is_lost() -> None:
    lost = replace(law("a", status="close", evidence="unknown"), dtype="")
    assert laws(lost, lost, meta={}) == [("laws", "none", "2 laws were recorded; which optimizer they are of is not.")]
    assert limits(lost, lost, meta={}) == [
        ("none", "The records tell of no optimizer: whether 2 laws could have failed is not known."),
        ("none", "The number format was not recorded: what rounding can do is not known."),
    ]  # nor is whether a monitor was on
    part = decide(run(law("a"), unreadable=("A table.",)))
    assert "A part of the records could not be read. 1 law" in part.headline
    assert next(s.text for s in part.limits) == "A part of the records could not be read. A table."


def test_how_closely_laws_can_hold() -> None:
    coarse = replace(law("a", allowed=0.5, at=1), dtype="float16")
    coarser = replace(law("b", allowed=0.7, at=1_200), dtype="bfloat16")
    assert limits(coarse, coarser, law("c", allowed=0.01, at=3)) == [
        ("none", "In bfloat16 and float16 rounding alone can move a charge by up to 70 % of its size in 1,200 steps: "
                 "that a law holds says little there.")
    ]  # fmt: skip
    end = (
        "less closely than the rounding of the weights explains: gradients that should cancel do so only up to their "
        "own rounding, or something small acts on the weights."
    )
    assert limits(law("a", status="close")) == [("none", f"1 law holds {end}")]
    assert limits(law("a", status="close"), law("b", status="close")) == [("none", f"2 laws hold {end}")]


def test_what_was_not_recorded() -> None:
    end = "only: nothing is said of the other steps."
    assert limits(law("a"), n_steps=9) == [("mixed", f"Charges were recorded until step 2 of 9 {end}")]
    longer = family("b", LawVerdict("rounding", ""), observed=[1.0] * 10)
    assert limits(law("a"), law("c"), longer, n_steps=9) == [
        ("mixed", f"2 of 3 charges were recorded until step 2 of 9 {end}")
    ]
    assert limits(law("a"), longer, n_steps=9) == [("mixed", f"1 of 2 charges was recorded until step 2 of 9 {end}")]
    many_kinds = [replace(longer, whole=longer.whole[: k + 1]) for k in (2, 3, 4, 5, 6, 6)]
    told = limits(*many_kinds, longer, n_steps=9)
    assert [text for _, text in told] == [
        f"2 of 7 charges were recorded until step 6 of 9 {end}",
        f"1 of 7 charges was recorded until step 2 of 9 {end}",
        f"1 of 7 charges was recorded until step 3 of 9 {end}",
        "2 more were not recorded at every step.",
    ]
    assert limits(*many_kinds[:4], n_steps=9)[-1] == ("mixed", "1 more was not recorded at every step.")
    start = replace(longer, whole=longer.whole[:1])
    assert limits(start, n_steps=9) == [("mixed", f"Charges were recorded at the start {end}")]
    late = replace(longer, whole=longer.whole[4:])
    assert limits(late, n_steps=9) == [("none", f"Charges were recorded from step 4 on {end}")]
    assert limits(law("a"), n_steps=9, ending=replace(ENDING, how="running")) == []
    assert limits(law("a"), n_steps=3, meta={"every": 2}) == [
        ("none", "One step in 2 was recorded; predictions advanced at all of them.")
    ]


def test_what_was_measured_in_part() -> None:
    share = {"size": 1_000, "measured": [10, 30]}
    end = (
        "(coverage=0.1): nothing is said of the others, and a law that holds, or is broken, was judged by these alone. "
        "Sums over a family are sums over its measured members."
    )
    assert limits(meta={"symmetries": [share, {"size": 5}], "coverage": 0.1}) == [
        ("none", f"Of 1 family a fixed random run of members was measured, 20 of 1,000 {end}")
    ]
    assert limits(meta={"symmetries": [share, share], "coverage": 0.1}) == [
        ("none", f"Of 2 families a fixed random run of members was measured, 40 of 2,000 {end}")
    ]
    unsized = {"measured": [0, 1]}
    assert "measured, 1 of 1 (" in limits(meta={"symmetries": [unsized], "coverage": 0.1})[0][1]
    assert "(coverage=?)" in limits(meta={"symmetries": [share]})[0][1]
    matrix = {"size": 4, "directions": 4, "of": 1_024}
    end = "entries: a matrix that is changed anywhere changes them, but which entries did is not told."
    along = "charges along fixed random directions were followed, for"
    assert limits(meta={"symmetries": [matrix]}) == [("none", f"Of 1 matrix family 4 {along} 1,024 {end}")]
    assert limits(meta={"symmetries": [matrix, matrix]}) == [("none", f"Of 2 matrix families 8 {along} 2,048 {end}")]


def test_what_could_not_be_read() -> None:
    assert limits(unreadable=("terms: torn", "y" * 500)) == [
        ("mixed", "A part of the records could not be read. terms: torn"),
        ("mixed", f"A part of the records could not be read. {'y' * 400}"),
    ]
    assert limits(interleaved=True) == [
        ("mixed", "Two processes have written this run at the same time: from where the later one began, only what "
                  "that one wrote is shown.")
    ]  # fmt: skip
