"""The sentences: each kind of run is told as what it was."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from torch import nn

from neuromech.record import Record, Run
from neuromech.report.family import families
from neuromech.report.story import caveats, headline, number_of_steps, run_facts

from .simulate import meta, train


def told(record: Run) -> tuple[str, str]:
    found = families(record.meta, record.frame("charges"))
    return headline(record.meta, number_of_steps(record.frame("steps")), found, record.frame("events"))


def touching(step: int, name: str, by: float) -> dict[str, object]:
    def meddle(k: int, model: nn.Module) -> None:
        if k == step:
            with torch.no_grad():
                model.get_parameter(name).add_(by)

    return {"meddle": meddle}


def test_all_laws_hold() -> None:
    tone, text = told(train(54))
    assert tone == "ok"
    assert text.startswith("In this run of 54 steps 3 of 3 laws hold to rounding: worst relative residual ")
    assert "×10⁻¹" in text


def test_some_laws_hold_less_closely() -> None:
    tone, text = told(train(54, **touching(10, "2.bias", 1e-11)))  # type: ignore[arg-type]
    assert tone == "mixed"
    assert text.startswith("In this run of 54 steps 2 of 3 laws hold to rounding and 1 holds within ")


def test_a_law_breaks() -> None:
    tone, text = told(train(54, **touching(10, "2.weight", 0.1)))  # type: ignore[arg-type]
    assert tone == "bad"
    assert "1 of 3 laws holds to rounding and 2 are broken, from step 10 on, by up to" in text
    assert text.endswith(" %.")


def test_a_run_that_diverges() -> None:
    text = "In this run of 12 steps the parameters stopped being numbers at step 7"
    touch = touching(7, "0.weight", math.nan)
    assert told(train(12, **touch)) == ("bad", f"{text}; until then 3 of 3 laws held to rounding.")  # type: ignore[arg-type]
    assert told(train(12, adam=True, **touch)) == ("bad", f"{text}.")  # type: ignore[arg-type]


def test_a_charge_that_diverges_alone() -> None:
    tone, text = told(train(12, **touching(12, "2.bias", math.nan)))  # type: ignore[arg-type]
    assert tone == "bad"
    assert "2 of 2 laws hold to rounding and 1 charge is not a number any more from step 12 on." in text


def test_charges_without_a_prediction() -> None:
    record = train(5, adam=True)
    assert told(record) == ("none", "In this run of 5 steps 3 charges were observed; none was predicted.")
    found = families(record.meta, record.frame("charges"))
    first, second = caveats(record.meta, found)
    assert first.startswith("Under Adam symmetries do not protect the update")
    assert second.startswith("No prediction was recorded for 0.weight[i], 0.bias[i]")


def test_what_was_measured_is_not_called_a_prediction() -> None:
    record = train(5)
    record.update_meta({"optimizers": [{"class": "Mine", "law": "measured", "groups": []}]})
    assert told(record)[1].endswith(" The steps of Mine were measured, not predicted.")
    assert "balances whatever the step did" in caveats(record.meta, families(record.meta, record.frame("charges")))[0]


def test_part_of_the_charges_is_predicted() -> None:
    record = train(8)
    charges = record.frame("charges")
    laws = [c for c in charges if c in ("exact", "residual")]
    charges.loc[charges["symmetry"] == 2, laws] = math.nan
    found = families(record.meta, charges)
    tone, text = headline(record.meta, 8, found, pd.DataFrame())
    assert tone == "ok"
    assert "2 of 2 laws hold to rounding" in text
    assert text.endswith("1 charge was observed without a prediction.")
    assert caveats(record.meta, found) == ["No prediction was recorded for 2.bias."]


def test_nothing_to_tell() -> None:
    empty = Record(None, {})
    assert told(empty) == ("none", "Nothing was measured in this run: the model was not seen to compute anything.")
    empty.append("events", {"step": 0, "kind": "no forward", "message": "no forward has been seen: call the model."})
    assert told(empty)[1] == "Nothing was measured in this run: no forward has been seen: call the model."
    assert told(Record(None, meta() | {"symmetries": []}))[1].startswith("No symmetry was found in this model")
    tone, text = told(Record(None, meta()))
    assert tone == "none"
    assert (
        text
        == "3 families of symmetries were found; no optimizer step was recorded, so there is nothing to compare yet."
    )
    started = train(0)
    assert told(started)[1] == text


@pytest.mark.parametrize("key", list(meta()))
def test_any_key_of_the_meta_may_be_missing(key: str) -> None:
    record = train(3)
    known = {k: v for k, v in record.meta.items() if k != key}
    found = families(known, record.frame("charges"))
    assert "3 of 3 laws" in headline(known, 3, found, pd.DataFrame())[1]
    run_facts(known, record.frame("steps"), [])
    run_facts(known, pd.DataFrame(), [])


def test_the_facts() -> None:
    record = train(4, lr=lambda k: 0.1 / k)
    facts = dict(run_facts(record.meta, record.frame("steps"), record.sessions))
    assert facts["parameters"] == "59"
    assert facts["optimizer"] == "SGD: lr 0.1, momentum 0.9, weight decay 0.01"
    assert facts["learning rate"] == "from 0.1 to 0.025"
    assert facts["steps"] == "4"
    assert facts["time"] == "0.21 (sum of the learning rates)"
    assert facts["symmetries"] == "5 by scaling and 6 by translation, independent"
    assert facts["versions"] == "neuromech 0.1.0, torch 2.13, python 3.11"
    assert "sessions" not in facts
    group = {"lr": 0.1, "nesterov": True, "maximize": False, "weight_decay": 1e-6, "parameters": 2}
    two = {"optimizers": [{"class": "SGD", "law": "exact", "groups": [group, group | {"parameters": 1, "lr": 1.0}]}]}
    facts = dict(run_facts(two, pd.DataFrame(), record.sessions * 3))
    assert facts["optimizer"] == (
        "SGD: lr 0.1, weight decay 1e-06, nesterov (2 tensors); lr 1, weight decay 1e-06, nesterov (1 tensor)"
    )
    assert facts["sessions"] == "3, resumed 2 times"
    assert dict(run_facts({"optimizers": [{"class": "Mine"}]}, pd.DataFrame(), []))["optimizer"] == "Mine"


def test_what_makes_a_law_weaker_than_it_looks_is_said() -> None:
    record = train(54, **touching(10, "2.bias", 1e-11))  # type: ignore[arg-type]
    known = record.meta
    known["symmetries"][0]["broken_by"] = ["eps = 1e-05 of bn1"]
    said = caveats(known, families(known, record.frame("charges")))
    assert said[0].startswith("1 law holds less closely than the rounding of the weights explains.")
    assert "the leak" in said[1]
    assert len(said) == 2


def test_a_number_format_that_is_too_coarse_to_tell_is_named() -> None:
    record = train(60, torch.bfloat16)
    (said,) = caveats(record.meta, families(record.meta, record.frame("charges")))
    assert said.startswith("In bfloat16 rounding alone can move a charge by up to ")
    record = train(60, torch.float32)
    assert caveats(record.meta, families(record.meta, record.frame("charges"))) == []
