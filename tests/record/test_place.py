"""One process writes a run, links in its directory lead nowhere, and no trouble with the disk reaches the training."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import neuromech
from neuromech.errors import NeuromechWarning, RecordError
from neuromech.record import Record, read

WRITER = """
import sys
from neuromech.record import Record
record = Record(sys.argv[1], {"model": "M"}, resume=True)
record.append("steps", {"step": [0, 1], "optimizer": 0, "lr": 0.1, "time": 0.0})
record.flush()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """One that writes the run in `path` until it is told to end."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with another_process(path) as process:
        before = {p.name: p.read_bytes() for p in path.iterdir()}
        with pytest.raises(RecordError, match=rf"another process is writing .* \(process {process.pid} on "):
            Record(path, {"model": "M"}, resume=True)
        with pytest.raises(RecordError, match="another process is writing"):
            neuromech.instrument(nn.Linear(2, 2), run=path, resume=True)
        assert {p.name: p.read_bytes() for p in path.iterdir()} == before
        assert len(read(path).frame("steps")) == 2  # but it can be read
        process.send_signal(signal.SIGKILL)
        process.wait()
        Record(path, {"model": "M"}, resume=True).end("finished")  # a process that is gone holds nothing
    assert [s.get("ended", {}).get("how") for s in read(path).sessions] == [None, "finished"]


def test_a_forked_child_neither_holds_the_run_nor_gives_it_away(tmp_path: Path) -> None:
    record = Record(tmp_path / "run", {})
    child = os.fork()
    if not child:
        record.end("finished")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    code = f"from neuromech.record import Record; Record({str(tmp_path / 'run')!r}, {{}}, resume=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is writing" in done.stderr
    assert "ended" not in record.sessions[-1]


def test_within_a_process_a_later_record_takes_over(tmp_path: Path) -> None:
    """As where a cell of a notebook is run again."""
    first = Record(tmp_path / "run", {})
    second = Record(tmp_path / "run", {}, resume=True)
    first.end("finished")  # what it still says of itself must not wipe out the second session
    second.append("t", {"k": 1})
    second.end("raised", "oh no")
    assert len(read(tmp_path / "run").sessions) == 2
    assert read(tmp_path / "run").sessions[1]["ended"]["how"] == "raised"
    Record(tmp_path / "run", {}, resume=True)


def test_who_ends_makes_room(tmp_path: Path) -> None:
    Record(tmp_path / "run", {}).end("finished")
    with another_process(tmp_path / "run"):
        pass
    assert len(read(tmp_path / "run").sessions) == 2


# -- links


@pytest.fixture
def run_and_secret(tmp_path: Path) -> tuple[Path, Path]:
    secret = tmp_path / "secret"
    secret.write_text('{"sessions": [{"started": "", "meta": {"model": "secret"}}]}')
    with Record(tmp_path / "run", {"model": "M"}) as record:
        record.append("events", {"step": 1, "kind": "note", "message": "hello"})
    return tmp_path / "run", secret


def test_links_are_not_written_through(run_and_secret: tuple[Path, Path]) -> None:
    path, secret = run_and_secret
    before = secret.read_bytes()
    for name in ("run.json.tmp", "metrics.csv", "steps.csv", "steps.2.csv"):
        (path / name).symlink_to(secret)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = Record.__new__(Record)
        with pytest.raises(RecordError, match="cannot write"):
            record.__init__(path, {}, resume=True)  # type: ignore[misc]
        for name in ("metrics.csv", "steps.csv", "steps.2.csv"):
            (path / name).unlink()
        record = Record(path, {}, resume=True)
        (path / "steps.csv").symlink_to(secret)
        record.append("steps", {"step": 1, "optimizer": 0, "lr": 0.1, "time": 0.0})
        record.end("finished")
        assert [str(w.message) for w in caught if "cannot be written" in str(w.message)]
        (path / "steps.csv").unlink()
        record.flush()
    assert secret.read_bytes() == before
    assert len(read(path).frame("steps")) == 1  # nothing is lost once the link is gone


def test_links_are_not_read_through(run_and_secret: tuple[Path, Path]) -> None:
    path, secret = run_and_secret
    (path / "metrics.csv").symlink_to(secret)
    with pytest.raises(RecordError, match="a symbolic link, which is not followed"):
        read(path).frame("metrics")
    page = neuromech.open_run(path).report(path.parent / "page.html").read_text()
    assert "a symbolic link, which is not followed" in page
    (path / "run.json").unlink()
    (path / "run.json").symlink_to(secret)
    page = neuromech.open_run(path).report(path.parent / "page.html").read_text()
    assert "a symbolic link, which is not followed" in read(path).damage
    assert secret.read_text() not in page


@pytest.mark.parametrize("default", [True, False])
def test_a_report_does_not_go_where_a_link_in_the_run_points(run_and_secret: tuple[Path, Path], default: bool) -> None:
    path, secret = run_and_secret
    before = secret.read_bytes()
    (path / "report.html").symlink_to(secret)
    with pytest.raises(RecordError, match="symbolic link"):
        neuromech.open_run(path).report(None if default else path / "report.html")
    assert secret.read_bytes() == before


def test_a_pipe_or_a_device_is_not_waited_for(run_and_secret: tuple[Path, Path]) -> None:
    path, _ = run_and_secret
    os.mkfifo(path / "metrics.csv")
    with pytest.raises(RecordError, match="not a plain file"):
        read(path).frame("metrics")


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"sessions":' + "[" * 100_000)
    with pytest.raises(RecordError, match="is not what a run writes"):
        read(tmp_path)


# -- training goes on


def trained(run: Path | None, trouble: str = "") -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(16, 5), torch.randint(0, 3, (16,))
    probe = neuromech.instrument(model, run=run) if run else None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for k in range(12):
            if run and k == 4 and trouble == "vanishes":
                shutil.rmtree(run)
            if run and k == 4 and trouble == "becomes a file":
                shutil.rmtree(run)
                run.write_text("")
            if run and k == 4 and trouble == "fills up":
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))  # the kernel refuses what goes beyond
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            if probe:
                probe.flush()
                probe._record.flush()
        if run and trouble == "becomes a file":
            run.unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        if probe:
            probe.remove()
            assert len(probe.history.query("member == -1 and symmetry == 0")) == (8 if trouble != "fills up" else 13)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("trouble", ["vanishes", "becomes a file", "fills up"])
def test_no_trouble_with_the_disk_ends_or_changes_training(tmp_path: Path, trouble: str) -> None:
    bare = trained(None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched = trained(tmp_path / "run", trouble)
    assert all(torch.equal(a, b) for a, b in zip(bare, watched, strict=True))
    assert {w.category for w in caught} == {NeuromechWarning}
    assert len(caught) == 1 + (trouble == "becomes a file")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][0]["ended"]["how"] == "finished"
