"""Tables on disk: CSV files that are only ever appended to, by whole lines, in one system call each time.

Floats are written so that they read back bit for bit, nan as an empty field, text always quoted and on one line. A
process that is killed while it writes can leave at most one torn line, at the end: readers leave it out.

The columns of a file are those of its header. Rows with other columns go to a further file (`events.csv`,
`events.2.csv`, ...), so that every file can be read by itself.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from neuromech.errors import RecordError
from neuromech.record.builder import TableBuilder
from neuromech.record.place import open_plainly, reading

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Columns = dict[str, list[Any]]
BLOCK = 1 << 22  # bytes that are parsed at once: while they are, their text takes several times the room of its numbers


def columns_of(table: str, rows: Mapping[str, Any]) -> Columns:
    """`rows` copied to lists of one length; a single value is repeated.

    Raises `RecordError` for columns of different lengths or a name that is none.
    """
    if not rows or not all(re.fullmatch(r"\w+", name) for name in (table, *rows)):
        raise RecordError(
            f"table {table!r}, columns {list(rows)}: expected at least one column, and names of letters, digits and _"
        )
    listed = {name: _listed(column) for name, column in rows.items()}
    lengths = {name: len(c) for name, c in listed.items() if isinstance(c, list)}
    if len(set(lengths.values())) > 1:
        raise RecordError(f"table {table!r} has columns of different lengths: {lengths}")
    n = next(iter(lengths.values()), 1)
    return {name: c if isinstance(c, list) else [c] * n for name, c in listed.items()}


def length(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def size(directory: Path, table: str) -> int:
    """Bytes of all files of a table. Raises `OSError`."""
    return sum(file.stat().st_size for file in _numbered(directory, table) if os.path.lexists(file))


def append(
    directory: Path, table: str, columns: Columns, ahead: Callable[[str, int, int], None] = lambda *_: None
) -> None:
    """Append rows to the file of `table` that has these columns, a new one if there is none.

    `ahead`: is told the table, the bytes of its files, and by how many they are about to grow.
    Raises `OSError` if not all of it could be written; the file is then as it was before.
    """
    if not length(columns):
        return
    for file in _numbered(directory, table):
        header = _header(file)
        if not header or set(header) == set(columns):
            break
    text = _lines([columns[name] for name in header or columns])
    data = (text if header else ",".join(columns) + "\n" + text).encode(errors="backslashreplace")
    ahead(table, size(directory, table), len(data))
    _write_whole(file, data)


class TableReader:
    """The tables of a directory. Files only grow, so what was read once is not read again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._grown: dict[Path, _Grown] = {}
        self._joined: dict[str, tuple[tuple[int, ...], pd.DataFrame]] = {}

    def load(self, table: str) -> pd.DataFrame:
        """All rows of `table`, to be read only; empty if it has no file.

        Raises `RecordError` if a file is not what `append` writes.
        """
        files = [file for file in _numbered(self._directory, table) if os.path.lexists(file)]
        grown = [self._grown.setdefault(file, _Grown(file)) for file in files]
        frames = [g.read() for g in grown]
        age = tuple(g.end for g in grown)
        if table not in self._joined or self._joined[table][0] != age:
            self._joined[table] = age, joined(frames)
        return self._joined[table][1]

    def end(self, table: str) -> int:
        """Bytes of whole lines that `load` has read of the files of `table`."""
        return sum(g.end for f, g in self._grown.items() if f.name.split(".")[0] == table)

    def forget(self, table: str) -> None:
        """Of `table`, what was read is read again when it is next asked for."""
        self._joined.pop(table, None)
        for file in [f for f in self._grown if f.name.split(".")[0] == table]:
            del self._grown[file]


class _Grown:
    """One file: the rows up to the byte `end`, and those that have come since when asked."""

    def __init__(self, file: Path) -> None:
        self._file, self._which = file, (-1, -1)
        self._forget()

    def _forget(self) -> None:
        self.end, self._header = 0, b""
        self._text: set[str] = set()
        self._frame: pd.DataFrame | None = None

    def read(self) -> pd.DataFrame:
        try:
            with reading(self._file) as f:
                status = os.fstat(f.fileno())
                if (status.st_dev, status.st_ino) != self._which or status.st_size < self.end:
                    self._forget()  # another file of this name
                    self._which = status.st_dev, status.st_ino
                self._add(f)
        except (OSError, ValueError) as error:
            raise RecordError(f"{self._file} is not a table that a run writes: {str(error).strip()}") from error
        return joined([] if self._frame is None else [self._frame])

    def _add(self, file: BinaryIO) -> None:
        """The whole lines that have come since: all of them or, if one is not what it should be, none."""
        size, lines = _whole_lines(file, self.end)
        if not size:
            return
        known = joined([]) if self._frame is None else self._frame
        rows, header, end = TableBuilder(len(known) + lines), self._header, self.end
        rows.add(known)
        for block in _blocks(file, self.end, size):
            header = header or block[: block.index(b"\n") + 1]
            rows.add(_parsed(header + block if end else block, self._text))
            end += len(block)
        self.end, self._header, self._frame = end, header, rows.frame()


