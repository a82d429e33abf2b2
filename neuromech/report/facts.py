"""Everything that the records of a run say, gathered once; what cannot be read is missing, and said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neuromech.errors import RecordError
from neuromech.record import LOSS, Record, Run, alive
from neuromech.report.charges_ahead import ChargeForecast, charge_forecasts
from neuromech.report.family import FamilyRecord, families, last_step, with_terms
from neuromech.report.faults import FaultRecord, faults
from neuromech.report.forecasts import Forecast, forecasts
from neuromech.report.soundness import sound_meta, sound_rows

if TYPE_CHECKING:
    import pandas as pd

How = Literal["finished", "raised", "interrupted", "failed", "killed", "running", "unknown"]
TABLES = ("steps", "charges", "terms", "events", "faults", "metrics", "progress", "sides")
LARGE = ("charges", "terms")  # rows for every family and step


@dataclass(frozen=True)
class Ending:
    """How the latest session ended. `seconds`: how long it was seen; `measuring`: the share of that spent measuring."""

    how: How
    what: str
    started: str
    last: str
    seconds: float
    measuring: float


@dataclass(frozen=True)
class RunFacts:
    """`n_steps`: optimizer steps taken; step 0 is the initial state. `unreadable`: what is wrong with which table.
    `interleaved`: sessions that should follow each other have written at the same time."""

    meta: Mapping[str, Any]
    sessions: Sequence[Mapping[str, Any]]
    n_steps: int
    steps: pd.DataFrame
    families: list[FamilyRecord]
    faults: list[FaultRecord]
    events: pd.DataFrame
    metrics: dict[str, pd.DataFrame]
    forecasts: list[Forecast]
    charge_forecasts: list[ChargeForecast]
    sides: pd.DataFrame
    ending: Ending
    unreadable: tuple[str, ...] = ()
    interleaved: bool = False

    @property
    def monitored(self) -> bool:
        return "monitor" in self.meta or bool(self.faults)

    @property
    def unwatched(self) -> int:
        """Steps that were taken before the monitor was turned on."""
        return int(self.meta.get("unwatched") or 0)

    @property
    def looked(self) -> bool:
        """Whether symmetries were looked for: only then is none found."""
        return "symmetries" in self.meta or bool(self.families)

    @property
    def charges_lost(self) -> bool:
        """Nothing was read of any charge, and not all that was recorded could be read."""
        return bool(self.unreadable) and all(f.evidence == "found" for f in self.families)

    @property
    def loss(self) -> pd.DataFrame | None:
        """Step and value of the loss."""
        return self.metrics.get(LOSS)

    @property
    def wrapper(self) -> Mapping[str, Any]:
        """The EoMOptimizer of the run: class, order, follow, backend; empty if there is none."""
        return next((o["wrapper"] for o in self.meta.get("optimizers") or () if o.get("wrapper")), {})


def gather(run: Run, keep: bool = True) -> RunFacts:
    """The facts of a run that is over or goes on.

    `keep`: what was read stays with the run, for those that ask again. Else the two tables that grow with the number of
    families are each let go as soon as they have been taken apart: a long run is in memory about once.
    """
    import pandas as pd

    said: dict[str, str] = {}

    def table(name: str) -> pd.DataFrame:
        try:
            rows, wrong = sound_rows(name, run.frame(name, keep=keep))
        except (RecordError, KeyError, ValueError, TypeError) as error:
            rows, wrong = pd.DataFrame(), str(error)
        if wrong:
            said[name] = f"Table {name}: {wrong}."
        return rows

    tables = {name: table(name) for name in TABLES if name not in LARGE}
    meta, odd = sound_meta(run.meta)
    meta |= _torques(run.sessions)
    told = faults(tables["faults"])
    # A fault or a loss at a step says that those before it were taken.
    begun = max(*(f.last for f in told), last_step(tables["metrics"]), 1) - 1
    charges = table("charges")
    n_steps = max(*(last_step(rows) for rows in (tables["steps"], tables["progress"], charges)), begun)
    found = families(meta, charges, n_steps=n_steps, keep=keep)
    found = with_terms(found, table("terms"), keep)
    unreadable = [f"{run.damage}."] if run.damage else []
    unreadable += _missing(run, bool(n_steps and meta.get("symmetries")))
    unreadable += [said[name] for name in TABLES if name in said]
    if odd:
        unreadable.append(f"Of run.json, what is said of {', '.join(odd)} has another form than a run writes.")
    try:
        loss = _metrics(tables["metrics"]).get(LOSS)
        foreseen = forecasts(meta, found, tables["steps"], loss)
        shared = charge_forecasts(meta, found, tables["steps"], tables["sides"], loss)
    except (KeyError, ValueError, TypeError) as error:
        foreseen, shared = [], []
        unreadable.append(f"Forecasts: {type(error).__name__}: {error}")
    return RunFacts(
        meta=meta,
        sessions=run.sessions,
        n_steps=n_steps,
        steps=tables["steps"],
        families=found,
        faults=told,
        events=tables["events"].reindex(columns=["step", "kind", "message"]),
        metrics=_metrics(tables["metrics"]),
        forecasts=foreseen,
        charge_forecasts=shared,
        sides=tables["sides"],
        ending=_ending(run, tables["progress"]),
        unreadable=tuple(unreadable),
        interleaved=_interleaved(run),
    )


def _torques(sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The families that gradients have broken in any session; nothing, if in one of them nobody looked."""
    seen = [s["meta"].get("torques") for s in sessions]
    known = [t for t in seen if isinstance(t, Mapping)]
    whole = {str(name): step for t in reversed(known) for name, step in t.items()}
    return {"torques": whole or (None if len(known) < len(seen) else {})}


