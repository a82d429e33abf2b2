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
        self._waiting += _HEAD.pack(READING, layout, step, len(values)), values
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


def unwritten(directory: Path) -> tuple[dict[str, pd.DataFrame], dict[str, list[Written]]]:
    """Rows that wait, by table, with their session and their `place`; and how its files were to grow, as they came.

    Nothing from what is not such a file."""
    try:
        with reading(directory / NAME) as file:
            data = file.read(LARGEST)
        if not data.startswith(_BEGINS):
            return {}, {}
        start = data.index(b"\n", len(_BEGINS)) + 1
        session = int(data[len(_BEGINS) : start])
    except (OSError, ValueError):
        return {}, {}
    found: dict[str, list[pd.DataFrame]] = {}
    being: dict[str, list[Written]] = {}
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):  # up to the first frame that is none
        for table, rows, writing in _rows(data, start):
            if writing is not None:
                being.setdefault(table, []).append(writing)
            elif rows is not None:
                found.setdefault(table, []).append(rows.assign(session=session))
    return {table: joined(rows) for table, rows in found.items()}, being


def missing(waiting: pd.DataFrame, being: Sequence[Written], known: pd.DataFrame, end: int) -> pd.DataFrame:
    """Of the rows of a table that wait, those that are not among the `known`, which were read from `end` bytes."""
    import pandas as pd

    for before, grows, taken in being:
        ahead = waiting["place"] < taken
        if end >= before + grows:
            waiting = waiting[~ahead]
        elif end > before:  # killed while it wrote: some of them are there
            keys = [c for c in KEYS if c in waiting and c in known]
            keys = keys if len(keys) > 1 else [str(c) for c in waiting if c in known]
            there = pd.MultiIndex.from_frame(waiting[keys]).isin(pd.MultiIndex.from_frame(known[keys]))
            waiting = waiting[~(ahead & there)]
    return waiting.drop(columns="place")


def bringing(directory: Path) -> Callable[[str, int, int], None]:
    """Says in the file of a process that was killed that all rows of a table are about to be written."""

    def ahead(table: str, before: int, grows: int) -> None:
        handle = open_plainly(directory / NAME, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, _frame(WRITING, json.dumps([table, before, grows, LARGEST]).encode()))
        finally:
            os.close(handle)

    return ahead


def _rows(data: bytes, at: int) -> Iterator[tuple[str, pd.DataFrame | None, Written | None]]:
    """Each frame from `at` on: its table, and its rows or what it says of writing."""
    import pandas as pd

    layouts: dict[int, dict[str, Any]] = {}
    while at + _HEAD.size <= len(data):
        kind, number, step, size = _HEAD.unpack_from(data, at)
        begins = at
        body = data[at + _HEAD.size : (at := at + _HEAD.size + size)]
        if len(body) < size:
            return
        if kind == LAYOUT:
            layouts[number] = json.loads(body)
        elif kind == WRITING:
            table, *places = json.loads(body)
            before, grows, place = map(int, places)
            yield _name(table), None, (before, grows, place)
        elif kind == ROWS:
            for table, columns in json.loads(body).items():
                yield _name(table), pd.DataFrame({_name(c): v for c, v in columns.items()}).assign(place=begins), None
        elif kind == READING:
            layout = layouts[number]
            values = np.frombuffer(body, "<f8").reshape(len(layout["names"]), -1)
            who = {n: np.array(x, int) for n, x in zip(("symmetry", "member"), layout["who"], strict=False)}
            columns = {_name(c): v for c, v in zip(layout["names"], values, strict=True)}
            same = {_name(c): str(text) for c, text in layout["same"].items()}
            yield _name(layout["table"]), pd.DataFrame({"step": step} | who | columns | same).assign(place=begins), None
        else:
            raise ValueError(f"a frame of kind {kind}")


def _frame(kind: int, body: bytes, layout: int = 0, step: int = 0) -> bytes:
    return _HEAD.pack(kind, layout, step, len(body)) + body


def _name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"\w{1,100}", name):
        raise ValueError(f"{name!r} is not the name of a table or a column")
    return name
