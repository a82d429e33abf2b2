"""A record gives back what it was given, bit for bit, whatever happens to the process, the disk or the directory."""

from __future__ import annotations

import errno
import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuromech.errors import NeuromechWarning, RecordError
from neuromech.record import Record, read
from neuromech.record.unwritten import Unwritten

NAMES = [{"name": "a.weight rows", "size": 3}]


def steps(first: int, last: int) -> dict[str, object]:
    n = list(range(first, last + 1))
    return {"step": n, "optimizer": 0, "lr": [0.1 / (1 + k) for k in n], "time": [0.1 * k for k in n]}


@contextmanager
def collected() -> Iterator[list[str]]:
    """The texts of all our warnings in the block."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    assert {w.category for w in caught} <= {NeuromechWarning}
    texts += [str(w.message) for w in caught]


# -- what goes in comes out ------------------------------------------------------------------------------------------

floats = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@st.composite
def chunks(draw: st.DrawFn) -> list[dict[str, list[object]]]:
    def chunk(n: int) -> dict[str, list[object]]:
        def column(of: st.SearchStrategy[object]) -> list[object]:
            return draw(st.lists(of, min_size=n, max_size=n))

        return {"step": column(st.integers(0, 2**53)), "x": column(floats), "y": column(floats), "said": column(texts)}

    return [chunk(n) for n in draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))]


@given(chunks())
@settings(max_examples=60, deadline=None)
def test_memory_disk_and_reader_give_back_every_bit(tmp_path_factory, given_chunks) -> None:
    path = tmp_path_factory.mktemp("run") / "r"
    with Record(path, {}) as disk, Record(None, {}) as memory:
        for chunk in given_chunks:
            disk.append("t", chunk)
            memory.append("t", chunk)
    whole = {name: [x for c in given_chunks for x in c[name]] for name in ("step", "x", "y", "said")}
    for frame in (disk.frame("t"), memory.frame("t"), read(path).frame("t")):
        assert len(frame) == len(whole["step"])
        if len(frame):
            assert frame["step"].tolist() == whole["step"]
            for name in "xy":  # compared as bits: -0.0 is not 0.0
                ours, theirs = (np.array(v, dtype=float) for v in (frame[name], whole[name]))
                assert np.array_equal(np.isnan(ours), np.isnan(theirs))
                assert ours[~np.isnan(ours)].tobytes() == theirs[~np.isnan(theirs)].tobytes()
            assert frame["said"].tolist() == [" ".join(str(t).splitlines()) for t in whole["said"]]


def test_pandas_alone_reads_the_tables(tmp_path: Path) -> None:
    with Record(tmp_path / "r", {"model": "M"}) as record:
        record.append("steps", steps(0, 9))
        record.append("events", {"step": 3, "kind": "note", "message": 'a "quoted", split\nline'})
    seen = pd.read_csv(tmp_path / "r" / "steps.csv")
    assert list(seen) == ["step", "optimizer", "lr", "time", "session"]
    assert seen["lr"].tolist() == pytest.approx(steps(0, 9)["lr"], rel=1e-15)
    assert pd.read_csv(tmp_path / "r" / "events.csv")["message"].tolist() == ['a "quoted", split line']


def test_columns_may_be_arrays_tensors_scalars_or_lists_of_them() -> None:
    record = Record(None, {})
    record.append("t", {"a": np.arange(2), "b": torch.tensor([0.5, 1.5]), "c": 7, "d": [np.float32(0.1), None]})
    record.append(
        "t", {"a": range(2), "b": (x for x in (1, 2)), "c": [True, False], "d": [torch.tensor(2.0), math.nan]}
    )
    got = record.frame("t")
    assert got["a"].tolist() == [0, 1, 0, 1]
    assert got["b"].tolist() == [0.5, 1.5, 1.0, 2.0]
    assert got["c"].tolist() == [7, 7, 1, 0]
    assert got["d"].tolist()[0] == float(np.float32(0.1))
    assert got["d"].isna().tolist() == [False, True, False, True]


def test_what_is_appended_is_a_copy() -> None:
    record, column = Record(None, {}), [1, 2]
    record.append("t", {"a": column})
    column[0] = 9
    assert record.frame("t")["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("table", "rows", "says"),
    [
        ("t", {"a": [1, 2], "b": [1]}, "different lengths"),
        ("t", {}, "at least one column"),
        ("../t", {"a": [1]}, "letters"),
        ("t", {"a,b": [1]}, "letters"),
        ("t", {"session": [1]}, "session"),
    ],
)
def test_ill_formed_rows_are_refused(table: str, rows: dict[str, list[int]], says: str) -> None:
    with pytest.raises(RecordError, match=says):
        Record(None, {}).append(table, rows)


def test_new_columns_go_to_a_further_file_and_nothing_is_lost(tmp_path: Path) -> None:
    with Record(tmp_path / "r", {}) as record:
        record.append("t", {"a": [1], "b": [2]})
        record.append("t", {"b": [4], "a": [3]})
        record.append("t", {"a": [5], "c": [6]})
        record.flush()
        record.append("t", {"a": [7], "b": [8]})
    assert sorted(p.name for p in (tmp_path / "r").glob("*.csv")) == ["t.2.csv", "t.csv"]
    got = read(tmp_path / "r").frame("t").sort_values("a")
    assert got["a"].tolist() == [1, 3, 5, 7]
    assert got["b"].fillna(-1).tolist() == [2, 4, -1, 8]
    assert read(tmp_path / "r").tables == ["t"]


def test_rows_wait_until_a_threshold_and_meta_is_there_at_once(tmp_path: Path) -> None:
    record = Record(tmp_path / "r", {"model": "M"}, flush_rows=10, flush_seconds=1e9)
    record.append("t", {"a": range(9)})
    assert not (tmp_path / "r" / "t.csv").exists()
    assert read(tmp_path / "r").meta == {"model": "M"}
    record.append("t", {"a": [9]})
    assert len((tmp_path / "r" / "t.csv").read_text().splitlines()) == 11
    clocked = Record(tmp_path / "s", {}, flush_seconds=0.0)
    clocked.append("t", {"a": [1]})
    assert (tmp_path / "s" / "t.csv").read_text() == "a,session\n1,0\n"


def test_meta_is_strict_json_and_can_be_updated(tmp_path: Path) -> None:
    meta = {"defect": math.nan, "worst": math.inf, "shape": (2, 3), "dtype": torch.float32, "n": np.int64(3)}
    record = Record(tmp_path / "r", meta)
    record.update_meta({"optimizers": [{"lr": 0.1}]})
    expected = {"defect": None, "worst": "inf", "shape": [2, 3], "dtype": "torch.float32", "n": 3}
    expected |= {"optimizers": [{"lr": 0.1}]}
    assert record.meta == read(tmp_path / "r").meta == expected
    json.loads((tmp_path / "r" / "run.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert {p.name for p in (tmp_path / "r").iterdir()} == {"run.json", ".lock"}


def test_a_table_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert Record(tmp_path / "r", {}).frame("steps").empty
    assert read(tmp_path / "r").frame("steps").empty
    assert Record(None, {}).tables == []


# -- the process dies ------------------------------------------------------------------------------------------------

WRITER = """
import sys
from neuromech.record import Record
record = Record(sys.argv[1], {"model": "M"}, flush_rows=200, flush_seconds=1e9)
k = 0
while True:
    record.append("t", {"k": range(k, k + 50), "x": [0.1 * i for i in range(k, k + 50)]})
    k += 50
    if k == 4000:
        print("go", flush=True)
