"""The doors of a run: the same frames for one that goes on and for one that is over, and nothing built twice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from torch import nn

import neuromech
from neuromech.record import read, tables
from neuromech.report import RunFrames
from neuromech.report.page import render

DOORS = ("history", "averages", "terms", "metrics", "events", "faults", "verdicts", "forecasts")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *, meddle: int = -1) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 5, generator=generator), torch.randint(0, 3, (16,), generator=generator)
    for k in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if k == meddle:
            with torch.no_grad():
                model[0].weight[0] += 1.0


def test_a_finished_run_has_the_doors_of_its_probe(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    with neuromech.instrument(model, run=tmp_path / "run") as probe:
        probe.monitor(lambda fault: None)
        train(model, optimizer, 60, meddle=30)
    opened = neuromech.open_run(tmp_path / "run")
    for door in DOORS:
        assert_frame_equal(getattr(opened, door), getattr(probe, door), obj=door)
    assert_frame_equal(opened.latest(), probe.latest())
    assert len(probe.history)
    assert len(probe.terms)
    assert probe.faults["step"].tolist() == [32]
    assert probe.faults["cause"].tolist() == ["edited weights"]
    assert "fault" in set(probe.events["kind"])
    assert probe.verdicts["status"].tolist() == ["rounding"] * len(probe.symmetries.symmetries)
    assert (probe.latest()["step"] == 60).all()
    assert len(probe.latest()) == len(probe.verdicts)
    assert opened.report().is_file()


@pytest.mark.parametrize("door", DOORS)
def test_before_the_first_step_a_door_opens_on_named_columns(door: str) -> None:
    with neuromech.instrument(net()) as probe:
        frame = getattr(probe, door)
        assert isinstance(frame, pd.DataFrame)
        assert frame.empty
        assert len(frame.columns)
        assert probe.latest().empty


@pytest.mark.parametrize("on_disk", [True, False])
def test_frames_grow_as_if_they_were_built_anew(tmp_path: Path, on_disk: bool) -> None:
    class Anew(RunFrames):
        def _recorded(self):
            return probe._recorded()

    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with neuromech.instrument(model, run=tmp_path / "run" if on_disk else None) as probe:
        for steps in (3, 0, 70, 1):
            train(model, optimizer, steps)
            grown = probe.history
            assert_frame_equal(grown, Anew().history)
            if on_disk:
                assert_frame_equal(grown, neuromech.open_run(tmp_path / "run").history)
            grown["observed"] = 0.0  # what was handed out is the caller's
        assert (probe.history["observed"] != 0).any()


@pytest.mark.slow
def test_what_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    parse = tables._parsed
    monkeypatch.setattr(tables, "_parsed", lambda data, text: (parsed.append(len(data)), parse(data, text))[1])
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with neuromech.instrument(model, run=tmp_path / "run") as probe:
        train(model, optimizer, 200)
        first = probe.history
        read = sum(parsed)
        assert_frame_equal(probe.history, first)
        assert sum(parsed) == read
        train(model, optimizer, 2)
        assert len(probe.history) > len(first)
        assert sum(parsed) < 1.2 * read
    size = sum(f.stat().st_size for f in (tmp_path / "run").glob("*.csv"))
    assert read < size


def given_up(run: Path, kept: int, dropped: int) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Any]]:
    """A recorded run, whose weights go back to where its first steps left them: with the state of its probe there."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with neuromech.instrument(model, run=run) as probe:
        train(model, optimizer, kept)
        saved, weights = probe.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
        train(model, optimizer, dropped)
    model.load_state_dict(weights)
    return model, optimizer, saved


def test_a_resumed_run_replaces_the_branch_that_was_given_up(tmp_path: Path) -> None:
    model, optimizer, saved = given_up(tmp_path / "run", 4, 6)
    opened = neuromech.open_run(tmp_path / "run")
    assert opened.history["step"].max() == 10
    with neuromech.instrument(model, run=tmp_path / "run", resume=True) as probe:
        probe.load_state_dict(saved)
        assert probe.history["step"].max() == 10
        train(model, optimizer, 2)
        assert probe.history["step"].max() == 6
        assert_frame_equal(probe.history, neuromech.open_run(tmp_path / "run").history)


def test_rows_that_are_not_kept_are_the_same_and_read_again_for_the_next_who_asks(tmp_path: Path) -> None:
    model, optimizer, saved = given_up(tmp_path / "run", 2, 2)
    with neuromech.instrument(model, run=tmp_path / "run", resume=True) as probe:
        probe.load_state_dict(saved)
        train(model, optimizer, 1)
    run = read(tmp_path / "run")
    for table in run.tables:
        kept = run.frame(table)
        handed = run.frame(table, keep=False)
        assert_frame_equal(handed, kept)
        for column in [*handed]:
            del handed[column]
        assert_frame_equal(run.frame(table, keep=False), kept)
    assert run.frame("steps")["step"].max() == 3
    assert len(run.frame("charges", every_session=True)) > len(run.frame("charges"))
    assert render(run, keep=False) == render(run)


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    reader = tables.TableReader(tmp_path)
    tables.append(tmp_path, "t", {"a": [1, 2, 3]})
    assert reader.load("t")["a"].tolist() == [1, 2, 3]
    (tmp_path / "t.csv").unlink()
    tables.append(tmp_path, "t", {"a": [4]})
    assert reader.load("t")["a"].tolist() == [4]
    with (tmp_path / "t.csv").open("a") as f:
        f.write("5\n6")  # torn
    assert reader.load("t")["a"].tolist() == [4, 5]


def test_no_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(neuromech.RecordError, match="holds no run"):
        neuromech.open_run(tmp_path)


def test_figures_and_cards_for_notebooks(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    probe = neuromech.instrument(model, run=tmp_path / "run", name="<b>mine</b>")
    with pytest.raises(neuromech.RecordError, match="nothing was recorded yet"):
        probe.plot()
    assert "Nothing was measured" in probe._repr_html_()
    train(model, optimizer, 20)
    axes = probe.plot("0.weight")
    assert axes[0].get_xlabel() == ""
    assert axes[-1].get_xlabel() == "step"
    assert [ax.get_ylabel() for ax in probe.plot("loss")] == ["loss"]
    assert len(probe.plot()) >= 1
    assert len(probe.plot(0)) >= 2
    with pytest.raises(neuromech.RecordError, match=r"there is loss, weight norm, gradient norm, 0\.weight"):
        probe.plot("nothing like it")
    card = probe._repr_html_()
    assert "&lt;b&gt;mine&lt;/b&gt;" in card
    assert "20 steps, loss" in card
    probe.remove()
    assert "(finished)" in neuromech.open_run(tmp_path / "run")._repr_html_()


def test_a_file_is_read_in_blocks_of_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[str, list[Any]] = {"a": [*range(50)], "word": [f"the {k}th, a" for k in range(50)]}
    rows["x"] = [k / 7 if k % 5 else math.nan for k in range(50)]
    tables.append(tmp_path, "t", rows)
    with (tmp_path / "t.csv").open("a") as f:
        f.write('50,"torn')
    whole = tables.TableReader(tmp_path).load("t")
    assert_frame_equal(whole, pd.DataFrame(rows))
    for block in (7, 64, 10_000):
        monkeypatch.setattr(tables, "BLOCK", block)
        reader = tables.TableReader(tmp_path)
        assert_frame_equal(reader.load("t"), whole)
        handed = tables.handed_out(whole)
        handed.loc[0, "x"] = 1.0
        assert math.isnan(whole["x"][0])
