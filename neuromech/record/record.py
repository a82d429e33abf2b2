"""Writing a run: rows are buffered and flushed; a disk that fails never stops the training that is recorded."""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, groupby
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.errors import RecordError, warn
from neuromech.record import process, tables
from neuromech.record.place import Lock, Taken
from neuromech.record.run import Run, Session, check_symmetries, plain, read, read_sessions, write_sessions
from neuromech.record.tables import Columns, columns_of, length
from neuromech.record.unwritten import NAME, Unwritten, bringing

if TYPE_CHECKING:
    import pandas as pd


FEW = 1000  # rows that are kept as they come: more of them are written soon


class Record(Run):
    """A run that is being written. `path` None: kept in memory only.

    `meta`: plain data about the run, kept as JSON keeps it (nan becomes None, tuples become lists). Rows are buffered,
    and written once `flush_rows` wait or `flush_seconds` have passed since the last attempt, and at `flush`, `close`
    and exit. If the disk fails in mid-run there is one warning, and rows wait in memory until an attempt succeeds.

    Raises `RecordError` if the directory cannot be made or written, if another process writes it, if it holds a run
    already and `resume` is false, or if that run has other symmetries. Within one process a later record of a
    directory takes over from an earlier one, whose session it leaves as it is. `resume` in a directory without a run
    starts one.
    """

    open = staticmethod(read)

    def __init__(
        self,
        path: str | Path | None,
        meta: Mapping[str, Any],
        resume: bool = False,
        *,
        flush_rows: int = 50_000,
        flush_seconds: float = 5.0,
    ) -> None:
        directory = None if path is None else Path(path).expanduser().absolute()
        self._lock = Lock(directory) if directory else None
        super().__init__(directory, _prepare(directory, resume, self._lock) if directory and self._lock else [])
        try:
            check_symmetries(self.path, self.sessions, meta)
        except RecordError:
            self._unlock()
            raise
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self.session = len(self.sessions)
        began = {"session": self.session, "started": started, "process": process.describe()}
        self.sessions.append(began | {"meta": self.meta | plain(meta)})
        self._pending: dict[str, list[Columns]] = {}
        self._kept: dict[str, list[dict[str, np.ndarray] | pd.DataFrame]] = {}  # without a directory, rows end here
        self._waiting, self._tried, self._failing = 0, time.monotonic(), False
        self._flush_rows, self._flush_seconds, self._process = flush_rows, flush_seconds, os.getpid()
        try:
            self._write_meta()
        except OSError as error:
            raise RecordError(f"cannot write to {self.path}: {error}. Choose another run directory") from error
        self.unwritten = Unwritten(self.path, self.session, self._lock) if self.path is not None else None
        self._begun = True
        _live.add(self)

    @property
    def tables(self) -> list[str]:
        return sorted({*super().tables, *self._kept, *(table for table, chunks in self._pending.items() if chunks)})

    def update_meta(self, changes: Mapping[str, Any]) -> None:
        """Replace some keys of `meta`. Raises `RecordError` for other symmetries than those of earlier sessions."""
        check_symmetries(self.path, self.sessions[:-1], changes)
        self.sessions[-1]["meta"] = self.meta | plain(changes)
        try:
            self._write_meta()
        except OSError as error:
            self._warn(error)

    def append(self, table: str, rows: Mapping[str, Any], kept: bool = False) -> None:
        """Add rows, given as columns: sequences of one length (lists, arrays, tensors); a single value is repeated.

        Text is kept on one line. `kept`: `unwritten` has them already.
        Raises `RecordError` for columns of different lengths or a name that is none.
        """
        if "session" in rows:
            raise RecordError(f"table {table!r}: the record adds the column session itself")
        columns = columns_of(table, rows)
        self._pending.setdefault(table, []).append(columns)
        self._waiting += length(columns)
        if self.unwritten is not None:
            if not kept and length(columns) <= FEW:
                self.unwritten.rows(table, {name: [*map(_alike_on_disk, c)] for name, c in columns.items()})
            self.unwritten.take(table)
        if self._waiting >= self._flush_rows or time.monotonic() - self._tried >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Bring all rows that wait to the disk; those that cannot be written go on waiting."""
        if os.getpid() != self._process:
            return  # a forked child has a copy of the rows that wait: they are its parent's to write
        self._waiting, self._tried = 0, time.monotonic()
        try:
            if self.path is not None and any(self._pending.values()) and not self.path.is_dir():
                self._make_anew()
            for table, chunks in self._pending.items():
                for same in _alike(chunks):
                    self._put(table, {name: list(chain.from_iterable(c[name] for c in same)) for name in same[0]})
                    del chunks[: len(same)]
            if self._failing:
                self._write_meta()
            self._failing = False
            if self.unwritten is not None:
                self.unwritten.written()
        except OSError as error:
            self._warn(error)

    def end(self, how: str, what: str = "") -> None:
        """Flush, and say how the session ended, the first time that it is said."""
        self.flush()
        if "ended" in self.sessions[-1] or os.getpid() != self._process:
            return
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self.sessions[-1]["ended"] = {"when": when, "how": how, "what": tables.one_line(what)}
        try:
            self._write_meta()
        except OSError as error:
            self._warn(error)
        self._unlock()

    def close(self) -> None:
        """Flush. A closed record can still be read, and even appended to."""
        self.flush()

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end(*how_it_ended(error))

    def __del__(self) -> None:
        if getattr(self, "_begun", False) and os is not None:  # modules are gone when Python is about to be
            self._end()

    def _end(self) -> None:
        if _exiting:
            self.end(*how_it_ended(getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)))
        self.flush()
        self._unlock()
        lost = sum(length(c) for chunks in self._pending.values() for c in chunks)
        if lost and os.getpid() == self._process:
            message = f"{lost} rows could not be written to {self.path} and are lost"
            warn(message, "records lost", short=f"{lost} rows of the records are lost")

    def waiting(self, table: str) -> pd.DataFrame:
        return tables.joined([])  # they are in memory

    def _put(self, table: str, columns: Columns) -> None:
        if self.path is None:
            self._kept.setdefault(table, []).append({name: _packed(column) for name, column in columns.items()})
        else:
            ahead = [] if self.unwritten is None else [self.unwritten.writing]
            tables.append(self.path, table, columns | {"session": [self.session] * length(columns)}, *ahead)

    def _rows(self, table: str) -> pd.DataFrame:
        import pandas as pd

        self.flush()
        if table in self._kept:
            self._kept[table] = [tables.joined(map(pd.DataFrame, self._kept[table]))]  # what was joined stays so
        unwritten = [{name: _packed(c) for name, c in chunk.items()} for chunk in self._pending.get(table, ())]
        ours = [pd.DataFrame(c).assign(session=self.session) for c in [*self._kept.get(table, ()), *unwritten]]
        return tables.joined([super()._rows(table), *ours])

    def _writes(self) -> bool:
        return os.getpid() == self._process and not (self._lock and self._lock.lost)

    def _unlock(self) -> None:
        if (kept := getattr(self, "unwritten", None)) is not None:
            kept.close()
        if self._lock is not None:
            self._lock.release()

    def _write_meta(self) -> None:
        if self.path is not None and self._writes():
            write_sessions(self.path, self.sessions)

    def _make_anew(self) -> None:
        assert self.path is not None
        assert self._lock is not None
        os.mkdir(self.path)  # without parents: a parent that is gone too may be a disk that will be mounted again
        self._lock.take()
        self._write_meta()
        message = f"{self.path} had vanished and was made anew; the rows that had been written to it are gone"
        warn(message, "records vanished", short="the run directory had vanished, and was made anew")

    def _warn(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            message = (
                f"the run's records cannot be written: {error}. They are kept in memory and training goes on; writing "
                "is tried again at every flush: make room, or bring the directory back"
            )
            warn(message, "records unwritten", short="the run's records cannot be written; training goes on")


def how_it_ended(error: BaseException | None) -> tuple[str, str]:
    """("finished", "") or ("raised", what): for `Record.end`."""
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "finished", ""
    return "raised", f"{type(error).__name__}: {error}"[:500].rstrip(": ")


_live: weakref.WeakSet[Record] = weakref.WeakSet()
_exiting = False


@atexit.register
def _end_all() -> None:
    global _exiting
    _exiting = True
    for record in list(_live):
        record._end()


def _prepare(path: Path, resume: bool, lock: Lock) -> list[Session]:
    """Make the directory, or make it ready to be gone on with, and take it; returns the sessions that it holds."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"cannot make the run directory {path}: {error}. Choose another one") from error
    _earlier(path, resume)
    try:
        lock.take()
        sessions = _earlier(path, resume)  # what has come since
        for file in sorted(path.glob("*.csv")):
            tables.mend(file)
        if not lock.took_over:  # whoever has lost it writes what it has by itself
            _bring(path, sessions)
    except Taken as error:
        raise RecordError(
            f"another process is writing {path}{_who(path)}: two cannot write one run. Choose another directory, or "
            "wait until it has ended"
        ) from error
    except OSError as error:
        lock.release()
        raise RecordError(f"cannot write to {path}: {error}. Choose another run directory") from error
    except RecordError:
        lock.release()
        raise
    return sessions