def _missing(run: Run, charged: bool) -> list[str]:
    """Files that are not there, though they should be. `charged`: steps were taken, and symmetries are known."""
    if run.path is None:
        return []
    what = [] if run.sessions or run.damage else ["run.json, which tells what was trained and how, is not there."]
    lost = charged and not any(run.path.glob("charges*.csv"))
    return what + (["The table of charges, charges.csv, is not there."] if lost else [])


def _metrics(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    if not {"step", "name", "value"} <= {*rows}:
        return {}
    once = rows.drop_duplicates(["step", "name"], keep="last").sort_values("step", kind="stable")
    return {str(name): own[["step", "value"]].reset_index(drop=True) for name, own in once.groupby("name", sort=False)}


def _ending(run: Run, progress: pd.DataFrame) -> Ending:
    session: Mapping[str, Any] = run.sessions[-1] if run.sessions else {}
    ended: Mapping[str, Any] = session.get("ended") or {}
    known: dict[str, How] = {"finished": "finished", "raised": "raised", "failed": "failed"}
    how = known.get(str(ended.get("how")), "unknown")
    if how == "raised" and str(ended.get("what")).startswith("KeyboardInterrupt"):
        how = "interrupted"
    if not ended and isinstance(run, Record):
        how = "running"
    elif not ended and session.get("process"):
        running = alive(session["process"])
        how = "unknown" if running is None else "running" if running else "killed"
    timed = {"seconds", "measuring"} <= {*progress} and len(progress) > 0
    seconds, spent = (float(progress[c].iloc[-1]) for c in ("seconds", "measuring")) if timed else (np.nan, np.nan)
    return Ending(
        how,
        str(ended.get("what") or ""),
        when(session.get("started")),
        when(ended.get("when")) or _last_write(run),
        seconds,
        spent / seconds if timed and seconds > 0 else np.nan,
    )


def when(stamp: object) -> str:
    """An ISO time as `2026-01-31 10:20:30 UTC`; "" for none."""
    return " ".join(str(stamp).split("+")[0].split("T")) + " UTC" if stamp else ""


def _interleaved(run: Run) -> bool:
    """Sessions follow each other in the file of the steps, unless two processes wrote it."""
    import pandas as pd

    try:
        rows = run.frame("steps", every_session=True) if len(run.sessions) > 1 else pd.DataFrame()
    except RecordError:
        return False
    return "session" in rows and bool((pd.to_numeric(rows["session"], errors="coerce").diff() < 0).any())


def _last_write(run: Run) -> str:
    if run.path is None:
        return ""
    try:
        newest = max((f.stat().st_mtime for f in run.path.glob("*.csv")), default=0.0)
    except OSError:
        return ""
    return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if newest else ""