"""


def test_kill_9_while_writing_loses_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "r")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    got = read(tmp_path / "r").frame("t")
    assert len(got) >= 4000
    assert got["k"].tolist() == list(range(len(got)))
    assert got["x"].tolist() == [0.1 * k for k in range(len(got))]
    assert read(tmp_path / "r").meta == {"model": "M"}


ENDINGS = {
    "exit": "",
    "exception": "1 / 0",
    "deleted": "del record",
    "cycle": "record.me = record; del record; import gc; gc.collect(); os._exit(0)",
    "fork": "if os.fork() == 0: record.append('t', {'k': [99]}); record.flush(); sys.exit()\nos.wait()",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_are_written_once_when_the_process_ends_by_itself(tmp_path: Path, ending: str) -> None:
    code = "import os, sys\nfrom neuromech.record import Record\nrecord = Record(sys.argv[1], {})\n"
    code += "record.append('t', {'k': [1, 2]})\n" + ENDINGS[ending]
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], capture_output=True, text=True, check=False)
    assert run.returncode == (1 if ending == "exception" else 0), run.stderr
    assert read(tmp_path / "r").frame("t")["k"].tolist() == [1, 2]


def test_dropping_a_record_frees_it() -> None:
    record = Record(None, {})
    alive = weakref.ref(record)
    del record
    assert alive() is None


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_torn_last_line_costs_that_line_only(tmp_path: Path, cut: int) -> None:
    with Record(tmp_path / "r", {}) as record:
        record.append("t", {"k": [1, 2], "x": [0.25, 12345.0]})
    file = tmp_path / "r" / "t.csv"
    whole = file.read_bytes()
    assert whole.endswith(b"\n2,12345.0,0\n")
    torn = whole[:-cut]
    file.write_bytes(torn)
    kept = [1] if cut < 13 else []  # the newline of the line before is torn, too
    assert read(tmp_path / "r").frame("t").get("k", pd.Series(dtype=int)).tolist() == kept
    with Record(tmp_path / "r", {}, resume=True) as record:
        record.append("t", {"k": [3], "x": [0.5]})
    assert pd.read_csv(file)["k"].tolist() == [*kept, 3]
    assert read(tmp_path / "r").frame("t")["x"].tolist() == [*[0.25] * len(kept), 0.5]


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    Record(tmp_path / "r", {})
    (tmp_path / "r" / "t.csv").write_text("k,ses")
    with Record(tmp_path / "r", {}, resume=True) as record:
        record.append("t", {"k": [3]})
    assert (tmp_path / "r" / "t.csv").read_text() == "k,session\n3,1\n"


# -- resuming --------------------------------------------------------------------------------------------------------


def test_a_second_run_needs_resume_or_another_directory(tmp_path: Path) -> None:
    with Record(tmp_path / "r", {}) as record:
        record.append("steps", steps(0, 120))
    before = {p.name: p.read_bytes() for p in (tmp_path / "r").iterdir()}
    with pytest.raises(RecordError, match=r"a run of 120 steps: choose another directory, or pass resume=True"):
        Record(tmp_path / "r", {})
    assert {p.name: p.read_bytes() for p in (tmp_path / "r").iterdir()} == before


def test_resuming_takes_over_from_its_first_step_and_erases_nothing(tmp_path: Path) -> None:
    with Record(tmp_path / "r", {"model": "M", "symmetries": NAMES}) as record:
        record.append("steps", steps(0, 950))
        record.append("events", {"step": [10, 940], "kind": "note", "message": ["early", "of the branch given up"]})
    old = (tmp_path / "r" / "steps.csv").read_bytes()
    with Record(tmp_path / "r", {"model": "M", "torch": "3"}, resume=True) as record:
        assert record.session == 1
        record.append("steps", steps(901, 960))
        live = record.frame("steps")
    for got in (live, read(tmp_path / "r").frame("steps")):
        assert got["step"].tolist() == list(range(961))
        assert got["session"].tolist() == [0] * 901 + [1] * 60
    assert (tmp_path / "r" / "steps.csv").read_bytes().startswith(old)
    run = read(tmp_path / "r")
    assert len(run.frame("steps", every_session=True)) == 951 + 60
    assert run.frame("events")["message"].tolist() == ["early"]
    assert run.meta == {"model": "M", "torch": "3", "symmetries": NAMES}  # the new session has found none yet
    assert [s["meta"].get("torch") for s in run.sessions] == [None, "3"]


def test_a_resumed_session_that_dies_early_hides_the_branch_behind_it(tmp_path: Path) -> None:
    for first, last in ((0, 50), (31, 35), (33, 40)):
        with Record(tmp_path / "r", {}, resume=True) as record:
            record.append("steps", steps(first, last))
    got = read(tmp_path / "r").frame("steps")
    assert got["step"].tolist() == list(range(41))
    assert got["session"].tolist() == [0] * 31 + [1] * 2 + [2] * 8


def test_a_session_without_rows_hides_nothing(tmp_path: Path) -> None:
    with Record(tmp_path / "r", {}) as record:
        record.append("steps", steps(0, 5))
    Record(tmp_path / "r", {}, resume=True).close()
    assert len(read(tmp_path / "r").frame("steps")) == 6


def test_resuming_with_another_model_is_refused(tmp_path: Path) -> None:
    other = [{"name": "b.weight rows", "size": 3}]
    Record(tmp_path / "r", {"symmetries": NAMES})
    with pytest.raises(RecordError, match="other symmetries"):
        Record(tmp_path / "r", {"symmetries": other}, resume=True)
    late = Record(tmp_path / "r", {}, resume=True)
    with pytest.raises(RecordError, match="same model"):
        late.update_meta({"symmetries": other})
    late.update_meta({"symmetries": NAMES})
    fresh = Record(None, {"symmetries": NAMES})
    fresh.update_meta({"symmetries": other})  # one session alone may say more as it learns more


# -- bad places ------------------------------------------------------------------------------------------------------


def test_bad_places_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere/r")):
        with pytest.raises(RecordError, match="Choose another"):
            Record(place, {})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "steps.csv").write_text("mine\n1\n")
    for resume in (False, True):
        with pytest.raises(RecordError, match="belong to no run"):
            Record(tmp_path / "data", {}, resume=resume)
    assert (tmp_path / "data" / "steps.csv").read_text() == "mine\n1\n"


def test_a_directory_that_takes_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("neuromech.record.record.write_sessions", refuse)
    with pytest.raises(RecordError, match=r"Permission denied.*Choose another run directory"):
        Record(tmp_path / "r", {})


def test_reading_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not a directory"):
        read(tmp_path / "none")
    with pytest.raises(RecordError, match="holds no run"):
        Record.open(tmp_path)
    Record(tmp_path / "r", {}).append("t", {"k": [1]})
    (tmp_path / "r" / "t.csv").write_text('k,session\n1,0\n"2,0\n3,0,0,0\n')
    with pytest.raises(RecordError, match=r"t\.csv is not a table"):
        read(tmp_path / "r").frame("t")
    for broken in ("{", "[]", '{"sessions": [1]}', '{"sessions": [{}]}'):
        (tmp_path / "r" / "run.json").write_text(broken)
        assert "run.json is not what a run writes" in read(tmp_path / "r").damage  # the tables are there all the same
        with pytest.raises(RecordError, match=r"run\.json is not what a run writes"):
            Record(tmp_path / "r", {}, resume=True)


def test_tables_without_meta_can_still_be_read(tmp_path: Path) -> None:
    with Record(tmp_path / "r", {}) as record:
        record.append("t", {"k": [1]})
    (tmp_path / "r" / "run.json").unlink()
    assert read(tmp_path / "r").meta == {}
    assert read(tmp_path / "r").frame("t")["k"].tolist() == [1]


def test_a_relative_directory_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = Record("runs/r", {})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    record.append("t", {"k": [1]})
    record.close()
    assert (tmp_path / "runs" / "r" / "t.csv").exists()


# -- the disk fails in mid-run ---------------------------------------------------------------------------------------


def test_a_full_disk_gives_one_warning_and_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room, real = [63], os.write  # ends within a line

    def write(handle: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(handle, bytes(data)[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(Unwritten, "_write", lambda self, data: False)  # no room for what waits either
    record = Record(tmp_path / "r", {})
    record.append("t", {"k": [1], "x": [0.5]})
    record.flush()
    with collected() as caught:
        for k in range(2, 30):
            record.append("t", {"k": [k], "x": [0.1 * k]})
            record.flush()
    assert ["No space left on device. They are kept in memory" in w for w in caught] == [True]
    first = [line.split(",")[0] for line in (tmp_path / "r" / "t.csv").read_text().splitlines()[1:]]
    assert first == [str(k) for k in range(1, len(first) + 1)]  # whole lines only, though the disk took half of one
    assert record.frame("t")["k"].tolist() == list(range(1, 30))
    room[0] = 10**6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record.close()
    assert read(tmp_path / "r").frame("t")["k"].tolist() == list(range(1, 30))
    assert read(tmp_path / "r").frame("t")["x"].tolist() == [0.5] + [0.1 * k for k in range(2, 30)]


def test_a_directory_that_goes_and_comes_back(tmp_path: Path) -> None:
    here, away = tmp_path / "disk" / "r", tmp_path / "away"
    record = Record(here, {"model": "M"})
    record.append("t", {"k": [1]})
    record.flush()
    (tmp_path / "disk").rename(away)
    with collected() as caught:
        for k in (2, 3):
            record.append("t", {"k": [k]})
            record.update_meta({"k": k})
            record.flush()
    assert ["kept in memory" in w for w in caught] == [True]
    assert record.frame("t")["k"].tolist() == [2, 3]
    away.rename(tmp_path / "disk")
    record.flush()
    assert read(here).frame("t")["k"].tolist() == [1, 2, 3]
    assert read(here).meta == {"model": "M", "k": 3}


def test_a_deleted_directory_is_made_anew(tmp_path: Path) -> None:
    record = Record(tmp_path / "r", {"model": "M"})
    record.append("t", {"k": [1]})
    record.flush()
    shutil.rmtree(tmp_path / "r")
    record.append("t", {"k": [2]})
    with pytest.warns(NeuromechWarning, match="vanished and was made anew"):
        record.flush()
    assert read(tmp_path / "r").frame("t")["k"].tolist() == [2]
    assert read(tmp_path / "r").meta == {"model": "M"}


@pytest.mark.slow
def test_rows_that_are_lost_for_good_are_counted(tmp_path: Path) -> None:
    record = Record(tmp_path / "disk" / "r", {})
    shutil.rmtree(tmp_path / "disk")
    record.append("t", {"k": [1, 2, 3]})
    with collected() as caught:
        record.close()
        del record
        gc.collect()
    assert ["3 rows could not be written" in w for w in caught] == [False, True]


def test_a_reader_sees_a_run_that_is_still_written(tmp_path: Path) -> None:
    record, run = Record(tmp_path / "r", {}), None
    for k in range(3):
        record.append("t", {"k": [k]})
        record.flush()
        run = run or read(tmp_path / "r")
        assert len(run.frame("t")) == k + 1


def test_writing_is_cheaper_than_pandas_would_be(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {f"c{i}": rng.standard_normal(20_000).tolist() for i in range(12)}
    frame = pd.DataFrame(rows)

    def best(work: object) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            work()  # type: ignore[operator]
            times.append(time.perf_counter() - start)
        return min(times)

    def ours() -> None:
        record = Record(None, {})
        record.path = tmp_path / "r"
        (tmp_path / "r").mkdir(exist_ok=True)
        record.append("t", rows)
        record.flush()

    ratio = best(ours) / best(lambda: frame.to_csv(tmp_path / "p.csv"))
    print(f"writing 240,000 floats takes {ratio:.2f} of what DataFrame.to_csv takes")
    assert ratio < 1
