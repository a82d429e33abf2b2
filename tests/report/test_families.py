"""Families from rows: complete, in order, and tolerant of what a record lacks."""

from __future__ import annotations

import math

import pandas as pd
import torch
from pandas.testing import assert_frame_equal
from torch import nn

import neuromech
from neuromech.report.facts import gather
from neuromech.report.family import FamilyRecord, families, verdict_table

from .simulate import FAMILIES, meta, train


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


def test_a_table_that_is_not_kept_is_taken_apart_into_the_same_families() -> None:
    record = train(6)
    charges, terms = record.frame("charges"), record.frame("terms")
    emptied = charges.copy()
    kept, taken = families(record.meta, charges, terms), families(record.meta, emptied, terms, keep=False)
    assert not len(emptied.columns)
    assert len(charges.columns)
    for a, b in zip(kept, taken, strict=True):
        for x, y in ((a.whole, b.whole), (a.members, b.members), (a.distances, b.distances), (a.terms, b.terms)):
            assert_frame_equal(x, y)
        assert a.verdict == b.verdict


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


def test_the_table_tells_the_largest_distances() -> None:
    record = train(30)
    found = families(record.meta, record.frame("charges"))
    table = verdict_table(found).set_index("symmetry")
    assert table["status"].tolist() == ["rounding"] * 3
    for f in found:
        assert table["worst"][f.index] == table["exact"][f.index] == f.distances["exact"].max()
        assert table["flow"][f.index] == f.distances["flow"].max()
    assert list(verdict_table([])) == list(verdict_table(found))


def turned(**more: object) -> FamilyRecord:
    """A translation that large gradients have moved by a little more than sqrt(eps), all of which its law follows."""
    said = meta(torch.float32, **more)
    known = said["symmetries"]
    assert isinstance(known, list)
    charge = [1.0, 1.0005, 1.0005]
    rows = {"step": [0, 1, 2], "symmetry": 0, "member": -1, "observed": charge, "exact": charge, "ideal": 1.0}
    charges = pd.DataFrame(rows | {"scale": 1.0, "residual": 0.0, "ideal_residual": [0.0, 5e-4, 5e-4]})
    (found,) = families(said | {"symmetries": known[2:]}, charges)
    assert (found.kind, found.evidence) == ("translation", "predicted")
    return found


def test_whether_gradients_cancel_is_judged_by_who_has_seen_them() -> None:
    assert turned().verdict.status == "broken"  # an older run, in which nobody looked
    assert turned(torques={}).verdict.status == "rounding"
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    for trained, looked in ((model, {}), (nn.Linear(3, 2), None)):  # without a product of weights nothing tells
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        with neuromech.instrument(trained) as probe:
            nn.functional.cross_entropy(trained(torch.randn(5, 3)), torch.tensor([0, 1, 0, 1, 0])).backward()
            optimizer.step()
        assert probe._recorded().meta.get("torques") == looked


def test_what_gradients_broke_in_an_earlier_session_stays_broken() -> None:
    record = train(12)
    first = record.sessions[-1]
    name = gather(record).families[2].name

    def evidence(*torques: dict[str, int] | None) -> str:
        record.sessions[:] = [first | {"meta": first["meta"] | {"torques": t}} for t in torques]
        return gather(record).families[2].evidence

    assert evidence({}, {}) == "predicted"
    assert evidence({name: 3}, {}) == "measured"
    assert evidence({}, {name: 3}) == "measured"
    assert evidence({name: 3}, None) == "measured"
