"""Rows that wait to be written as text, as raw bytes: a process that is killed has lost none of them.

Lines of CSV are made of many steps at once, for that is what costs. Meanwhile rows lie in `unwritten.bin`, handed to
the system as they come, in frames of a head and a body. The file is emptied whenever all of its rows have been written.

    LAYOUT   names of the columns of a table, and of which symmetries and members its rows are, if of any
    READING  the numbers of one step, in the order of a layout
    ROWS     {table: columns}, as JSON
    WRITING  [table, bytes of its files, bytes that are about to be written, place]: rows of the table ahead of this
             place are in its files if these have grown by so much
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.record.place import Lock, open_plainly, reading
from neuromech.record.tables import Columns, joined

if TYPE_CHECKING:
    import pandas as pd

NAME = "unwritten.bin"
LAYOUT, READING, ROWS, WRITING = range(4)
Written = tuple[int, int, int]  # bytes of a table's files, bytes to come, and the place that these rows are ahead of
_BEGINS = b"neuromech rows that wait, 1\n"
_HEAD = struct.Struct("<BIqI")  # kind, layout, step, bytes that follow
LARGEST = 1 << 28  # bytes that are read at most
KEYS = ("session", "step", "symmetry", "member", "name", "fault", "times", "rank")  # tell the rows of a table apart


class Unwritten:
    """Writes frames for one session. A disk that fails is passed over: rows are in memory too.

    `lock`: on the run; once it is lost, and in a child that was forked, nothing is written.
    """

    def __init__(self, directory: Path, session: int, lock: Lock | None = None) -> None:
        self._file, self._session, self._lock, self._process = directory / NAME, session, lock, os.getpid()
        self._handle, self._place = -1, 0
        self._kept: dict[str, int] = {}  # behind the last row of each table
        self._taken: dict[str, int] = {}  # ahead of which rows have been taken over to be written
        self._layouts: list[tuple[str, bytes]] = []
        self._waiting: list[bytes] = []
        self._tables: set[str] = set()  # of what waits
        self._told: set[int] = set()

    def layout(self, table: str, names: Sequence[str], *who: np.ndarray, **same: str) -> int:
        """The number of a layout: a reading has one row, or one for each pair of symmetry and member in `who`.

        `same`: further columns, which are alike in all rows."""
        said = {"table": table, "names": [*names], "who": [x.tolist() for x in who], "same": same}
        self._layouts.append((table, _frame(LAYOUT, json.dumps(said).encode(), len(self._layouts))))
        return len(self._layouts) - 1

    def rows(self, table: str, columns: Columns) -> None:
        """Few rows of any kind, for the next `keep`."""
        self._waiting.append(_frame(ROWS, json.dumps({table: columns}).encode()))
        self._tables.add(table)

    def reading(self, layout: int, step: int, values: bytes) -> None:
        """Numbers [names, rows] of a layout, as bytes of little-endian doubles, for the next `keep`."""
        table, frame = self._layouts[layout]
        if layout not in self._told:
            self._told.add(layout)
            self._waiting.append(frame)
        self._waiting.append(_frame(READING, values, layout, step))
        self._tables.add(table)

    def keep(self) -> None:
        """Hand to the system what was given since the last time, in one call."""
        if self._waiting:
            data, tables = b"".join(self._waiting), self._tables
            self._waiting, self._tables = [], set()
            if self._write(data):
                for table in tables:
                    self._kept[table] = self._place
            else:
                self._told.clear()

    def take(self, table: str) -> None:
        """All rows of the table that were given so far are about to be written."""
        self.keep()
        self._taken[table] = self._place

    def writing(self, table: str, before: int, size: int) -> None:
        """The files of the table, now of `before` bytes, are about to grow by `size`."""
        if self._kept.get(table):
            said = [table, before, size, self._taken.get(table, 0)]
            self._write(_frame(WRITING, json.dumps(said).encode()))

    def written(self) -> None:
        """All rows that were taken are in their files: empty this one, if no others wait."""
        if self._place and all(place <= self._taken.get(table, 0) for table, place in self._kept.items()):
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, 0)
                self._place, self._kept, self._taken, self._told = 0, {}, {}, set()

    def close(self) -> None:
        """Remove the file, if nothing waits in it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)
            if not self._place and self._mine():
                self._file.unlink(missing_ok=True)

    def _mine(self) -> bool:
        return os.getpid() == self._process and not (self._lock and self._lock.lost)

    def _write(self, data: bytes) -> bool:
        if not self._mine():
            return False
        try:
            if self._handle < 0:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC
                self._handle = open_plainly(self._file, flags)
            if not self._place:
                data = _BEGINS + json.dumps(self._session).encode() + b"\n" + data
            written = os.write(self._handle, data)
            if written < len(data):
                os.ftruncate(self._handle, self._place)
                return False
            self._place += written
        except OSError:
            return False
        return True


