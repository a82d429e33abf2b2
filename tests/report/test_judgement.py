"""What is said of a run: each kind as what it was, and no two sentences that cannot both be true."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import neuromech
from neuromech.record import Record
from neuromech.report import render
from neuromech.report.facts import RunFacts, gather
from neuromech.report.judgement import _broken, _limits, decide
from neuromech.report.statements import Judgement
from neuromech.report.words import share
from tests.families import fast

from .simulate import FAMILIES, meta, train

FAULT = {
    "fault": 0, "step": 7, "last": 7, "times": 1, "rank": 1, "cause": "edited weights", "strength": "likely",
    "title": "weights were changed outside of the optimizer's step", "parameters": "2.weight",
    "evidence": "2.weight changed", "advice": "look for code that writes to parameters",
}  # fmt: skip
NAMES = [g for s in FAMILIES for g in s.parameters]


def judged(record: Record) -> Judgement:
    return decide(gather(record))


def touching(step: int, name: str, by: float) -> Callable[[int, nn.Module], None]:
    def meddle(k: int, model: nn.Module) -> None:
        if k == step:
            with torch.no_grad():
                model.get_parameter(name).add_(by)

    return meddle


def with_loss(record: Record, *values: float) -> Record:
    record.append("metrics", {"step": range(1, len(values) + 1), "name": "loss", "value": values})
    return record


def optimizers(law: str, **more: object) -> dict[str, object]:
    group = {"lr": 0.1, "parameters": 4}
    return {"optimizers": [{"class": "Mine", "law": law, "groups": [group], **more}]}


def test_laws_that_hold_are_told_with_what_that_rests_on() -> None:
    said = judged(with_loss(train(54), 1.5, 0.25))
    assert said.tone == "ok"
    assert said.headline.startswith(
        "54 steps, loss 1.5 → 0.25 (step 2). 3 laws predicted ahead of every step held to rounding ("
    )
    said = judged(train(54, **optimizers("rebuilt")))
    assert said.tone == "ok"
    assert "3 laws checked against the optimizer's own state held to rounding" in said.headline
    said = judged(train(54, **optimizers("measured")))
    assert said.tone == "none"
    assert "3 laws were only measured: identities, which hold whatever happens." in said.headline


def test_laws_of_both_kinds_are_told_apart() -> None:
    record = train(20)
    record.meta["symmetries"][0]["broken_by"] = ["eps = 1e-05 of bn1"]
    said = judged(record)
    assert said.tone == "ok"
    assert "2 laws predicted" in said.headline
    assert "1 law was only measured" in said.headline
    told = [s.text for s in said.limits]
    assert [t for t in told if "an identity" in t and t.startswith("1 law is measured: ")]
    assert not any("predicted" in t or "checked" in t for t in told)
    told = [s.text for s in judged(train(5, **optimizers("measured"))).limits]
    assert [t for t in told if t.startswith("3 laws are measured: ")]
    assert not any("measured" in s.text for s in judged(train(0, **optimizers("measured"))).limits)


def test_some_laws_hold_less_closely() -> None:
    said = judged(train(54, meddle=touching(10, "2.bias", 1e-11)))
    assert said.tone == "mixed"
    assert "held to rounding, but for 1 within" in said.headline
    assert any(s.text.startswith("1 law holds less closely than the rounding") for s in said.limits)
    assert not any("less closely" in s.text for s in judged(train(54)).limits)
    both = judged(train(54, meddle=touching(10, "2.weight", 1e-11)))
    assert any(s.text.startswith("2 laws hold less closely") for s in both.limits)


def test_a_law_breaks() -> None:
    said = judged(train(54, meddle=touching(10, "2.weight", 0.1)))
    assert said.tone == "bad"
    assert "2 of 3 laws are broken, from step 10 on, by up to" in said.headline
    assert [s.step for s in said.wrong] == [10]
    assert not re.search(r"\d more", said.wrong[0].text)


def test_of_many_broken_laws_five_are_named() -> None:
    found = gather(train(54, meddle=touching(10, "2.weight", 0.1))).families
    family = next(f for f in found if f.verdict.status == "broken")
    (said,) = _broken([replace(family, name=f"w{i}") for i in range(7)], 9, "", False)
    assert "7 of 9 laws are broken" in said.text
    assert ": w0, w1, w2, w3, w4 and 2 more." in said.text


def test_of_broken_laws_the_first_step_and_the_largest_distance_are_told() -> None:
    found = gather(train(54, meddle=touching(10, "2.weight", 0.1))).families
    family = next(f for f in found if f.verdict.status == "broken")
    both = [
        replace(family, name=name, verdict=replace(family.verdict, since=since, worst=worst))
        for name, since, worst in (("a", 30, 0.5), ("b", 12, 0.2))
    ]
    for some in (both, both[::-1]):
        (said,) = _broken(some, 3, "", False)
        assert said.text.startswith(f"2 of 3 laws are broken, from step 12 on, by up to {share(0.5)}: ")
        assert said.step == 12
    (said,) = _broken([replace(family, name=f"w{i}") for i in range(5)], 9, "", False)
    assert "more" not in said.text


def test_limits_say_how_coarse_how_seldom_and_what_was_not_read() -> None:
    facts = gather(train(20))
    said = [s.text for s in _limits(facts)]
    assert not [t for t in said if "One step in" in t or "could not be read" in t or "rounding alone" in t]
    coarse = [
        replace(f, dtype=dtype, verdict=replace(f.verdict, allowed=allowed))
        for f, dtype, allowed in zip(facts.families, ("float16", "bfloat16"), (0.1, 0.7), strict=False)
    ]
    facts = replace(facts, families=coarse, meta={**facts.meta, "every": 3}, unreadable=["terms: torn"])
    said = [s.text for s in _limits(facts)]
    assert "One step in 3 was recorded; predictions advanced at all of them." in said
    assert "A part of the records could not be read. terms: torn" in said
    (text,) = [t for t in said if "rounding alone" in t]
    assert text.startswith("In bfloat16 and float16 ")
    assert f"by up to {share(0.7)} of its size" in text


def test_a_practice_that_breaks_laws_is_named_beside_them() -> None:
    record = train(54, meddle=touching(10, "2.weight", 0.1))
    record.append("events", {"step": 2, "kind": "practice", "message": "step 2: the loss has an L2 term"})
    said = judged(record)
    assert "by up to" in said.headline
    assert "What the monitor noticed: step 2: the loss has an L2 term." in said.headline


def test_a_symmetry_that_gradients_do_not_respect_is_broken_though_its_books_balance() -> None:
    """The law of a translation reads the torque: what the reading hides, the ideal law shows."""
    record = train(20)
    charges = record.frame("charges")
    charges.loc[charges["symmetry"] == 1, "ideal_residual"] = 0.1
    broken = Record(None, record.meta)
    broken.append("charges", {str(c): charges[c] for c in charges if c != "session"})
    said = judged(broken)
    assert said.tone == "bad"
    assert "1 of 3 laws is broken" in said.headline


def test_a_run_that_diverges() -> None:
    said = judged(with_loss(train(12, meddle=touching(7, "0.weight", math.nan)), 1.0, math.nan))
    assert said.tone == "bad"
    assert "loss 1 → not a number" in said.headline
    assert "The loss is not finite from step 2 on." in said.headline
    assert any(s.text.startswith("All charges are NaN or infinite from step 7 on") for s in said.wrong)
    said = judged(train(12, meddle=touching(7, "0.weight", math.nan)))
    assert "until then 3 of 3 laws held to rounding" in said.headline


def test_laws_whose_charge_was_lost_are_counted_among_all() -> None:
    record = train(12)
    charges = record.frame("charges")
    charges.loc[(charges["step"] >= 7) & (charges["symmetry"] == 1), "observed"] = math.nan
    lost = Record(None, record.meta)
    lost.append("charges", {str(c): charges[c] for c in charges if c != "session"})
    assert "2 of 3 laws predicted ahead of every step held to rounding" in judged(lost).headline


def test_an_explosion_is_told_though_every_law_holds() -> None:
    said = judged(with_loss(train(20), 1.6, 1e17))
    assert said.tone == "bad"
    assert "The loss exploded: from 1.6 to 1×10¹⁷ at step 2." in said.headline
    said = judged(with_loss(train(20), 1.6, 1e17, 1.2))
    assert said.tone == "mixed"
    assert "and came back to 1.2" in said.headline


def test_a_loss_that_ends_higher_than_it_began_earns_no_green() -> None:
    """Whatever the laws do; a batch that is harder than others is no trend."""
    said = judged(with_loss(train(40), *(1.6 + k for k in range(40))))
    assert said.tone == "mixed"
    assert "The loss rose: from 3.1 to 39.1, medians of the first and of the last tenth." in said.headline
    assert "lower the learning rate" in said.wrong[0].do
    assert judged(with_loss(train(40), *([1.6] * 39), 3.0)).tone == "ok"
    assert judged(with_loss(train(40), *([1.6] * 20 + [2.3] * 20))).tone == "ok"
    assert judged(with_loss(train(40), *([1.6] * 20 + [2.5] * 20))).has("rose")
    assert not judged(with_loss(train(19), *(1.6 + k for k in range(19)))).has("rose")
    assert judged(with_loss(train(20), *(1.6 + k for k in range(20)))).has("rose")
    assert judged(with_loss(train(40), *(-3.0 + k / 10 for k in range(40)))).has("rose")
    blown = judged(with_loss(train(40), *([1.6] * 20 + [1e9] * 20)))
    assert blown.has("exploded")
    assert not blown.has("rose")


def test_what_comes_back_is_not_told_as_lasting() -> None:
    said = judged(with_loss(train(20), 1.6, math.nan, 1.2))
    assert "The loss is not finite at step 2." in said.headline
    said = judged(with_loss(train(20), 1.6, math.nan, 1.2, math.inf, 1.1))
    assert "The loss is not finite at step 2 and 1 other." in said.headline
    record = train(20)
    charges = record.frame("charges")
    charges.loc[charges["step"] == 7, "observed"] = math.nan
    healed = Record(None, record.meta)
    healed.append("charges", {str(c): charges[c] for c in charges if c != "session"})
    assert any("NaN or infinite at step 7, though not for good" in s.text for s in judged(healed).wrong)


def with_norms(record: Record, name: str, *values: float) -> Record:
    record.append("metrics", {"step": range(1, len(values) + 1), "name": name, "value": values})
    return record


def test_norms_that_explode() -> None:
    said = judged(with_norms(train(20), "weight norm", 3.0, 5.0, 6e3))
    assert said.tone == "bad"
    assert "The norm of all weights exploded: from 3 to 6,000 at step 3." in said.headline
    said = judged(with_norms(train(20), "weight norm", 3.0, math.inf))
    assert said.tone == "bad"
    said = judged(with_norms(train(20), "gradient norm", 0.5, 0.4, 0.6, 0.5, 900.0))
    assert said.tone == "mixed"
    assert "The norm of the gradient exploded: from 0.5 to 900 at step 5." in said.headline
    rising = judged(with_norms(train(20), "gradient norm", 1e-6, 0.4, 0.6, 0.5))  # from zeros that were put there
    assert rising.tone == "ok"
    assert judged(with_norms(train(20), "gradient norm", 1.0, math.inf, 1.0)).tone == "mixed"  # a scaler skips those
    assert judged(with_norms(train(20), "my number", 1.0, 1e9)).tone == "ok"  # whatever that may be


def test_the_headline_tells_what_came_of_it_and_why() -> None:
    record = with_loss(train(54, meddle=touching(10, "2.weight", 0.1)), 1.6, 1e17)
    record.append("faults", FAULT)
    record.end("raised", "ValueError: oh no")
    headline = judged(record).headline
    order = [headline.index(x) for x in ("54 steps", "The loss exploded", "Weights were changed outside", "of 3 laws")]
    assert order == sorted(order)
    assert "oh no" not in headline
    assert "And 2 more findings." in headline


def test_interrupted_by_hand_is_no_failure() -> None:
    record = train(5)
    record.end("raised", "KeyboardInterrupt")
    said = judged(record)
    assert said.tone == "ok"
    assert said.has("interrupted")
    assert "The run was interrupted by hand." in render(record)


def test_nothing_moved_is_no_success() -> None:
    record = train(0)
    charges = record.frame("charges").query("member == -1").drop(columns="session")
    for k in range(1, 26):
        rows = charges.assign(step=k)
        record.append("charges", {str(c): rows[c] for c in rows})
        record.append("steps", {"step": k, "optimizer": 0, "lr": 0.1, "time": 0.1 * k})
    said = judged(record)
    assert said.tone == "bad"
    assert "Nothing moved: in 25 steps no charge changed by a bit." in said.headline
    assert not said.has("laws")


def test_how_a_run_ended() -> None:
    record = train(5)
    assert judged(record).has("running")
    record.end("raised", "ValueError: oh no")
    said = judged(record)
    assert said.tone == "bad"
    assert "The run ended with ValueError: oh no." in said.headline
    record = train(5)
    record.end("finished")
    assert not judged(record).has("running")
    assert not judged(record).has("ended")


def test_a_fault_names_its_cause_in_the_headline() -> None:
    record = train(20)
    record.append("faults", FAULT)
    said = judged(record)
    assert said.tone == "bad"
    assert "Weights were changed outside of the optimizer's step (likely), at step 7." in said.headline
    assert said.wrong[0].do == "look for code that writes to parameters"


def test_families_that_nothing_follows_are_not_called_observed() -> None:
    record = train(5)
    known = [dict(s) for s in record.meta["symmetries"]] + [
        {"kind": "matrix", "size": 4, "name": "0.weight @ 2.weight"}
    ]
    record.sessions[-1]["meta"]["symmetries"] = known
    said = judged(record)
    assert said.tone == "ok"
    assert any(s.text.startswith("1 matrix family found, not followed in training") for s in said.limits)
    assert not any("observed without" in s.text for s in said.statements)


def test_charges_without_a_prediction() -> None:
    said = judged(train(5, adam=True))
    assert said.tone == "none"
    assert "3 charges were observed; none was predicted." in said.headline


def test_steps_on_a_flow_are_told_as_such() -> None:
    wrapper = {"class": "EoMOptimizer", "order": 1, "follow": "flow", "backend": "hvp"}
    said = judged(train(5, **optimizers("measured", wrapper=wrapper)))
    assert "EoMOptimizer (order 1, hvp): charges stay within" in said.headline


def off_the_flow(momentum: float, on_flow: bool, weight_decay: float = 0.0) -> tuple[neuromech.Probe, float]:
    """A real run of 20 steps, and how far its charges end from the flow of the loss, worked out from the weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x, y = torch.randn(32, 4, dtype=torch.float64), torch.randint(0, 3, (32,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=momentum, weight_decay=weight_decay)
    stepper = neuromech.EoMOptimizer(optimizer, order=1) if on_flow else optimizer

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        if not on_flow:
            loss.backward()
        return loss

    def charge() -> float:
        first, bias, last = (model.get_parameter(n).detach() for n in ("0.weight", "0.bias", "2.weight"))
        return float(first.square().sum() + bias.square().sum() - last.square().sum())

    before = charge() * math.exp(-2 * weight_decay * 20 * 0.02 / (1 - momentum))
    with neuromech.instrument(model) as probe:
        for _ in range(20):
            stepper.step(closure)
    return probe, abs(charge() - before)


@pytest.mark.parametrize(
    ("momentum", "weight_decay"), fast([(0.0, 0.0), (0.5, 0.0), (0.5, 1e-3), (0.0, 0.05)], [(0.0, 0.0), (0.5, 1e-3)])
)
def test_how_much_closer_steps_lie_to_the_flow_is_what_plain_steps_show(momentum: float, weight_decay: float) -> None:
    probe, near = off_the_flow(momentum, True, weight_decay)
    _, far = off_the_flow(momentum, False, weight_decay)
    rows = probe.history.query("member < 0 and step == 20 and name.str.contains('0.weight')", engine="python")
    assert float((rows["flow"] - rows["observed"]).abs().iloc[0]) == pytest.approx(near, rel=1e-3)
    said = decide(gather(probe._record))
    assert said.tone == "none"
    assert re.search(r"charges stay within \S+(?: %)? of the gradient flow", said.headline)
    times = re.search(r"plain steps would be off by about \S+(?: %)?, (\S+) times as far", said.headline)
    if weight_decay > 0.01:
        assert times is None  # decay in finite steps is as far off, the other way
    else:
        assert float(times[1].replace(",", "")) == pytest.approx(far / near, rel=0.2), said.headline


def test_nothing_to_tell() -> None:
    empty = Record(None, {})
    said = judged(empty)
    assert (said.tone, said.headline) == (
        "none", "Nothing was measured in this run: the model was not seen to compute anything."
    )  # fmt: skip
    empty.append("events", {"step": 0, "kind": "no forward", "message": "no forward has been seen: call the model."})
    assert judged(empty).headline == "Nothing was measured in this run: no forward has been seen: call the model."
    assert judged(Record(None, meta() | {"symmetries": []})).headline.startswith("No symmetry was found in this model")
    for record in (Record(None, meta()), train(0)):
        said = judged(record)
        assert said.tone == "none"
        assert said.headline == (
            "3 families of symmetries were found; no optimizer step was recorded, so there is nothing to compare yet."
        )


@pytest.mark.parametrize("key", list(meta()))
def test_any_key_of_the_meta_may_be_missing(key: str) -> None:
    record = train(3)
    del record.sessions[-1]["meta"][key]
    assert judged(record).headline.startswith("3 steps")
    assert render(record)


def test_a_number_format_that_is_too_coarse_earns_no_green() -> None:
    said = judged(train(60, torch.bfloat16))
    assert said.tone == "none"
    assert re.search(
        r"3 laws predicted ahead of every step were off by up to [\d.]+ %, within what rounding", said.headline
    )
    assert "In this number format that says little." in said.headline
    assert "held to rounding" not in said.headline
    assert "broken" not in said.headline
    assert any(s.text.startswith("In bfloat16 rounding alone can move a charge by up to ") for s in said.limits)


def test_formats_are_told_apart() -> None:
    """Two families in single precision, one in bfloat16: what says little does not speak for the others."""
    record = train(60, torch.float32)
    record.meta["symmetries"][1]["dtype"] = "bfloat16"
    said = judged(record)
    assert said.tone == "ok"
    assert "3 laws predicted ahead of every step held to rounding" in said.headline
    assert "Of 1 of them that says little: bfloat16 is too coarse." in said.headline
    assert sum(s.text.startswith("In bfloat16 rounding alone") for s in said.limits) == 1
    assert "says little" not in judged(train(60, torch.float32)).headline


# -- a hundred runs of every kind, and what must follow from what

GOOD = re.compile(r"\bheld to rounding|No fault|Nothing out of the ordinary")


def a_run(seed: int) -> tuple[RunFacts, dict[str, Any]]:
    """A run with troubles drawn at random, and which they are."""
    rng = random.Random(seed)
    steps = rng.choice([0, 1, 2, 30, 30, 30])
    trouble = {
        "broken": steps > 20 and rng.random() < 0.3,
        "nan": steps > 20 and rng.random() < 0.2,
        "fault": steps > 1 and rng.random() < 0.3,
        "loss nan": steps > 1 and rng.random() < 0.2,
        "exploded": steps > 1 and rng.random() < 0.2,
        "raised": rng.random() < 0.2,
        "law": rng.choice(["exact", "rebuilt", "measured"]),
        "monitored": rng.random() < 0.5,
        "late": rng.random() < 0.3,
        "steps": steps,
    }

    def meddle(k: int, model: nn.Module) -> None:
        with torch.no_grad():
            if trouble["broken"] and k == 10:
                model[2].weight[0, 0] += 0.5
            if trouble["nan"] and k == 15:
                model[0].weight.fill_(math.nan)

    record = train(steps, meddle=meddle, **optimizers(trouble["law"]))
    if trouble["fault"]:
        record.append("faults", FAULT | {"step": min(7, steps), "last": min(7, steps)})
    if trouble["monitored"] or trouble["fault"]:
        record.update_meta({"monitor": {}, "unwatched": 1 if trouble["late"] else 0})
    if steps > 1:
        last = math.nan if trouble["loss nan"] else 1e9 if trouble["exploded"] else 0.1
        with_loss(record, *([1.0] * (steps - 1)), last)
    record.end("raised" if trouble["raised"] else "finished", "ValueError: oh" if trouble["raised"] else "")
    return gather(record), trouble


@pytest.mark.parametrize("seed", fast(range(100), range(0, 100, 3)))
def test_what_is_said_follows_from_what_happened(seed: int) -> None:
    facts, trouble = a_run(seed)
    said = decide(facts)
    headline, text = said.headline, " ".join(s.text for s in said.statements)
    bad = [k for k in ("broken", "nan", "fault", "loss nan", "exploded", "raised") if trouble[k]]
    assert (said.tone == "bad") == bool(bad), (bad, headline)
    assert bool([s for s in said.wrong if s.tone == "bad"]) == bool(bad)
    if bad:
        assert any((s.short or s.text) in headline for s in said.wrong)
    else:
        assert not said.wrong
    if trouble["broken"]:
        assert said.has("broken") or trouble["nan"]
        assert not re.search(r"(?<!of )3 laws (predicted|checked)", text)
    if trouble["steps"] == 0:
        assert not said.has("laws")
        assert not GOOD.search(text)
        assert said.tone in ("none", "bad")
        assert not headline.startswith("0 steps")
    if trouble["law"] == "measured":
        assert "predicted ahead" not in text
        assert said.tone != "ok"
    if said.tone == "ok":
        assert {s.tone for s in said.statements} <= {"ok", "none"}
        assert trouble["law"] in ("exact", "rebuilt")
    if trouble["loss nan"]:
        assert "not a number" in headline
        assert said.has("not finite")
    if trouble["fault"]:
        assert "Weights were changed outside" in text
    if not (trouble["monitored"] or trouble["fault"]) and trouble["steps"]:
        assert "No monitor was on" in text
    late = trouble["late"] and (trouble["monitored"] or trouble["fault"]) and trouble["steps"]
    assert ("The monitor was turned on after step 1" in text) == bool(late)
    assert len(said.statements) == len({s.text for s in said.statements})
    for s in said.wrong:  # where a timeline has the step, it is not said again
        assert f"step {s.step}" not in (s.beside or s.text)
        assert f"step {s.step}" in s.text or s.key in ("ended", "nothing moved")


@pytest.mark.parametrize("seed", range(0, 100, 9))
def test_the_page_says_what_was_decided_and_nothing_else(seed: int) -> None:
    facts, trouble = a_run(seed)
    said = decide(facts)
    record = Record(None, dict(facts.meta))
    record.end("raised" if trouble["raised"] else "finished", "ValueError: oh" if trouble["raised"] else "")
    assert f'tone-{decide(gather(record)).tone}"' in render(record)
    assert said.tone in ("bad", "mixed", "none", "ok")
