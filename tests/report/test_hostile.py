"""Run directories that are truncated, foreign or hostile: what is there is shown, what is missing is said."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuromech.errors import RecordError
from neuromech.record import read
from neuromech.report import open_run, render, summarise, told
from neuromech.report.facts import gather
from tests.families import fast

from .simulate import train


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "run"
    record = train(12, path=path)
    record.append("metrics", {"step": range(1, 13), "name": "loss", "value": 1.0})
    record.append("events", {"step": 1, "kind": "note", "message": "hello"})
    record.append("progress", {"step": 12, "seconds": 1.0, "measuring": 0.1})
    record.end("finished")
    return path


def lines(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    file.write_text("\n".join(change(file.read_text().split("\n"))))


def meta(path: Path, **changes: Any) -> None:
    data = json.loads((path / "run.json").read_text())
    data["sessions"][-1]["meta"] |= changes
    (path / "run.json").write_text(json.dumps(data))


HUGE = "x" * 200_000
CASES: dict[str, Callable[[Path], Any]] = {
    "no charges": lambda p: (p / "charges.csv").unlink(),
    "no steps": lambda p: (p / "steps.csv").unlink(),
    "torn charges": lambda p: (p / "charges.csv").write_bytes((p / "charges.csv").read_bytes()[:-40]),
    "text for numbers": lambda p: lines(p / "charges.csv", lambda x: [x[0], x[1].replace("0,", "zero,", 1), *x[2:]]),
    "infinite step": lambda p: lines(p / "charges.csv", lambda x: [x[0], "inf" + x[1][1:], *x[2:]]),
    "more fields than columns": lambda p: lines(p / "charges.csv", lambda x: [x[0], x[1] + ",1,2,3", *x[2:]]),
    "binary": lambda p: (p / "terms.csv").write_bytes(bytes(range(256)) * 20),
    "null bytes": lambda p: (p / "events.csv").write_bytes(b"step,kind,message,session\n1,\x00,\x00,0\n"),
    "a table of another tool": lambda p: (p / "faults.csv").write_text("a,b\n1,2\n"),
    "an empty table": lambda p: (p / "metrics.csv").write_text(""),
    "loss of text": lambda p: (p / "metrics.csv").write_text('step,name,value\n1,"loss","much"\n2,"loss",2\n'),
    "huge field": lambda p: (p / "events.csv").write_text(f'step,kind,message,session\n1,"n","{HUGE}",0\n'),
    "huge name": lambda p: meta(p, name=HUGE[:5000], model="<b>" * 50),
    "symmetries that are no list": lambda p: meta(p, symmetries={"a": 1}),
    "a symmetry that is none": lambda p: meta(p, symmetries=[None, 3, {"size": "many", "terms": 7, "kind": ["x"]}]),
    "optimizers of another kind": lambda p: meta(p, optimizers=[7, {"groups": "none"}, {"groups": [{"lr": "x"}]}]),
    "modules that are none": lambda p: meta(p, modules=[1, {"name": "a", "shapes": {"w": ["x"]}}, {"shapes": 3}]),
    "dimension, config, dtype": lambda p: meta(p, dimension=[1], config=[2], dtype=3, parameters="many"),
    "every, unwatched": lambda p: meta(p, every="often", unwatched="late"),
    "opaque and rejected": lambda p: meta(p, opaque=[3], rejected=["x", {"defect": "y"}], inactive=5, notes={"a": 1}),
    "a formula": lambda p: meta(p, name="=cmd|'/c calc'!A0"),
}  # fmt: skip


@pytest.mark.parametrize("case", fast(CASES, list(CASES)[::2]))
def test_what_is_there_is_shown(sound: Path, tmp_path: Path, case: str) -> None:
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    CASES[case](path)
    run = read(path)
    page = render(run)
    assert page.rstrip().endswith("</html>")
    assert len(page) < 1_500_000
    assert told(run)
    assert summarise(run)["status"] == "finished"


def test_a_long_name_is_no_damage(sound: Path, tmp_path: Path) -> None:
    """A family of many tied layers has a name of thousands of letters: the run is as whole as any other."""
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    before = summarise(read(path))
    families = json.loads((path / "run.json").read_text())["sessions"][-1]["meta"]["symmetries"]
    families[0]["name"] = "x" * 4_110
    meta(path, symmetries=families)
    after = summarise(read(path))
    assert after["headline"] == before["headline"]
    assert "could not be read" not in " ".join(told(read(path)))
    assert "x" * 2_001 not in render(read(path))


def test_tables_whose_description_is_lost_are_shown(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    (path / "run.json").write_text((path / "run.json").read_text()[:300])
    run = read(path)
    assert "12 steps" in summarise(run)["headline"]
    assert "run.json is not what a run writes" in " ".join(told(run).split())  # the path before it may be long
    assert "run.json is not what a run writes" in render(run)
    assert open_run(path).verdicts["size"].tolist() == [5, 5, 1]


def test_a_description_that_is_not_there_is_said_to_be_missing(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    assert "is not there" not in told(read(path))
    (path / "run.json").unlink()
    said = " ".join(told(read(path)).split())
    assert "run.json, which tells what was trained and how, is not there." in said
    assert "whatever happens" not in said
    assert "3 unknown: nothing tells whether they could have failed" in said
    page = render(read(path))
    assert "which reads back what was measured" not in page.split("How to read this")[0]


def test_charges_that_are_not_there_are_said_to_be_missing(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    (path / "charges.csv").unlink()
    assert "The table of charges, charges.csv, is not there." in " ".join(told(read(path)).split())


def test_charges_that_cannot_be_read_are_not_said_to_be_unfollowed(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    (path / "charges.csv").write_bytes(b"step,symmetry\n1,2,3,4\n")
    for name in ("events.csv", "faults.csv", "metrics.csv"):
        (path / name).unlink(missing_ok=True)
    text = render(read(path)) + told(read(path))
    assert "found, no charge of them could be read" in text
    assert "Nothing out of the ordinary was seen in what could be read." in text
    assert "not readable" in text
    assert "not followed" not in text.replace("found in the model, not followed in training", "")
    assert "none followed" not in text


def test_no_table_that_was_cut_makes_a_run_shorter_than_its_loss(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    for table in ("steps", "charges"):
        file = path / f"{table}.csv"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert summarise(read(path))["steps"] == 12
    (path / "progress.csv").unlink()
    assert summarise(read(path))["steps"] == 11  # that a loss was seen says that steps before it were taken


def test_charges_that_end_before_the_run_are_said_to(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    said = "Charges were recorded until step 7 of 12 only"
    assert "Charges were recorded" not in told(read(path))
    lines(path / "charges.csv", lambda x: [x[0], *(row for row in x[1:] if row and int(row.split(",")[0]) < 8), ""])
    assert said in " ".join(told(read(path)).split())
    assert summarise(read(path))["tone"] == "mixed"
    meta(path, every=6)  # the next would have been due after the end
    assert "Charges were recorded" not in told(read(path))


def test_a_terminal_obeys_nothing_that_a_record_says(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    meta(path, name="\x1b]0;owned\x07name", model="\x9b31m")
    (path / "faults.csv").write_text(
        "fault,step,last,times,rank,title,strength,evidence,advice,session\n"
        '0,3,3,1,0,"\x1b[2J","likely","e","\x1b[1m",0\n'
    )
    assert not set(told(read(path))) & {"\x1b", "\x07", "\x9b"}
    assert "name" in told(read(path))


def test_a_file_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"sessions": 3}', '{"sessions": [{"meta": {}}]}', "\x00"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(RecordError, match="is not what a run writes"):
            read(tmp_path)


@pytest.mark.parametrize("seed", fast(range(20), range(5)))
def test_bytes_that_flipped(sound: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    for file in sorted(path.glob("*.csv")):
        data = bytearray(file.read_bytes())
        for _ in range(rng.choice([1, 5])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(bytes(data))
    run = read(path)
    assert render(run).rstrip().endswith("</html>")
    assert told(run)


def test_a_run_of_an_older_version(sound: Path, tmp_path: Path) -> None:
    """Without how it began and ended, without tables that came later, all of the remainder called rounding."""
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    data = json.loads((path / "run.json").read_text())
    for session in data["sessions"]:
        session.pop("process")
        session.pop("ended")
        session["meta"] |= {"neuromech": "0.0.1"}
        session["meta"].pop("optimizers")
    (path / "run.json").write_text(json.dumps(data))
    for table in ("metrics", "progress", "events"):
        (path / f"{table}.csv").unlink()
    rows = "".join(f"{k},0,-1,0.5,{0.0 if k < 5 else 3.0},0\n" for k in range(13))
    (path / "terms.csv").write_text("step,symmetry,member,discretization,rounding,session\n" + rows)
    run = read(path)
    summary = summarise(run)
    assert summary["status"] == "unknown"
    assert summary["steps"] == 12
    assert {f["evidence"] for f in summary["families"]} == {"unknown"}  # nothing says what their laws rest on
    terms = gather(run).families[0].terms
    assert terms["unexplained"].iloc[-1] == pytest.approx(3.0, rel=1e-3)
    assert "no end seen" in render(run)


def test_rows_of_two_interleaved_sessions(sound: Path, tmp_path: Path) -> None:
    """As two processes left them before runs were locked: the later session is what counts from where it begins."""
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    data = json.loads((path / "run.json").read_text())
    data["sessions"] += [data["sessions"][0] | {"session": 1}]
    (path / "run.json").write_text(json.dumps(data))
    for table in ("charges", "steps"):
        head, *rows = (path / f"{table}.csv").read_text().splitlines()
        twice = [line for row in rows for line in (row, row[: row.rindex(",")] + ",1")]
        (path / f"{table}.csv").write_text("\n".join([head, *twice]) + "\n")
    facts = gather(read(path))
    assert facts.n_steps == 12
    assert all(f.whole["step"].is_unique for f in facts.families)
    assert "12 steps" in told(read(path))
    assert "2, resumed 1 time" in render(read(path))
    said = "Two processes have written this run at the same time"
    assert said in told(read(path))
    head, *rows = (path / "steps.csv").read_text().splitlines()
    one_after_the_other = sorted(rows, key=lambda row: row[row.rindex(",") :])
    (path / "steps.csv").write_text("\n".join([head, *one_after_the_other]) + "\n")
    assert said not in told(read(path))


def test_a_run_that_is_still_written(tmp_path: Path) -> None:
    record = train(12, path=tmp_path / "run")
    with (tmp_path / "run" / "charges.csv").open("a") as f:
        f.write("13,0,-1,0.5")  # half a line
        f.flush()
        run = read(tmp_path / "run")
        assert summarise(run)["status"] == "running"
        assert "running when written" in render(run)
    assert summarise(record)["steps"] == 12
