"""Rows that wait to be written outlive the process: nothing lost, nothing twice, and no harm from any other file."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import neuromech
from neuromech.record import Record, read
from neuromech.record.unwritten import NAME, Unwritten, UnwrittenReader


def left(path: Path, n: int = 5) -> Record:
    """A run whose last rows were not written; the record that would write them must not be let go of."""
    record = Record(path, {"model": "M"})
    record.append("t", {"k": [0], "text": ["written"]})
    record.flush()
    for k in range(1, n):
        record.append("t", {"k": [k], "text": [f'a "{k}"\n']})
    return record


def died(record: Record) -> None:
    """As after kill -9: nothing is written any more, and the lock is free."""
    record._pending.clear()
    record._lock.release()  # type: ignore[union-attr]


def test_what_waits_is_read_at_once_and_written_once(tmp_path: Path) -> None:
    record = left(tmp_path / "r")
    assert len((tmp_path / "r" / "t.csv").read_text().splitlines()) == 2
    run = read(tmp_path / "r")
    assert run.frame("t")["k"].tolist() == [0, 1, 2, 3, 4]
    assert run.frame("t")["session"].tolist() == [0] * 5
    assert record.frame("t")["k"].tolist() == [0, 1, 2, 3, 4]
    assert run.frame("t")["k"].tolist() == [0, 1, 2, 3, 4]
    record.append("new", {"k": [7]})
    assert read(tmp_path / "r").tables == ["new", "t"]
    record.end("finished")
    assert not (tmp_path / "r" / NAME).exists()
    assert read(tmp_path / "r").frame("t")["k"].tolist() == [0, 1, 2, 3, 4]


def test_resuming_writes_what_a_killed_process_could_not(tmp_path: Path) -> None:
    record = left(tmp_path / "r")  # alive, or its end would write
    died(record)
    for _ in range(2):
        again = Record(tmp_path / "r", {}, resume=True)
        assert not (tmp_path / "r" / NAME).exists()
        assert again.frame("t", every_session=True)["k"].tolist() == [0, 1, 2, 3, 4]
        again.end("finished")
    assert (tmp_path / "r" / "t.csv").read_text().count("written") == 1


@pytest.mark.parametrize("lines", [0, 1, 2, 4])
def test_killed_while_it_wrote(tmp_path: Path, lines: int) -> None:
    """The file tells what was about to be written: so many of the lines have come, and a part of one."""
    record = left(tmp_path / "r")
    assert record.unwritten is not None
    file = tmp_path / "r" / "t.csv"
    before = file.read_bytes()
    waiting = (tmp_path / "r" / NAME).read_bytes()
    record.unwritten.written = lambda: None  # type: ignore[method-assign]
    record.flush()
    frames, whole = (tmp_path / "r" / NAME).read_bytes(), file.read_bytes()
    assert len(frames) > len(waiting)
    torn = whole[len(before) :].splitlines(keepends=True)
    file.write_bytes(before + b"".join(torn[:lines]) + (torn[lines][:3] if lines < 4 else b""))
    died(record)
    assert sorted(read(tmp_path / "r").frame("t")["k"]) == [0, 1, 2, 3, 4]
    again = Record(tmp_path / "r", {}, resume=True)
    assert sorted(again.frame("t", every_session=True)["k"]) == [0, 1, 2, 3, 4]


def test_readings_come_back_bit_for_bit(tmp_path: Path) -> None:
    kept = Unwritten(tmp_path, 3)
    values = np.array([[0.1, np.nan, 1e-300], [np.inf, -0.0, 2 / 3]])
    number = kept.layout("charges", ["observed", "exact"], np.array([0, 0, 1]), np.array([-1, 4, -1]))
    loss = kept.layout("metrics", ["value"], name="loss")
    for step in (7, 8):
        kept.reading(number, step, values.tobytes())
        kept.reading(loss, step, np.array([0.5]).tobytes())
        kept.keep()
    rows = read_all(tmp_path)["charges"]
    assert rows["step"].tolist() == [7] * 3 + [8] * 3
    assert rows[["symmetry", "member"]].values.tolist() == [[0, -1], [0, 4], [1, -1]] * 2
    assert rows[["observed", "exact"]].to_numpy()[:3].T.tobytes() == values.tobytes()
    assert set(rows["session"]) == {3}
    assert read_all(tmp_path)["metrics"][["step", "name", "value"]].values.tolist() == [
        [7, "loss", 0.5],
        [8, "loss", 0.5],
    ]


def read_all(path: Path) -> dict[str, pd.DataFrame]:
    """The tables of a directory in which nothing was written yet."""
    left = UnwrittenReader(path)
    return {table: left.missing(table, pd.DataFrame(), 0) for table in left.tables()}


def test_what_was_read_before_a_frame_that_is_none_stays(tmp_path: Path) -> None:
    good = beginning(names=["k"], who=[[0, 1], [-1, -1]]) + frame(1, np.arange(2.0).tobytes())
    (tmp_path / NAME).write_bytes(good + frame(1, bytes(8)) + frame(1, np.arange(2.0).tobytes()))
    assert read_all(tmp_path)["t"]["k"].tolist() == [0, 1]


def test_a_table_without_rows_is_none(tmp_path: Path) -> None:
    with Record(tmp_path / "r", {}) as record:
        record.append("t", {"k": []})
        record.append("u", {"k": [1]})
        run = read(tmp_path / "r")
        assert (run.tables, run.frame("t").empty, run.frame("u")["k"].tolist()) == (["u"], True, [1])


def test_parsed_once_for_all_tables_and_again_when_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neuromech.record import unwritten

    record, parsed = left(tmp_path / "r"), []
    record.append("u", {"k": [1]})
    parse = unwritten._parsed
    monkeypatch.setattr(unwritten, "_parsed", lambda data: parsed.append(len(data)) or parse(data))
    run = read(tmp_path / "r")
    assert [len(run.frame(t)) for t in (*run.tables, *run.tables)] == [5, 1] * 2
    assert len(parsed) == 1
    record.append("u", {"k": [2]})
    assert [len(run.frame(t)) for t in run.tables] == [5, 2]
    assert len(parsed) == 2
    record.flush()
    assert [len(run.frame(t)) for t in run.tables] == [5, 2]


def test_a_file_that_is_torn_anywhere_gives_what_came_before(tmp_path: Path) -> None:
    record = left(tmp_path / "r")
    data = (tmp_path / "r" / NAME).read_bytes()
    counts = []
    for end in range(len(data) + 1):
        (tmp_path / "r" / NAME).write_bytes(data[:end])
        counts.append(len(read(tmp_path / "r").frame("t")))
    assert counts == sorted(counts)
    assert set(counts) == {1, 2, 3, 4, 5}
    died(record)


def frame(kind: int, body: bytes) -> bytes:
    return struct.pack("<BIqI", kind, 0, 0, len(body)) + body


def beginning(**layout: object) -> bytes:
    said = {"table": "t", "same": {}} | layout
    return b"neuromech rows that wait, 1\n0\n" + frame(0, json.dumps(said).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"something else",
        b"neuromech rows that wait, 1\nx\n",
        b"neuromech rows that wait, 1\n0\n" + bytes([9]) + bytes(16),
        b"neuromech rows that wait, 1\n0\n" + Unwritten.__doc__.encode(),  # type: ignore[union-attr]
        b'neuromech rows that wait, 1\n0\n\x02' + bytes(12) + b'\x18\0\0\0{"../../t": {"k": [1]}}  ',
        b'neuromech rows that wait, 1\n0\n\x02' + bytes(12) + b'\x12\0\0\0{"t": {"k": "no"}}',
        b'neuromech rows that wait, 1\n0\n\x00' + bytes(12) + b'\x02\0\0\0[]',
        b'neuromech rows that wait, 1\n0\n\x02' + bytes(12) + b'\x0a\0\0\0{"t": [1]}',
        b'neuromech rows that wait, 1\n0\n\x02' + bytes(12) + b'\x02\0\0\0[]',
        b'neuromech rows that wait, 1\n0\n\x03' + bytes(12) + b'\x17\0\0\0["t", Infinity, 1, 10]',
        beginning(names=["k"], who=[[10**30], [1]]),
        beginning(names=["k"], who=[[0], [-1]]) + frame(1, bytes(12)),
        beginning(names=["k"], who=[[0, 1], [-1, -1]]) + frame(1, bytes(8)),
        beginning(names=["../k"], who=[]) + frame(1, bytes(8)),
        beginning(names=[], who=[]) + frame(1, bytes(8)),
        beginning(names=["k"], who=[]) + frame(1, b"") + frame(2, b'{"t": {"k": []}}'),
    ],
)  # fmt: skip
def test_a_foreign_file_is_nothing(tmp_path: Path, data: bytes) -> None:
    with Record(tmp_path / "r", {}) as record:
        record.append("t", {"k": [1]})
    (tmp_path / "r" / NAME).write_bytes(data)
    run = read(tmp_path / "r")
    assert run.frame("t")["k"].tolist() == [1]
    assert run.tables == ["t"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / NAME).symlink_to(tmp_path / "elsewhere")
    with Record(tmp_path / "r", {}) as record:
        record.append("t", {"k": [1]})
        assert read(tmp_path / "r").frame("t")["k"].tolist() == [1]
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert read(tmp_path / "r").frame("t")["k"].tolist() == [1]


def test_every_step_is_there_before_anything_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same frames, bit for bit, as from the tables that are written later."""
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monkeypatch.setattr("neuromech.dynamics.writer.SHARE", 1e-9)
    probe = neuromech.instrument(model, run=tmp_path / "r")
    for k in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(4, 5)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        probe.log(mine=k)
    names = "steps", "charges", "terms", "metrics"
    early = {name: read(tmp_path / "r").frame(name) for name in names}
    probe.remove()
    assert early["steps"]["step"].max() == 12
    for name in names:
        late = read(tmp_path / "r").frame(name)
        keys = [c for c in ("step", "symmetry", "member", "name") if c in late]
        before, after = (
            x.sort_values(keys, kind="stable")[list(late)].reset_index(drop=True) for x in (early[name], late)
        )
        assert before.equals(after.astype(before.dtypes.to_dict())), name


FAST = """
import os, sys, torch, neuromech
from torch import nn
model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
probe = neuromech.instrument(model, run=sys.argv[1])
x, y = torch.randn(16, 20), torch.randint(0, 5, (16,))
while True:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    os.write(1, b".")
"""


@pytest.mark.slow
def test_kill_9_in_a_fast_loop_loses_no_step(tmp_path: Path) -> None:
    for trial in range(3):
        run = tmp_path / f"r{trial}"
        with subprocess.Popen([sys.executable, "-c", FAST, str(run)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            taken = len(os.read(process.stdout.fileno(), 1))
            time.sleep(0.3 + 0.17 * trial)
            process.send_signal(signal.SIGKILL)
            taken += len(process.stdout.read())
        for name in ("steps", "charges", "terms"):
            rows = read(run).frame(name)
            assert sorted(rows["step"].unique()) == list(range(int(rows["step"].max()) + 1))
            assert rows["step"].max() in (taken, taken + 1), name
        loss = read(run).frame("metrics").query("name == 'loss'")
        assert loss["step"].tolist() in ([*range(1, taken + 1)], [*range(1, taken + 2)])
