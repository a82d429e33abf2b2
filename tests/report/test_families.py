"""Families from rows: complete, in order, and tolerant of what a record lacks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from torch import nn

from neuromech.report.family import by_kind, families, law_table, verdict_table

from .simulate import FAMILIES, train


def test_a_family_holds_what_was_recorded() -> None:
    record = train(20)
    charges = record.frame("charges")
    found = families(record.meta, charges)
    assert [(f.index, f.kind, f.size, f.name) for f in found] == [
        (i, s.kind, s.size, s.name) for i, s in enumerate(FAMILIES)
    ]
    for i, f in enumerate(found):
        mine = charges[charges["symmetry"] == i]
        assert f.whole["step"].tolist() == list(range(21))
        assert f.whole["observed"].tolist() == mine.loc[mine["member"] == -1, "observed"].tolist()
        assert len(f.members) == (mine["member"] >= 0).sum()
        assert f.worst("exact") == f.verdict.worst
    assert found[0].defect == 1e-16


def test_rows_out_of_order_and_twice_count_once_the_last_time() -> None:
    record = train(6)
    charges = record.frame("charges")
    again = charges[(charges["step"] == 3) & (charges["member"] == -1)].assign(observed=7.0)
    shuffled = pd.concat([charges.iloc[::-1], again])
    whole = families(record.meta, shuffled)[0].whole
    assert whole["step"].tolist() == list(range(7))
    assert whole["observed"][3] == 7.0


def test_what_is_missing_is_nan_or_said() -> None:
    bare = pd.DataFrame({"step": [0, 1], "symmetry": [1, 1], "observed": [1.0, 2.0]})
    found = families({"symmetries": [{"name": "a", "defect": None}]}, bare)
    assert [(f.index, f.name, f.kind, f.verdict.status) for f in found] == [
        (0, "a", "other", "empty"),
        (1, "symmetry 1", "other", "observed"),
    ]
    assert math.isnan(found[0].defect)
    assert found[1].reason == "the records do not say what it is"
    assert families({}, pd.DataFrame()) == []


def test_families_that_need_attention_come_first() -> None:
    def meddle(k: int, model: nn.Module) -> None:
        if k == 5:
            with torch.no_grad():
                model[2].bias += 1.0

    record = train(10, meddle=meddle)
    grouped = by_kind(families(record.meta, record.frame("charges")))
    assert {kind: [f.index for f in fs] for kind, fs in grouped.items()} == {"rescale": [0], "translation": [2, 1]}


def test_the_tables_agree_with_numpy() -> None:
    record = train(30)
    found = families(record.meta, record.frame("charges"))
    table = verdict_table(found).set_index("symmetry")
    assert table["status"].tolist() == ["rounding"] * 3
    for row in law_table(found):
        off = table[row["law"]].to_numpy()
        assert row["median"] == np.median(off)
        assert row["worst"] == off.max()
        assert row["name"] == table["name"][int(off.argmax())]
        assert row["families"] == 3
    assert law_table(found)[-1]["law"] == "flow"
    assert law_table(families(record.meta, pd.DataFrame())) == []
    assert list(verdict_table([])) == list(verdict_table(found))
