"""What was not recorded is not spoken of: every sentence on a run whose records have gaps is about what is there."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from neuromech.record import Record, read
from neuromech.report.comparison import compare_runs
from neuromech.report.facts import gather
from neuromech.report.held import held_at
from neuromech.report.judgement import decide
from neuromech.report.page import render
from neuromech.report.statements import Judgement
from neuromech.report.verdict import judge

from .simulate import train
from .test_judgement import FAULT
from .test_verdict import rows


def kept(record: Record, which: str, **meta: object) -> Record:
    """The same run, finished, of whose charges only those are left that fit the query."""
    out = Record(None, dict(record.meta) | meta)
    for table, some in (("charges", record.frame("charges").query(which)), ("steps", record.frame("steps"))):
        out.append(table, {str(c): some[c] for c in some if c != "session"})
    out.end("finished")
    return out


def judged(record: Record) -> Judgement:
    return decide(gather(record))


@pytest.mark.parametrize(
    ("which", "held", "recorded", "tone"),
    [
        ("step <= 8", ", until step 8 of 20.", "Charges were recorded until step 8 of 20 only", "mixed"),
        ("step == 0 or step > 8", ", from step 9 on.", "Charges were recorded from step 9 on only", "ok"),
        ("8 < step < 15", ", from step 9 to step 14 of 20.", "recorded from step 9 to step 14 of 20 only", "mixed"),
        ("step < 8 or step > 14", ", at 13 of 20 steps.", "Charges were recorded at 13 of 20 steps only", "mixed"),
        (
            "step <= 8 or symmetry > 0",
            ", 1 of them only until step 8 of 20.",
            "1 of 3 charges was recorded until step 8 of 20 only",
            "mixed",
        ),
        (
            "step <= 8 or symmetry > 1 or (symmetry == 1 and step <= 9)",
            ", 1 of them only until step 8 of 20 and 1 of them only until step 9 of 20.",
            "1 of 3 charges was recorded until step 9 of 20 only",
            "mixed",
        ),
    ],
)
def test_laws_are_told_with_the_steps_that_they_were_held_against(
    which: str, held: str, recorded: str, tone: str
) -> None:
    said = judged(kept(train(20), which))
    (law,) = [s for s in said.statements if s.key == "laws"]
    assert law.text.startswith("3 laws predicted ahead of each recorded step held to rounding (worst ")
    assert law.text.endswith(held)
    assert law.text in said.headline
    assert any(recorded in s.text and s.text.endswith("nothing is said of the other steps.") for s in said.limits)
    assert said.tone == tone
    assert not any("every step" in s.text for s in said.statements)


def test_a_graver_finding_does_not_hide_that_charges_end() -> None:
    record = kept(train(20), "step <= 8")
    record.append("faults", FAULT)
    assert "ahead of every step" not in judged(record).headline
    assert "until step 8 of 20" in judged(record).headline


def test_records_with_every_step_that_was_due_have_no_gap() -> None:
    whole = judged(train(20))
    assert "3 laws predicted ahead of every step held to rounding" in whole.headline
    assert not any("recorded" in s.text for s in whole.limits)
    thin = judged(kept(train(22), "step % 4 == 0", every=4))
    assert "predicted ahead of every step held" in thin.headline
    assert not any("nothing is said" in s.text for s in thin.limits)
    torn = judged(kept(train(22), "step % 4 == 0 and step != 12", every=4))
    assert ", at 4 of 22 steps." in torn.headline
    going_on = kept(train(20), "step <= 8")
    del going_on.sessions[-1]["ended"]  # the next rows may come any moment
    assert "until step 8 of 20" in judged(going_on).headline
    assert not any("nothing is said" in s.text for s in judged(going_on).limits)


@pytest.mark.parametrize(
    ("steps", "n", "every", "told"),
    [
        ([1, 2, 3], 3, 1, ""),
        ([1, 2], 3, 1, "until step 2 of 3"),
        ([2, 3], 3, 1, "from step 2 on"),
        ([2], 3, 1, "from step 2 to step 2 of 3"),
        ([1, 3], 3, 1, "at 2 of 3 steps"),
        ([5, 10], 14, 5, ""),
        ([5, 10], 15, 5, "until step 10 of 15"),
        ([6, 11], 14, 5, "from step 6 on"),
        ([5, 11], 14, 5, "at 2 of 14 steps"),
        ([1_000], 2_000, 1_000, "until step 1,000 of 2,000"),
        ([], 1, 1, "at the start"),
        ([], 4, 5, ""),
        ([], 5, 5, "at the start"),
    ],
)
def test_which_steps(steps: list[int], n: int, every: int, told: str) -> None:
    assert held_at(np.array(steps, int), n, every) == told


def test_a_run_of_which_only_the_start_was_recorded() -> None:
    said = judged(kept(train(20), "step == 0"))
    assert "Charges were recorded at the start only: no law was held against a step." in said.headline
    assert said.tone == "mixed"
    assert not any("none was predicted" in s.text for s in said.statements)


def test_that_nothing_moved_is_said_of_the_recorded_steps() -> None:
    record = train(0)
    charges = record.frame("charges").query("member == -1").drop(columns="session")
    for k in range(1, 26):
        record.append("steps", {"step": k, "optimizer": 0, "lr": 0.1, "time": 0.1 * k})
        if k <= 2:
            record.append("charges", {str(c): charges.assign(step=k)[c] for c in charges})
    assert "Nothing moved: in 2 recorded steps no charge changed by a bit." in judged(record).headline
    assert not judged(kept(record, "step <= 1")).has("nothing moved")


def test_a_verdict_says_against_which_steps() -> None:
    frame = rows([0, 1e-17, 1e-17, math.nan, math.nan])
    assert judge(frame, "float64").where == "until step 2 of 4"
    assert judge(frame[:3], "float64").where == ""
    for distance in (0.0, 1e-17, 1e-10, 1.0):
        cut = judge(rows([0, distance, distance]), "float64", n_steps=9)
        assert cut.where == "until step 2 of 9"
        assert cut.text.endswith("; judged until step 2 of 9")
    assert judge(rows([0, 1e-17, 1e-17]), "float64", n_steps=3, every=2).where == ""
    turned = rows([0, 0, 0]).assign(ideal_residual=0.5)
    assert judge(turned, "float64", True, 9).where == "until step 2 of 9"


def test_a_loss_that_was_not_seen_at_every_step() -> None:
    def headline(steps: list[int], values: list[float], **more: object) -> str:
        record = train(20, **more)
        record.append("metrics", {"step": steps, "name": "loss", "value": values})
        return judged(record).headline

    assert headline([1, 20], [1.5, 0.25]).startswith("20 steps, loss 1.5 → 0.25. ")
    assert headline([1, 19], [1.5, 0.25]).startswith("20 steps, loss 1.5 → 0.25 (step 19). ")
    assert headline([5, 20], [1.5, 0.25]).startswith("20 steps, loss 1.5 (step 5) → 0.25. ")
    assert headline([5, 20], [1.5, 0.25], every=5).startswith("20 steps, loss 1.5 → 0.25. ")
    assert headline([1], [1.5]).startswith("20 steps, loss 1.5. ")
    assert headline([7], [math.nan]).startswith("20 steps, loss not a number (step 7). ")


def test_a_step_that_is_told_is_counted() -> None:
    """A fault goes to the disk at once, the steps before it a little later."""
    record = train(20)
    record.append("faults", FAULT | {"step": 40, "last": 46})
    said = judged(record)
    assert said.headline.startswith("45 steps. ")  # the one of the fault may have been stopped
    assert "until step 20 of 45" in said.headline


def test_what_a_coarse_format_allows_belongs_to_its_step() -> None:
    facts = gather(train(20))
    few = [
        replace(f, dtype="bfloat16", verdict=replace(f.verdict, allowed=allowed, at=at))
        for f, allowed, at in zip(facts.families, (0.2, 0.7, 0.1), (3, 12, 20), strict=True)
    ]
    (text,) = [s.text for s in decide(replace(facts, families=few)).limits if "rounding alone" in s.text]
    assert "by up to 70 % of its size in 12 steps" in text


def test_runs_are_compared_until_the_last_step_of_both() -> None:
    long, short = train(20), kept(train(20), "step <= 8")
    assert "no charge parts by more than rounding explains until step 8, the last of both" in str(
        compare_runs({"a": long, "b": short})
    )
    late = kept(train(20), "step > 8")
    assert "short and late: no step was recorded in both" in str(compare_runs({"short": short, "late": late}))


def test_what_is_lost_in_both_runs_does_not_part_them() -> None:
    def lost(step: int, model: nn.Module) -> None:
        if step == 10:
            with torch.no_grad():
                model[2].bias.fill_(math.nan)

    run = train(20, meddle=lost)
    assert "no charge parts by more than rounding explains until step 20" in str(compare_runs({"a": run, "b": run}))
    said = str(compare_runs({"a": run, "b": train(20)}))
    assert "a and b part at step" in said
    assert said.endswith("is NaN or infinite in one of them")


def test_a_run_that_is_let_go_of_is_told_alike(tmp_path: Path) -> None:
    """Tables that are taken apart one by one, and not kept, say what they said, and are read again when asked for."""
    recorded = train(30, path=tmp_path)
    moved = {"discretization": 0.1, "rounding": 1.0}  # as an older run has it, whose rounding is no rounding
    for symmetry in range(3):
        recorded.append("terms", {"step": range(31), "symmetry": symmetry, "member": -1, **moved})
    recorded.end("finished")
    kept, spared = read(tmp_path), read(tmp_path)
    one, other = gather(kept), gather(spared, keep=False)
    assert decide(one) == decide(other)
    for f, g in zip(one.families, other.families, strict=True):
        pd.testing.assert_frame_equal(f.whole, g.whole)
        pd.testing.assert_frame_equal(f.terms, g.terms)
        assert (f.terms["unexplained"] > 0.9).all()
    pd.testing.assert_frame_equal(kept.frame("charges"), spared.frame("charges"))
    assert render(read(tmp_path)) == render(read(tmp_path), keep=False)
