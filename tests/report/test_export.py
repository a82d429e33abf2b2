"""Exports, read back with the tools that they are for."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neuromech.errors import RecordError
from neuromech.record import Record, Run, read
from neuromech.report import export_run

from .simulate import FAMILIES, train

EVIL = "=cmd|'/c calc'!A0 <script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    path = tmp_path_factory.mktemp("exported") / "run"
    record = train(12, path=path, name=EVIL, config={"lr": 0.1, EVIL: EVIL})
    record.append("metrics", {"step": range(1, 13), "name": "loss", "value": np.linspace(2.0, 0.5, 12)})
    record.append("metrics", {"step": [3, 4], "name": EVIL, "value": [np.nan, np.inf]})
    record.append("events", {"step": 1, "kind": "note", "message": EVIL})
    record.append("sides", {"step": 1, "symmetry": 0, "weights_up": 1.0})
    record.append("matrices", {"step": 1, "symmetry": 0, "size": 1.0})
    record.end("finished")
    return read(path)


def test_tensorboard_reads_every_number_at_its_step(run: Run, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(export_run(run, "tensorboard", tmp_path / "tb")), {"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"metrics/loss", "optimizer/lr"} <= tags
    loss = events.Scalars("metrics/loss")
    assert [e.step for e in loss] == list(range(1, 13))
    assert [e.value for e in loss] == pytest.approx(np.linspace(2.0, 0.5, 12), rel=1e-6)
    charges = run.frame("charges").query("member == -1")
    for i, s in enumerate(FAMILIES):
        seen = events.Scalars(f"charges/{s.name}/observed")
        assert [e.value for e in seen] == pytest.approx(charges[charges["symmetry"] == i]["observed"], rel=1e-6)
    assert not np.isfinite([e.value for e in events.Scalars(next(t for t in tags if "script" in t))]).any()


def test_parquet_keeps_every_bit(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = export_run(run, "parquet", tmp_path / "parquet")
    for table in ("steps", "charges", "metrics", "events"):
        pd.testing.assert_frame_equal(pd.read_parquet(path / f"{table}.parquet"), run.frame(table))


def test_csv_is_read_by_pandas_and_no_cell_is_a_formula(run: Run, tmp_path: Path) -> None:
    path = export_run(run, "csv", tmp_path / "csv")
    assert {f.stem for f in path.glob("*.csv")} == {*run.tables}  # none is left out
    assert np.array_equal(pd.read_csv(path / "charges.csv")["observed"], run.frame("charges")["observed"])
    for file in path.glob("*.csv"):
        rows = pd.read_csv(file)
        for column in rows.select_dtypes(exclude="number"):
            assert not rows[column].astype(str).str.match(r"[=+\-@\t\r]").any()


@pytest.mark.slow  # wandb starts a service of its own
def test_wandb_offline_holds_the_history(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_SILENT", "true")
    path = export_run(run, "wandb", tmp_path / "wandb")
    wandb.teardown()  # the service writes on after a run is finished, and is waited for where a process ends
    losses, name = [], ""
    (file,) = {f.resolve() for f in path.rglob("*.wandb")}
    for data in logged(file.read_bytes()):
        record = protocol.Record()
        record.ParseFromString(data)
        name = record.run.display_name or name
        said = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        losses += [float(said["metrics/loss"])] if "metrics/loss" in said else []
    assert losses == pytest.approx(np.linspace(2.0, 0.5, 12), rel=1e-12)
    assert name == EVIL


def logged(data: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log behind a header of 7 bytes: blocks of 32 KiB; crc, length, whole/first/middle/last."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_an_empty_run_and_an_unknown_tool(tmp_path: Path) -> None:
    record = Record(tmp_path / "run", {})
    for to in ("csv", "tensorboard"):
        assert export_run(record, to, tmp_path / to).is_dir()
    with pytest.raises(RecordError, match="choose tensorboard"):
        export_run(record, "excel", tmp_path / "x")
    (tmp_path / "run" / "export-csv").symlink_to(tmp_path)
    with pytest.raises(RecordError, match="symbolic link"):
        export_run(record, "csv", tmp_path / "run" / "export-csv")


def test_a_missing_package_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecordError, match="pip install wandb"):
        export_run(run, "wandb", tmp_path / "w")
