"""Reading a run: its sessions, and its tables as one run from them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuromech.errors import RecordError
from neuromech.record import tables
from neuromech.record.place import open_plainly, reading
from neuromech.record.unwritten import UnwrittenReader

if TYPE_CHECKING:
    import pandas as pd

META = "run.json"
Session = dict[str, Any]


class Run:
    """A recorded run, read-only; made by `read`.

    `sessions`: a dict for each time the run was started: session (0, 1, ...), started (UTC), meta, and, if it is known,
    `process` (see `process.describe`) and `ended` (when, how, what). `damage`: what is wrong with their file, where its
    tables can be read all the same.
    """

    def __init__(self, path: Path | None, sessions: list[Session], damage: str = "") -> None:
        self.path, self.sessions, self.damage = path, sessions, damage
        self._files = tables.TableReader(path) if path else None
        self._left = UnwrittenReader(path) if path else None

    @property
    def meta(self) -> dict[str, Any]:
        """What the run is, as its latest session knew it; empty if nothing is known."""
        return self.sessions[-1]["meta"] if self.sessions else {}

    @property
    def tables(self) -> list[str]:
        """Names of the tables that have rows."""
        written = {file.name.split(".")[0] for file in self.path.glob("*.csv")} if self.path else set()
        return sorted(written | {*self.unwritten_tables()})

    def frame(self, table: str, every_session: bool = False, keep: bool = True) -> pd.DataFrame:
        """The rows of a table; empty if there is none.

        A resumed run takes over from the first step that it records: what earlier sessions hold from that step on is a
        branch that was given up. It stays on disk, and `every_session` returns it too.
        `keep`: what was read stays for those that ask again; else it is read again, and is in memory but once.
        Raises `RecordError` if a file is not what a record writes.
        """
        rows = tables.handed_out(self._rows(table)) if keep else self._rows(table)
        if not keep and self._files:
            self._files.forget(table)
        if every_session or "step" not in rows or len(self.sessions) < 2:
            return rows
        # A branch that was given up may hold events where the branch that replaced it has none: steps are the clock.
        return _latest(rows, [rows] if table == "steps" else [rows, self._rows("steps")])

    def _rows(self, table: str) -> pd.DataFrame:
        known = self._files.load(table) if self._files else tables.joined([])
        return tables.joined([known, self.waiting(table)])

    def unwritten_tables(self) -> list[str]:
        """Names of the tables of which rows may wait."""
        return self._left.tables() if self._left else []

    def waiting(self, table: str) -> pd.DataFrame:
        """The rows of a table that a process has left unwritten, or has yet to write."""
        if self._files is None or self._left is None:
            return tables.joined([])
        known = self._files.load(table)
        return self._left.missing(table, known, self._files.end(table))


def read(path: str | Path) -> Run:
    """Open a run directory for reading: of a run that has ended, was killed, or is still going on.

    Raises `RecordError` if it holds no run.
    """
    path = Path(path).expanduser().absolute()
    if not path.is_dir():
        raise RecordError(f"{path} is not a directory: expected a run directory, as given to instrument(run=...)")
    there = any(path.glob("*.csv"))
    try:
        sessions = read_sessions(path)
    except RecordError as error:
        if not there:
            raise
        return Run(path, [], str(error))
    if not sessions and not there:
        raise RecordError(f"{path} holds no run: expected {META} and CSV tables, as instrument(run=...) writes them")
    return Run(path, sessions)


def refuse_link(path: Path, run: Run) -> None:
    """Raises `RecordError` if `path`, which is about to be written, is a link in the run's own directory."""
    if run.path is not None and path.is_symlink() and path.absolute().parent.resolve() == run.path.resolve():
        raise RecordError(f"{path} is a symbolic link, and those in a run directory are not followed: remove it")


def read_sessions(path: Path) -> list[Session]:
    """What `write_sessions` wrote, [] if it never did. Raises `RecordError` if the file is something else."""
    try:
        with reading(path / META) as f:
            sessions = json.loads(f.read().decode("utf-8"))["sessions"]
        return [
            {"session": i, "started": s["started"], "meta": dict(s["meta"])}
            | {k: dict(s[k]) for k in ("process", "ended") if isinstance(s.get(k), dict)}
            for i, s in enumerate(sessions)
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RecordError(
            f"{path / META} is not what a run writes ({type(error).__name__}: {error}). The CSV tables beside it can "
            "be read with pandas"
        ) from error


def write_sessions(path: Path, sessions: Sequence[Session]) -> None:
    """All or nothing: a reader sees the old file or the new one. Raises `OSError`."""
    draft = path / f"{META}.tmp"
    draft.unlink(missing_ok=True)  # as a process leaves it that is killed, or a link
    with os.fdopen(open_plainly(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8") as f:
        json.dump({"sessions": sessions}, f, indent=1, allow_nan=False)
        f.flush()
        os.fsync(f.fileno())
    os.replace(draft, path / META)


def plain(value: Any) -> Any:
    """`value` as JSON keeps it: nan is None, an infinity the text "inf" or "-inf", what is not plain data its str()."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    value = tables.scalar(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def check_symmetries(path: Path | None, earlier: Sequence[Session], meta: Mapping[str, Any]) -> None:
    """Rows name a symmetry by its place in the meta, so all sessions must agree on it; raises `RecordError` if not."""
    known = [s["meta"]["symmetries"] for s in earlier if "symmetries" in s["meta"]]
    if known and "symmetries" in meta:
        old, new = ([(s.get("name"), s.get("size")) for s in some] for some in (known[-1], meta["symmetries"]))
        if old != new:
            raise RecordError(
                f"{path} holds a run with other symmetries ({len(old)} families; now {len(new)}): is this the same "
                "model? Choose another run directory"
            )


def _latest(rows: pd.DataFrame, clocks: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """`rows`, which are emptied, without those of each session from the step on at which a later one took over."""
    first: dict[Any, float] = {}
    for clock in clocks:
        for session, step in clock.groupby("session")["step"].min().items() if "step" in clock else ():
            first[session] = min(float(step), first.get(session, math.inf))
    end = {s: min((step for later, step in first.items() if later > s), default=math.inf) for s in first}
    kept = ~(rows["step"] >= rows["session"].map(end)).to_numpy()
    return rows if kept.all() else tables.taken(rows, kept)