class UnwrittenReader:
    """The rows that wait in a directory. Parsed once for all tables, and again only when the file has changed."""

    def __init__(self, directory: Path) -> None:
        self._file, self._data = directory / NAME, b""
        self._rows: dict[str, pd.DataFrame] = {}
        self._being: dict[str, list[Written]] = {}

    def tables(self) -> list[str]:
        self._read()
        return [*self._rows]

    def missing(self, table: str, known: pd.DataFrame, end: int) -> pd.DataFrame:
        """The rows of a table that wait, without those among the `known`, read before from `end` bytes of its files.

        In this order what is written in between is stale, never there twice."""
        import pandas as pd

        self._read()
        if table not in self._rows:
            return joined([])
        waiting = self._rows[table]
        for before, grows, taken in self._being.get(table, ()):
            ahead = waiting["place"] < taken
            if end >= before + grows:
                waiting = waiting[~ahead]
            elif end > before:  # killed while it wrote: some of them are there
                keys = [c for c in KEYS if c in waiting and c in known]
                keys = keys if len(keys) > 1 else [str(c) for c in waiting if c in known]
                there = pd.MultiIndex.from_frame(waiting[keys]).isin(pd.MultiIndex.from_frame(known[keys]))
                waiting = waiting[~(ahead & there)]
        return waiting.drop(columns="place")

    def _read(self) -> None:
        try:
            with reading(self._file) as file:
                data = file.read(LARGEST)
        except OSError:
            data = b""
        if data != self._data:
            self._data, (self._rows, self._being) = data, _parsed(data)


def bringing(directory: Path) -> Callable[[str, int, int], None]:
    """Says in the file of a process that was killed that all rows of a table are about to be written."""

    def ahead(table: str, before: int, grows: int) -> None:
        handle = open_plainly(directory / NAME, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, _frame(WRITING, json.dumps([table, before, grows, LARGEST]).encode()))
        finally:
            os.close(handle)

    return ahead


class _Readings:
    """All readings of one layout. Raises what tells that it is none, before anything is added."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.table, self._names = _name(said["table"]), [*map(_name, said["names"])]
        self._who = {n: np.array(x, int).ravel() for n, x in zip(("symmetry", "member"), said["who"], strict=False)}
        self._same = {_name(c): str(text) for c, text in said["same"].items()}
        self._heads: list[tuple[int, int]] = []
        self.values: list[np.ndarray] = []

    def add(self, step: int, place: int, body: bytes) -> None:
        values = np.frombuffer(body, "<f8").reshape(len(self._names), -1)
        if any(len(x) != values.shape[1] for x in self._who.values()):
            raise ValueError("a reading of other rows than its layout has")
        self._heads.append((step, place))
        self.values.append(values)

    def frame(self) -> pd.DataFrame:
        """Of one reading or more."""
        import pandas as pd

        rows, values = [v.shape[1] for v in self.values], np.concatenate(self.values, axis=1)
        step, place = np.repeat(np.array(self._heads).T, rows, axis=1)
        who = {name: np.tile(x, len(rows)) for name, x in self._who.items()}
        named = dict(zip(self._names, values, strict=True))
        return pd.DataFrame({"step": step} | who | named | self._same | {"place": place})


def _parsed(data: bytes) -> tuple[dict[str, pd.DataFrame], dict[str, list[Written]]]:
    """Rows that wait, by table, with their session and their `place`; and how its files were to grow, as they came.

    Up to the first frame that is none; nothing from what is not such a file."""
    import pandas as pd

    found: dict[str, list[pd.DataFrame]] = {}
    being: dict[str, list[Written]] = {}
    layouts: dict[int, _Readings] = {}
    session = 0
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        session, start = _beginning(data)
        for kind, number, step, place, body in _frames(data, start):
            if kind == LAYOUT:
                layouts.setdefault(number, _Readings(json.loads(body)))
            elif kind == READING:
                layouts[number].add(step, place, body)
            elif kind == WRITING:
                table, *sizes = json.loads(body)
                before, grows, ahead = map(int, sizes)
                being.setdefault(_name(table), []).append((before, grows, ahead))
            elif kind == ROWS:
                for table, columns in json.loads(body).items():
                    rows = pd.DataFrame({_name(c): v for c, v in columns.items()}).assign(place=place)
                    found.setdefault(_name(table), []).append(rows)
            else:
                raise ValueError(f"a frame of kind {kind}")
    for readings in layouts.values():
        if readings.values:
            found.setdefault(readings.table, []).append(readings.frame())
    some = {table: joined(frames) for table, frames in found.items() if any(map(len, frames))}
    whole = {table: rows.sort_values("place", kind="stable") for table, rows in some.items()}
    return {t: rows.assign(session=session).reset_index(drop=True) for t, rows in whole.items()}, being


def _beginning(data: bytes) -> tuple[int, int]:
    """The session of a file, and where its frames start. Raises `ValueError`."""
    if not data.startswith(_BEGINS):
        raise ValueError("it begins otherwise")
    start = data.index(b"\n", len(_BEGINS)) + 1
    return int(data[len(_BEGINS) : start]), start


def _frames(data: bytes, at: int) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Each whole frame from `at` on: kind, layout, step, place, body."""
    while at + _HEAD.size <= len(data):
        kind, layout, step, size = _HEAD.unpack_from(data, at)
        begins, at = at, at + _HEAD.size + size
        if at > len(data):
            return
        yield kind, layout, step, begins, data[at - size : at]


def _frame(kind: int, body: bytes, layout: int = 0, step: int = 0) -> bytes:
    return _HEAD.pack(kind, layout, step, len(body)) + body


def _name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"\w{1,100}", name):
        raise ValueError(f"{name!r} is not the name of a table or a column")
    return name
