"""Forecasts from records: of data that a known balance made, and of records that say too little."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from neuromech.dynamics.forecast import Balance
from neuromech.record import Record
from neuromech.report import render
from neuromech.report.advice import advice
from neuromech.report.family import families
from neuromech.report.figures import family_figure
from neuromech.report.forecasts import Forecast, forecasts
from neuromech.report.terms import TERMS, visible

STEPS, LR, MEMBERS = 400, 0.05, 3
SGD = {"class": "SGD", "law": "exact", "groups": [{"lr": LR, "momentum": 0.9, "weight_decay": 0.01}]}
ADAMW = {"class": "AdamW", "law": "rebuilt", "groups": [{"lr": LR, "betas": [0.9, 0.99], "weight_decay": 0.01}]}
RATE = {"SGD": 0.2, "AdamW": 0.1}


def record(optimizer: dict[str, object], decay: float | None = None, **more: object) -> Record:
    """A family of three squared lengths that follow a balance to the letter, the lr halved in mid-run."""
    name = str(optimizer["class"])
    rate = RATE[name] if decay is None else decay
    balance = Balance(rate, 30.0, 1 if name == "SGD" else 0)
    symmetry = {"kind": "scale", "size": MEMBERS, "name": "w[i]", "reason": "a norm", "defect": 0.0, "dtype": "float64"}
    known = {"model": "M", "dtype": "float64", "symmetries": [symmetry], "optimizers": [optimizer], "parameters": 3}
    out = Record(None, known | more)
    length2 = [1.0 + i for i in range(MEMBERS)]
    start, decayed = list(length2), [0.0] * MEMBERS
    turns = [0.0] * MEMBERS
    for k in range(STEPS + 1):
        lr = LR if k <= STEPS // 2 else LR / 2
        out.append("steps", {"step": k, "optimizer": 0, "lr": lr if k else 0.0, "time": 0.0})
        if k:
            for i, c in enumerate(length2):
                turns[i] += balance.angles(c, [lr], 19.0)[0] ** 2
                after = balance.advance(c, [lr])
                decayed[i] -= rate * lr * c
                length2[i] = after
        rows = [
            (-1, sum(length2), sum(start), sum(decayed), sum(turns) / MEMBERS),
            *zip(range(MEMBERS), length2, start, decayed, turns, strict=True),
        ]
        for member, c, first, lost, turn in rows:
            laws = dict.fromkeys(("observed", "exact", "ideal", "continuous", "flow", "scale"), c)
            residuals = dict.fromkeys(("residual", "ideal_residual", "continuous_residual", "flow_residual"), 0.0)
            where = {"step": k, "symmetry": 0, "member": member}
            moved = dict.fromkeys(TERMS, 0.0) | {"weight_decay": lost, "momentum": c - first - lost, "turn": turn}
            out.append("charges", where | laws | residuals)
            out.append("terms", where | moved)
    return out


def made(run: Record) -> list[Forecast]:
    found = families(run.meta, run.frame("charges"), run.frame("terms"))
    return forecasts(run.meta, found, run.frame("steps"), pd.DataFrame({"step": range(STEPS + 1), "value": 1.0}))


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["SGD", "AdamW"])
def test_a_run_that_keeps_its_balance_ends_as_forecast(optimizer: dict[str, object]) -> None:
    (f,) = made(record(optimizer))
    assert (f.made_at, f.members) == (STEPS // 5, MEMBERS)
    assert f.error < 0.01
    assert abs(f.undecayed - f.end) > 0.01 * f.end
    rate, power = RATE[str(optimizer["class"])], 1 if optimizer is SGD else 0
    assert f.equilibrium == pytest.approx(MEMBERS * Balance(rate, 30.0, power).equilibrium(LR), rel=0.02)
    assert f.time_constant == pytest.approx(1 / ((1 + power) * rate * LR), rel=0.02)
    assert f.angle == pytest.approx(f.turned, rel=0.02)


def test_settings_are_remarked_upon() -> None:
    run = record(SGD)
    said = " ".join(advice(made(run)))
    assert "a schedule of learning rates from 0.025 to 0.05 with weight decay 0.01 is equivalent to" in said
    assert "the same schedule from 0.05 to 0.1 with 0.005, started 1.4 times as long" in said
    assert "at the learning rate of step 80: in equilibrium" in said
    idle = record(SGD, decay=1e-6)
    assert "does nothing here" in " ".join(advice(made(idle)))
    none = record(SGD | {"groups": [{"lr": LR, "momentum": 0.9, "weight_decay": 0}]}, decay=0.0)
    (f,) = made(none)
    assert f.equilibrium == f.time_constant == math.inf
    assert f.angle > 0  # finite steps turn weights, decay or not
    assert "no equilibrium" in " ".join(advice(made(none)))


def test_what_says_too_little_makes_no_forecast() -> None:
    run = record(SGD)
    meta, charges, terms, steps = run.meta, run.frame("charges"), run.frame("terms"), run.frame("steps")
    assert not forecasts(meta, families(meta, charges), steps)
    assert not forecasts(meta, families(meta, charges, terms), steps[steps["step"] < 40])
    assert not forecasts(meta | {"optimizers": [SGD, ADAMW]}, families(meta, charges, terms), steps)
    assert not forecasts(meta | {"optimizers": []}, families(meta, charges, terms), steps)
    lost = charges.assign(observed=charges["observed"].where(charges["step"] < 300))
    assert not forecasts(meta, families(meta, lost, terms), steps)
    assert not forecasts(meta, families(meta, charges, terms), pd.DataFrame())
    assert not advice([])


def test_the_page_shows_forecasts_and_terms() -> None:
    run = record(SGD)
    page = render(run)
    assert "Forecasts, scored" in page
    assert "made at step 80" in page
    assert "weight decay </li>" in page or "weight decay</li>" in page
    (family,) = families(run.meta, run.frame("charges"), run.frame("terms"))
    assert visible([family.terms]) == ["weight_decay", "momentum"]
    ax = family_figure(family).axes[-1]
    assert ax.get_ylabel() == "moved by"
    (line,) = [x for x in ax.lines if len(x.get_xdata()) > 2]
    change = family.whole["observed"].iloc[-1] - family.whole["observed"].iloc[0]
    assert line.get_ydata()[-1] == pytest.approx(change)  # type: ignore[index]


def test_settings_are_those_of_the_parameters_own_group() -> None:
    run = record(SGD)
    own = {"lr": LR, "momentum": 0.9, "weight_decay": 0.01, "names": ["w"]}
    other = {"lr": 100 * LR, "momentum": 0.9, "weight_decay": 0.5, "names": ["head"]}
    run.sessions[-1]["meta"]["symmetries"][0]["terms"] = [{"parameter": "w"}]
    (alone,) = made(run)
    run.sessions[-1]["meta"]["optimizers"] = [SGD | {"groups": [own, other]}]
    (f,) = made(run)
    assert (f.lr, f.weight_decay) == (LR, 0.01)
    assert f.effective == alone.effective
    run.sessions[-1]["meta"]["optimizers"] = [SGD | {"groups": [other | {"names": ["head"]}, own]}]
    (f,) = made(run)  # the learning rates on record are those of the first group, 100 times these
    assert f.effective == pytest.approx(alone.effective / 100)
    assert (f.lr, f.weight_decay) == (LR, 0.01)


def test_coupled_decay_behind_a_preconditioner_is_never_idle() -> None:
    adam = {"class": "Adam", "law": "rebuilt", "groups": [{"lr": LR, "betas": [0.9, 0.99], "weight_decay": 0.02}]}
    run = record(ADAMW, decay=0.0)
    run.sessions[-1]["meta"]["optimizers"] = [adam]
    (f,) = made(run)
    assert f.coupled
    said = " ".join(advice([f]))
    assert "does nothing" not in said
    assert "not told apart" in said


def test_every_number_is_scored_and_failures_conclude_nothing() -> None:
    (f,) = made(record(SGD))
    assert f.baseline > f.error
    assert f.angle_error < 0.02
    assert f.angle_baseline > f.angle_error
    failed = replace(f, end=1.5 * f.came)
    assert failed.error == pytest.approx(0.5)
    turned = replace(f, angle=2.1 * f.turned)
    assert turned.angle_error == pytest.approx(1.1)
    (said,) = advice([failed])
    assert said == "The forecasts of squared lengths were off by more than 25 %: nothing is concluded from them."
    (said,) = advice([turned])
    assert said == "The forecasts of angles were off by more than 100 %: nothing is concluded from them."
    assert "in a parameter group of their own" in advice([replace(f, angle=1.9 * f.turned)])[0]
    assert "in a parameter group of their own" in advice([replace(f, angle=math.nan)])[0]
    assert "in a parameter group of their own" in advice([f])[0]


def test_what_could_not_be_measured_is_not_zero() -> None:
    """Weights that never turned: what drives them has no strength that could be read."""
    run = record(SGD)
    terms = run.frame("terms").assign(turn=0.0)
    found = families(run.meta, run.frame("charges"), terms)
    (f,) = forecasts(run.meta, found, run.frame("steps"))
    assert math.isnan(f.equilibrium)
    assert math.isnan(f.angle)
