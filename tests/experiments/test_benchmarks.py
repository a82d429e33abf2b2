"""The table of benchmarks: paired ratios by a clock that is known, peers that are missing, reasons that are."""

import sys

import pytest

from experiments.benchmarks import __main__ as benchmarks
from experiments.benchmarks.__main__ import Absent, Row, detection, in_turns, table


def test_ratios_are_of_paired_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(benchmarks.time, "process_time", lambda: clock[0])
    costs = {"ours": iter([9, 2, 2, 6, 2, 2]), "peer": iter([9, 1, 1, 4, 1, 4])}  # the first call is not counted

    def work(name: str) -> None:
        clock[0] += next(costs[name])

    (found,) = in_turns({name: lambda n=name: work(n) for name in costs}, 5, "x")
    assert found == Row("x", "peer", 1.5, 2.0, 2.0)  # of 2, 2, 1.5, 2, 0.5


def test_a_peer_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    (found,) = detection(1)
    assert isinstance(found, Absent)
    assert "not installed" in found.why


def test_where_a_peer_is_ahead_a_sentence_says_why() -> None:
    what, peer = next(iter(benchmarks.BEHIND))
    rows = [Row(what, peer, 1.0, 1.5, 2.0), Row("speed", "light", 0.1, 0.2, 0.3), Absent("a", "b", "not installed")]
    shown = table(rows, [("width", 64, Row("width", "bare", 1.0, 1.2, 1.4))])
    assert f"- {what}, {peer}: {benchmarks.BEHIND[what, peer]}" in shown
    assert "- speed" not in shown
    assert "| a | b | - | not installed |" in shown
    assert "no reason is known" in table([Row("new", "peer", 1.0, 1.5, 2.0)], [])
