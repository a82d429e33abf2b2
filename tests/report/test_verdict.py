"""Verdicts: the bound is above what rounding does and not far above, and each way to fail is told apart."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neuromech.report.family import COLUMNS, families
from neuromech.report.held import held_at
from neuromech.report.verdict import LAWS, UNFOLLOWED, LawVerdict, distances, judge
from neuromech.report.words import number
from neuromech.rounding import CONFIDENCE, EPS64, eps_of, rounding_bound

from .simulate import train


def rows(distance: list[float], scale: list[float] | float = 1.0) -> pd.DataFrame:
    """A family whose observed charge is off the exact law by `distance` times its scale, from step 0 on."""
    n = len(distance)
    frame = pd.DataFrame({"step": range(n), "scale": scale})
    frame["observed"] = frame["scale"] * 0.5
    for law in LAWS:
        frame[law] = frame["observed"] + np.array(distance) * frame["scale"]
    return frame.assign(**{c: np.nan for c in COLUMNS if c not in frame}).assign(residual=distance)


def test_the_bound_is_that_of_a_random_walk() -> None:
    """Independent oracle: walks whose every step is a full rounding error, the worst that Hoeffding allows."""
    rng = np.random.default_rng(0)
    k = np.arange(1, 1001)
    walks = np.cumsum(rng.choice([-1.0, 1.0], size=(4000, 1000)), axis=1)
    bound = rounding_bound(k, 1.0)
    assert (np.abs(walks) <= bound).all()
    assert (np.abs(walks) <= bound / 2).mean() > 0.99
    assert (np.abs(walks).max() / bound[-1]) > 0.3  # not so wide that nothing could exceed it
    assert 2 * math.exp(-(CONFIDENCE**2) / 2) < 1e-13
    assert np.polyfit(np.log(k + 1), np.log(bound), 1)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_real_training_holds_to_rounding_and_uses_much_of_the_bound(dtype: torch.dtype) -> None:
    record = train(300, dtype)
    for f in families(record.meta, record.frame("charges")):
        assert f.verdict.status == "rounding", f.verdict
        assert f.verdict.allowed / 1000 < f.verdict.worst
        assert f.verdict.text.startswith("holds to rounding: never off by more than")


@pytest.mark.parametrize(
    ("dtype", "nudge", "status"),
    [
        (torch.float32, 1e-1, "broken"),
        (torch.float32, 1e-4, "close"),
        (torch.float64, 1e-4, "broken"),
        (torch.float64, 1e-10, "close"),
        (torch.float64, 1e-16, "rounding"),
    ],
)
def test_weights_touched_behind_the_optimizer_are_noticed_at_that_step(
    dtype: torch.dtype, nudge: float, status: str
) -> None:
    def meddle(k: int, model: nn.Module) -> None:
        if k == 23:
            with torch.no_grad():
                model[0].weight[2] *= 1 + nudge

    record = train(40, dtype, meddle=meddle)
    verdicts = [f.verdict for f in families(record.meta, record.frame("charges"))]
    assert verdicts[0].status == status
    assert [v.status for v in verdicts[1:]] == ["rounding", "rounding"]
    if status == "broken":
        assert verdicts[0].since == 23
        assert "broken from step 23: observed departs from the law by" in verdicts[0].text
    if status == "close":
        assert verdicts[0].at is not None
        assert verdicts[0].at >= 23
        assert verdicts[0].worst > verdicts[0].allowed


def test_half_of_the_digits_divide_close_from_broken() -> None:
    half = math.sqrt(EPS64)
    assert judge(rows([0, 0, 0.99 * half]), "float64").status == "close"
    broken = judge(rows([0, 1e-12, 1.01 * half, 0]), "float64")
    assert (broken.status, broken.since, broken.at) == ("broken", 1, 2)


def test_rounding_stays_when_the_charge_decays() -> None:
    """A constant residue of a charge that decays a thousandfold: relative to the charge as it is now, it grows."""
    decay = np.exp(-np.arange(400) / 60)
    residue = np.full(400, 3e-7)
    assert judge(rows(list(residue / decay), list(decay)), "float32").status == "rounding"
    assert judge(rows(list(residue / decay), list(decay)), "float32").worst == pytest.approx(3e-7)


@given(st.floats(1e-200, 1e200))
def test_units_do_not_matter(unit: float) -> None:
    frame = rows([0, 1e-9, 3e-9], [1.0, 0.5, 2.0])
    scaled = frame.assign(**{c: frame[c] * unit for c in ("observed", "scale", *LAWS)})
    assert judge(scaled, "float32").status == judge(frame, "float32").status
    assert judge(scaled, "float32").worst == pytest.approx(judge(frame, "float32").worst)


def test_residuals_that_were_not_recorded_come_from_the_charges() -> None:
    frame = rows([0, 1e-9, 4e-9], [1.0, 2.0, 0.5])
    without = frame.assign(residual=np.nan)
    np.testing.assert_allclose(distances(without)["exact"], [0, 1e-9, 4e-9 * 0.25], atol=1e-16)
    np.testing.assert_allclose(distances(frame)["exact"], distances(without)["exact"], atol=1e-16)


def test_a_charge_of_nothing() -> None:
    nothing = rows([0, 0, 0], 0.0)
    assert judge(nothing, "float32").text == "never moved, as its law says"
    assert judge(nothing.assign(residual=np.nan, observed=[0, 0, 1.0]), "float32").status == "broken"


def test_no_longer_a_number() -> None:
    frame = rows([0, 1e-17, 1e-17, math.nan, math.nan])
    frame.loc[3:, "observed"] = [math.inf, math.nan]
    verdict = judge(frame, "float64")
    assert (verdict.status, verdict.since) == ("diverged", 3)
    assert verdict.text.startswith("not a number any more from step 3 on; until then it held to rounding")
    at_once = judge(frame.assign(observed=math.nan), "float64")
    assert (at_once.status, at_once.since, at_once.text) == ("diverged", 0, "not a number any more from step 0 on")


def test_predictions_that_stop_or_never_come() -> None:
    frame = rows([0, 1e-17, 1e-17, math.nan, math.nan])
    assert judge(frame, "float64").text.endswith("; judged until step 2 of 4")
    assert judge(rows([math.nan] * 3), "float64").status == "observed"
    assert judge(rows([0]), "float64").status == "empty"
    assert judge(rows([]), "float64").status == "empty"


def test_a_law_that_exceeds_the_bound_early_and_keeps_within_it_later() -> None:
    late = float(rounding_bound(np.array([100]), EPS64)[0])
    off = [0.0, 0.9 * late] + [0.0] * 98 + [0.95 * late]
    verdict = judge(rows(off), "float64")
    assert (verdict.status, verdict.at) == ("close", 1)
    assert verdict.worst == pytest.approx(0.95 * late)


def turned(torque: list[float], distance: float = 0.0) -> pd.DataFrame:
    """A translation: off its exact law by `distance` after each step, and moved by `torque` off the ideal one."""
    frame = rows([0.0] + [distance] * (len(torque) - 1)).drop(columns="ideal_residual")
    return frame.assign(ideal=frame["observed"] + np.array(torque), ideal_residual=np.nan)


def test_a_torque_that_should_cancel_breaks_a_protected_law_only() -> None:
    frame = turned([0, 0, 0.2, math.nan, 0.5, 0.3])
    verdict = judge(frame, "float64", protected=True)
    assert (verdict.status, verdict.since, verdict.worst) == ("broken", 2, pytest.approx(0.5))
    assert verdict.text == "broken from step 2: gradients that should cancel have moved the charge by 50 %"
    assert judge(frame, "float64").status == "rounding"
    assert judge(turned([0, math.nan, 0]), "float64", protected=True).status == "rounding"
    half = math.sqrt(EPS64)
    assert judge(turned([0, 0, 0.9 * half]), "float64", protected=True).status == "rounding"
    assert judge(turned([0, 0, 1.1 * half]), "float64", protected=True).status == "broken"
    assert "observed departs" in judge(turned([0, 0, 0.5], 0.4), "float64", protected=True).text


def test_a_torque_within_what_coarse_rounding_can_do_breaks_nothing() -> None:
    allowed = float(rounding_bound(np.array([300]), eps_of("bfloat16"))[0])
    half = math.sqrt(eps_of("bfloat16"))
    assert allowed > 2 * half
    within, beyond = ([0.0] * 300 + [x * allowed] for x in (0.9, 1.1))
    assert judge(turned(within), "bfloat16", protected=True).status == "rounding"
    frame = turned(beyond)
    frame.loc[300, "residual"] = 1.01 * half  # which rounding can do so late
    verdict = judge(frame, "bfloat16", protected=True)
    assert (verdict.status, verdict.since) == ("broken", 300)
    assert "gradients that should cancel" in verdict.text
    assert judge(turned(beyond), "bfloat16", protected=True).worst == pytest.approx(1.1 * allowed)


def test_bounds_belong_to_what_they_bound_and_the_start_is_no_step() -> None:
    steps = np.arange(6)
    allowed = rounding_bound(steps, EPS64)
    assert judge(rows([0.0, *allowed[1:]]), "float64").status == "rounding"
    assert judge(rows([0.0, 0.0, math.sqrt(EPS64)]), "float64").status == "close"
    assert judge(rows([5.0, 0.0, 0.0]), "float64").text == "never moved, as its law says"
    assert distances(rows([0.0, 0.5], 0.0))["exact"].tolist() == [0.0, 0.5]


def test_a_bound_that_leaves_no_digit_says_little() -> None:
    for status, allowed, little in [
        ("rounding", 0.1, True), ("close", 0.1, True), ("rounding", 0.0999, False), ("broken", 0.5, False),
        ("diverged", 0.5, False), ("observed", math.nan, False),
    ]:  # fmt: skip
        assert LawVerdict(status, "", allowed=allowed).little == little
    coarse = judge(rows([0.0] * 100 + [0.03]), "bfloat16")
    assert coarse.little
    assert re.fullmatch(
        r"was off by up to 3 %, and rounding in bfloat16 alone can do \d+ %: that says little", coarse.text
    )
    fine = judge(rows([0.0, 0.03]), "bfloat16")
    assert (fine.status, fine.little) == ("rounding", False)
    assert fine.text.startswith("holds to rounding: never off by more than 0.03 (rounding allows 0.0")


def test_number_formats() -> None:
    assert eps_of("float32") == eps_of("torch.float32") == torch.finfo(torch.float32).eps
    assert eps_of("bfloat16, float32") == torch.finfo(torch.bfloat16).eps
    assert math.isnan(eps_of(""))
    assert math.isnan(eps_of("int64, nonsense, nn"))
    unknown = judge(rows([0, 1e-9]), "")
    assert (unknown.status, unknown.text) == ("close", "holds within 1×10⁻⁹ (the number format was not recorded)")
    assert judge(rows([0, 1e-2]), "").status == "broken"


@given(
    st.lists(
        st.tuples(*[st.floats()] * 3, st.floats(0) | st.just(math.nan)),
        min_size=0,
        max_size=8,
    ),
    st.sampled_from(["float64", "bfloat16", ""]),
)
def test_whatever_was_recorded_gets_a_verdict_that_is_true(values: list[tuple[float, ...]], dtype: str) -> None:
    frame = pd.DataFrame(values, columns=["observed", "exact", "residual", "scale"], dtype=float)
    frame = frame.assign(step=range(len(frame))).reindex(columns=["step", *COLUMNS])
    verdict = judge(frame, dtype)
    assert verdict.text
    off = distances(frame)[frame["step"] > 0].dropna(subset="exact")
    if verdict.status == "rounding":
        assert (off["exact"] <= rounding_bound(off["step"].to_numpy(), eps_of(dtype))).all()
    if verdict.status in ("observed", "rounding", "close", "broken"):
        assert np.isfinite(frame["observed"]).all()
    if verdict.status == "observed":
        assert off.empty


def test_what_a_verdict_says_word_by_word() -> None:
    said = judge(rows([0, 1e-17, 2e-17]), "float64")
    allowed = number(float(rounding_bound(np.array([2]), EPS64)[0]))
    assert said.text == f"holds to rounding: never off by more than 2×10⁻¹⁷ (rounding allows {allowed})"
    assert judge(rows([0, 0, 0]), "float64").text == "never moved, as its law says"
    close = judge(rows([0, 1e-10, 0]), "float64")
    allowed = number(float(rounding_bound(np.array([1]), EPS64)[0]))
    assert close.text == f"holds within 1×10⁻¹⁰ (rounding would allow {allowed})"
    assert judge(rows([0, 1e-10, 0]), "odd").text == "holds within 1×10⁻¹⁰ (the number format was not recorded)"
    broken = rows([0, 1e-17, 0.03, 0.01])
    assert judge(broken, "float64").text == "broken from step 2: observed departs from the law by 3 %"
    lost = judge(pd.concat([broken, broken.tail(1).assign(step=4, observed=math.nan)]), "float64").text
    assert lost == (
        "not a number any more from step 4 on; until then it was broken from step 2: observed departs from the law "
        "by 3 %"
    )
    assert judge(broken[:1], "float64").text == "the records hold no charge of any step"
    assert judge(broken.assign(exact=math.nan, residual=math.nan), "float64").text == "observed, not predicted"
    assert (UNFOLLOWED.status, UNFOLLOWED.text) == ("observed", "found, but not followed in training")


def test_every_step_is_due_unless_it_is_said_otherwise() -> None:
    assert held_at(np.array([2, 4, 6]), 6) == "at 3 of 6 steps"
    frame = rows([0, 1e-17, 1e-17, 1e-17, 1e-17])
    assert judge(frame[frame["step"] % 2 == 0], "float64").where == "at 2 of 4 steps"
    assert judge(frame[frame["step"] % 2 == 0], "float64", every=2).where == ""
