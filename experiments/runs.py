"""What every experiment shares: its command line, and its run directory.

A run directory holds a record (`neuromech.record`: run.json with the configuration, one CSV a table), states of
training and tensors in .pt files, and `done` once it is; what `instrument` records in between goes to `record`. Nothing
is made twice.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from neuromech.errors import RecordError
from neuromech.record import Record, plain, read

DONE, META, RECORD = "done", "run.json", "record"
C = TypeVar("C")
W = TypeVar("W", bound=tuple[object, ...])


def command(experiment: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of an experiment by the name of its module: --out, and what the experiment adds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / experiment, help="where the runs go")
    return parser


def outstanding(record: Record, table: str, columns: Sequence[str], ways: Iterable[W]) -> list[W]:
    """Of the ways in which an experiment runs, those that have no rows yet: `columns` tell them apart."""
    if table not in record.tables:
        return list(ways)
    frame = record.frame(table, every_session=True)
    done = set(zip(*(frame[c] for c in columns), strict=True))
    return [way for way in ways if way not in done]


def next_command(experiment: str, out: Path) -> None:
    """Say what judges the runs."""
    print(f"runs in {out}; now: python -m analysis.{experiment} {out}")


def device(name: str) -> str:
    """`--device`, refused before anything is made if this machine does not have it."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise argparse.ArgumentTypeError(
            f"{name!r} is no device that PyTorch can use here ({reason}); try cpu"
        ) from error
    return name


@contextmanager
def run_of(directory: Path, config: Any, about: dict[str, Any] | None = None) -> Iterator[Record]:
    """The record of a run, new or gone on with; raises `RecordError` if it has another configuration."""
    wanted = plain(asdict(config))
    known = read(directory).meta if (directory / META).exists() else wanted
    if any(known.get(k) != v for k, v in wanted.items()):
        raise RecordError(f"{directory} holds a run of another configuration: give another --out, or delete it")
    with Record(directory, wanted | (about or {}), resume=True) as record:
        yield record


def record_in(directory: Path, config: Any) -> Path:
    """Where `instrument` records a training that cannot be gone on with: what was broken off there is taken away.

    Raises `RecordError` if the run has another configuration.
    """
    with run_of(directory, config):
        shutil.rmtree(directory / RECORD, ignore_errors=True)
    return directory / RECORD


def config_of(kind: type[C], directory: Path) -> C:
    """The configuration of a run, of this kind."""
    known = read(directory).meta
    names = [f.name for f in fields(kind) if f.name in known]  # type: ignore[arg-type]
    return kind(**{k: tuple(known[k]) if isinstance(known[k], list) else known[k] for k in names})


def is_done(directory: Path) -> bool:
    return (directory / DONE).exists()


def finish(directory: Path) -> Path:
    """Mark a run as done."""
    (directory / DONE).touch()
    return directory


def finished(directory: Path) -> list[Path]:
    """The run directories in `directory`, at any depth, that are done, sorted; ends the program if there is none."""
    found = sorted(p.parent for p in directory.glob(f"**/{DONE}"))
    if not found:
        raise SystemExit(f"no finished run in {directory}: run the experiment first, with --out {directory}")
    return found