def _bring(path: Path, sessions: list[Session]) -> None:
    """Write to the tables what a process that was killed could not."""
    run = Run(path, sessions)
    left = {table: run.waiting(table) for table in run.unwritten_tables()}
    for table, rows in left.items():
        tables.append(path, table, {str(c): x.tolist() for c, x in rows.items()}, bringing(path))
    (path / NAME).unlink(missing_ok=True)


def _earlier(path: Path, resume: bool) -> list[Session]:
    """The sessions that a directory holds. Raises `RecordError` if it is not one to write to."""
    sessions, files = read_sessions(path), sorted(path.glob("*.csv"))
    if files and not sessions:
        raise RecordError(
            f"{path} holds CSV files ({files[0].name}, ...) that belong to no run: choose another directory"
        )
    if sessions and not resume:
        steps = Run(path, sessions).frame("steps")
        n = 0 if steps.empty else int(steps["step"].max())
        raise RecordError(
            f"{path} holds a run of {n} steps: choose another directory, or pass resume=True to go on with it"
        )
    return sessions


def _who(path: Path) -> str:
    """The process that began the latest session, as far as it says."""
    sessions = read_sessions(path)
    by = sessions[-1].get("process", {}) if sessions else {}
    return f" (process {by['pid']} on {by.get('host')})" if by.get("pid") else ""


def _alike(chunks: Sequence[Columns]) -> list[list[Columns]]:
    """Consecutive chunks with the same columns, together."""
    return [list(same) for _, same in groupby(chunks, key=frozenset)]


def _alike_on_disk(value: object) -> object:
    """A cell as a file would give it back."""
    value = tables.scalar(value)
    return value if value is None or isinstance(value, (int, float)) else tables.one_line(value)


def _packed(column: list[object]) -> np.ndarray:
    """What a file would give back, at a quarter of the memory of a list of numbers."""
    if set(map(type, column)) <= {int, float}:
        return np.array(column)
    cells = [tables.scalar(x) for x in column]
    text = any(isinstance(x, str) for x in cells)
    return np.array([tables.one_line(x) for x in cells], dtype=object) if text else np.array(cells, dtype=float)