def _whole_lines(file: BinaryIO, start: int) -> tuple[int, int]:
    """Bytes and number of the lines from `start` on; what stands behind the last line's end is left out."""
    file.seek(start)
    size = lines = read = 0
    while new := file.read(BLOCK):
        lines += new.count(b"\n")
        size = read + new.rfind(b"\n") + 1 if b"\n" in new else size
        read += len(new)
    return size, lines


def _blocks(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    """So many bytes from `start` on, in blocks of whole lines."""
    file.seek(start)
    torn = b""
    while size and (new := file.read(min(BLOCK, size))):
        size -= len(new)
        new = torn + new
        whole = new.rfind(b"\n") + 1
        torn = new[whole:]
        if whole:
            yield new[:whole]


def mend(file: Path) -> None:
    """Cut off a torn last line, left by a process that was killed or a machine that lost power."""
    with os.fdopen(open_plainly(file, os.O_RDWR), "rb+") as f:
        if size := os.fstat(f.fileno()).st_size:
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                whole = data.rfind(b"\n") + 1
            if whole < size:
                f.truncate(whole)


def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    some = [f for f in frames if len(f)]
    return pd.concat(some, ignore_index=True) if some else pd.DataFrame()


def taken(rows: pd.DataFrame, which: np.ndarray) -> pd.DataFrame:
    """These of the rows, by a mask or their places, column by column while `rows` is emptied: never twice in memory."""
    import pandas as pd

    return pd.DataFrame({c: rows.pop(c).array[which] for c in map(str, list(rows))}, copy=False)


def handed_out(rows: pd.DataFrame) -> pd.DataFrame:
    """A frame that may be written to, while `rows` stay: from pandas 3 on nothing is copied before that is done."""
    import pandas as pd

    return rows.copy(deep=_version(pd) < (3, 0))


def scalar(value: Any) -> Any:
    """A plain number for a NumPy or torch scalar."""
    return value.item() if hasattr(value, "item") else value


def one_line(value: Any) -> str:
    return "" if value is None else " ".join(str(value).splitlines())


def _listed(column: Any) -> Any:
    if hasattr(column, "tolist"):
        return column.tolist()
    return list(column) if isinstance(column, Iterable) and not isinstance(column, str) else column


def _numbered(directory: Path, table: str) -> Iterator[Path]:
    """The files of a table that are there, in order, then the next one."""
    for n in count(1):
        file = directory / (f"{table}.csv" if n == 1 else f"{table}.{n}.csv")
        yield file
        if not os.path.lexists(file):
            return


def _header(file: Path) -> list[str]:
    try:
        with reading(file) as f:
            return f.readline().decode(errors="replace").rstrip("\n").split(",") if os.fstat(f.fileno()).st_size else []
    except FileNotFoundError:
        return []


def _lines(columns: Sequence[list[Any]]) -> str:
    return "\n".join(map(",".join, zip(*map(_cells, columns), strict=True))) + "\n"


def _cells(column: list[Any]) -> Iterable[str]:
    kinds = set(map(type, column))
    if kinds == {float}:
        return ["" if x != x else repr(x) for x in column]
    return map(repr, column) if kinds == {int} else map(_cell, column)


def _cell(value: Any) -> str:
    value = scalar(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (int, float)):
        return repr(value + 0)  # a bool is 0 or 1
    return '"' + one_line(value).replace('"', '""') + '"'


def _write_whole(file: Path, data: bytes) -> None:
    handle = open_plainly(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        before, rest = os.fstat(handle).st_size, memoryview(data)
        try:
            while rest:
                rest = rest[os.write(handle, rest) :]
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)


def _parsed(data: bytes, text: set[str]) -> pd.DataFrame:
    """Whole lines under their header. `text`: the columns known to be text, to which those quoted here are added."""
    import pandas as pd

    end = data.index(b"\n")
    header, first = data[:end].decode(), data[end + 1 : data.find(b"\n", end + 1)].decode()
    fields = re.findall(r'("(?:[^"]|"")*"|[^,]*)(?:,|$)', first)
    text |= {name for name, field in zip(header.split(","), fields, strict=False) if field.startswith('"')}
    # From pandas 3.1 on floats are read exactly, and asking for it is deprecated.
    old = _version(pd) < (3, 1)
    rows = pd.read_csv(
        io.BytesIO(data),
        float_precision="round_trip" if old else None,
        keep_default_na=False,
        na_values=[""],
        dtype=dict.fromkeys(text, str),
        low_memory=False,
    )
    if not isinstance(rows.index, pd.RangeIndex):  # pandas takes what is too much for the names of rows
        raise ValueError("lines have more fields than the header")
    return rows.fillna(dict.fromkeys(text, ""))


def _version(package: Any) -> tuple[int, ...]:
    return tuple(map(int, package.__version__.split(".")[:2]))
