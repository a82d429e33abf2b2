"""A run as data frames: the same doors for a run that goes on (`Probe`) and for one that is over (`open_run`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.errors import InstrumentError
from neuromech.record import Run, read

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from torch.optim.lr_scheduler import LRScheduler

    from neuromech.report.family import FamilyRecord

KEY = ["step", "symmetry", "name", "member"]
STEP = ["lr", "time", "iteration"]
COLUMNS = {
    "history": [*KEY, *STEP, "observed", "exact", "ideal", "continuous", "flow", "scale", "residual"],
    "averages": ["step", "average", "symmetry", "name", "observed", "exact", "spread", "scale", "residual"],
    "terms": KEY,
    "matrices": ["step", "symmetry", "name", "size", "trace", "norm", "largest", "estimated"],
    "metrics": ["step", "name", "value"],
    "events": ["step", "kind", "message"],
    "faults": ["fault", "step", "last", "times", "cause", "strength", "title", "parameters", "evidence", "advice",
               "others"],
}  # fmt: skip

SCORES = ("error", "baseline", "angle_error", "angle_baseline")


class RunFrames:
    """What was recorded of a run, as data frames; empty ones have their columns too.

    `symmetry` counts the families of the run, `member` the members of a family; -1 is the sum over all of them.
    """

    _history: _History | None = None

    def _recorded(self) -> Run:
        """The records with everything that was measured until now."""
        raise NotImplementedError

    @property
    def history(self) -> pd.DataFrame:
        """One row per recorded step and family (member -1: the sum over its members) or single member.

        Columns: step, symmetry (index), name, member, lr, time, iteration (what the training loop calls a step: one of
        every optimizer), observed, the laws exact, ideal, continuous and flow, scale, and the residual of each law,
        |law - observed| / scale.
        """
        run = self._recorded()
        if self._history is None:
            self._history = _History()
        return self._history.frame(run)

    @property
    def averages(self) -> pd.DataFrame:
        """One row per family and update of averaged weights: observed, exact, the `spread` it lags by, residual."""
        return _named(self._recorded(), "averages")

    @property
    def terms(self) -> pd.DataFrame:
        """What each cause has moved each charge by since the start; see `neuromech.record` for the columns."""
        return _named(self._recorded(), "terms")

    @property
    def matrices(self) -> pd.DataFrame:
        """One row per matrix family and step, 8 for every doubling: size, trace, norm and largest eigenvalue of its
        charges as a whole; `estimated`: the norm is (dynamics/matrices.py)."""
        return _named(self._recorded(), "matrices")

    @property
    def metrics(self) -> pd.DataFrame:
        """Step, name and value of everything logged: the loss of each step, and what `log` was given."""
        return _or_columns(self._recorded().frame("metrics"), "metrics")

    @property
    def events(self) -> pd.DataFrame:
        """Step, kind and message of everything out of the ordinary."""
        return _or_columns(self._recorded().frame("events"), "events")

    @property
    def faults(self) -> pd.DataFrame:
        """One row per fault that the monitor found: when, the likeliest cause, its evidence, what to do, `others`."""
        return _faults(self._recorded().frame("faults"))

    @property
    def verdicts(self) -> pd.DataFrame:
        """One row per family: whether its exact law holds, and how far each law was off at worst."""
        from neuromech.report.family import verdict_table

        return verdict_table(self._families())

    @property
    def forecasts(self) -> pd.DataFrame:
        """One row per scale or (SGD) rescale family: what was forecast early in the run, and what came.

        `now`, `end`, `came`: squared lengths, of scale families; charges, of rescalings, whose `error` is relative to
        the squared lengths of both sides together. What a kind does not have is nan.
        """
        import pandas as pd

        from neuromech.report.facts import gather
        from neuromech.report.forecasts import Forecast

        facts = gather(self._recorded())
        made: list[Any] = [*facts.forecasts, *facts.charge_forecasts]
        columns = ["symmetry", "kind", "name", *(f for f in Forecast.__dataclass_fields__ if f != "family"), *SCORES]
        rows = [
            {"symmetry": f.family.index, "kind": f.family.kind, "name": f.family.name}
            | {k: getattr(f, k, math.nan) for k in columns[3:]}
            for f in made
        ]
        return pd.DataFrame(rows, columns=columns)

    def forecast(self, steps: int, scheduler: LRScheduler | None = None) -> pd.DataFrame:
        """Where normalised weights and the charges of rescalings will be after so many more steps; one row a family,
        `why_not` if it cannot be said.

        `scheduler`: is asked for the learning rates ahead (of the optimizer that it belongs to); without one they are
        taken to stay. Columns: now, end, low, high (80 %) of the squared length of the recorded members, or under SGD
        of the charge of a whole rescale family; undecayed (the end without weight decay), equilibrium, time_constant,
        reached (step), gradient_growth, grows_by.
        Raises `InstrumentError` for a scheduler that cannot be asked ahead, or fewer steps than one.
        """
        from neuromech.optimizers import rates_ahead
        from neuromech.report.ahead import ahead
        from neuromech.report.facts import gather

        if steps < 1:
            raise InstrumentError(f"forecast({steps}): pass how many steps to look ahead, 1 or more")
        facts = gather(self._recorded())
        if scheduler is None:
            return ahead(facts, steps, None)
        rates = rates_ahead(scheduler, steps)
        return ahead(facts, steps, rates, _number_of(scheduler, facts.meta))

    @property
    def norms(self) -> pd.DataFrame:
        """One row per scale or rescale family and step, 16 (rescale: 8) for every doubling of the number of steps.

        norm, update_to_weight, angle (rad a step), effective_lr, gradient (at length one; SGD), equilibrium_norm,
        equilibrium_angle, time_constant (steps), excess (of the squared step over that of the equilibrium),
        equipartition (of a rescaling: gradient energy on its left over that on its right) and
        `reached`: the equilibrium is, will be "at step N" if the learning rate stays, or never is.
        """
        from neuromech.report.facts import gather
        from neuromech.report.norms import norms

        facts = gather(self._recorded())
        return norms(facts.meta, facts.families, facts.steps, facts.sides)

    def latest(self) -> pd.DataFrame:
        """The newest row of `history` of every family."""
        rows = self.history
        return rows[rows["member"] < 0].groupby("symmetry", as_index=False).tail(1).reset_index(drop=True)

    def scalars(self) -> dict[str, float]:
        """At most 30 numbers of the last recorded step, by the tags of `neuromech.dynamics.scalars_of`."""
        from neuromech.report.facts import gather
        from neuromech.report.newest import newest

        return newest(gather(self._recorded()))

    def plot(self, what: str | int | None = None) -> list[Axes]:
        """Matplotlib axes of a figure. `what`: part of a family's name, or its number, or a logged number as "loss";
        None: how far off every law was. Raises `RecordError` if there is no such thing; says what there is."""
        from neuromech.report.plot import plot

        return plot(self._recorded(), what)

    def _repr_html_(self) -> str:
        from neuromech.report.summary import card

        return card(self._recorded())

    def _families(self) -> list[FamilyRecord]:
        from neuromech.report.facts import gather

        return gather(self._recorded()).families


def _number_of(scheduler: LRScheduler, meta: Mapping[str, Any]) -> int:
    """Which of the recorded optimizers a scheduler belongs to. Raises `InstrumentError` if it is none, or not one."""
    of = type(scheduler.optimizer).__name__
    known = [i for i, o in enumerate(meta.get("optimizers") or ()) if o.get("class") == of]
    if len(known) != 1:
        raise InstrumentError(f"scheduler= belongs to {of}; this run has {len(known)} optimizers of that class")
    return known[0]


class OpenedRun(RunFrames):
    """A run directory, opened for reading by `open_run`. `meta`: what the run is, as its latest session knew it."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def path(self) -> Path | None:
        return self._run.path

    @property
    def meta(self) -> dict[str, Any]:
        return self._run.meta

    def _recorded(self) -> Run:
        return self._run

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, one self-contained HTML file; returns its path (default: in the run directory)."""
        from neuromech.report.page import write_report

        return write_report(self._run, path or (self._run.path or Path()) / "report.html")

    def __repr__(self) -> str:
        return f"Run of {self.meta.get('model', 'an unknown model')} in {self.path}"


def open_run(path: str | Path) -> OpenedRun:
    """A recorded run: finished, killed, or still going on. Has the frames that a `Probe` has, and `report()`.

    Raises `RecordError` if `path` holds no run.
    """
    return OpenedRun(read(path))


class _History:
    """The frame of all charges; what was built once is not built again while rows are only added behind it."""

    def __init__(self) -> None:
        self._seen: pd.DataFrame | None = None  # the rows of charges that were built in
        self._built: pd.DataFrame | None = None

    def frame(self, run: Run) -> pd.DataFrame:
        import pandas as pd

        charges, steps = run.frame("charges"), run.frame("steps")
        if charges.empty:
            return _or_columns(charges, "history")
        n = 0 if self._seen is None else len(self._seen)
        if self._built is None or not n or not self._goes_on(charges):
            n, self._built = 0, None
        new = charges.iloc[n:]
        if len(new):
            built = _history(new, steps, _names(run))
            self._built = built if self._built is None else pd.concat([self._built, built], ignore_index=True)
            self._seen = charges[["step", "session"]] if "session" in charges else charges[["step"]]
        assert self._built is not None
        return self._built.copy()

    def _goes_on(self, charges: pd.DataFrame) -> bool:
        """Whether these are the rows that were seen, and later steps behind them."""
        assert self._seen is not None
        n = len(self._seen)
        same = len(charges) >= n and all(
            np.array_equal(charges[c].to_numpy()[:n], self._seen[c].to_numpy()) for c in self._seen if c in charges
        )
        return same and (len(charges) == n or charges["step"].iloc[n:].min() > self._seen["step"].max())


def _history(charges: pd.DataFrame, steps: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    if {"step", "lr", "time"} <= {*steps}:
        if "iteration" not in steps:  # records of an older version
            steps = steps.assign(iteration=np.nan)
        own = steps[["step", *STEP]].drop_duplicates("step", keep="last")
        charges = charges.merge(own, on="step", how="left")
    else:
        charges = charges.assign(lr=np.nan, time=np.nan, iteration=np.nan)
    out = _with_names(charges, names)
    first = [*KEY, *STEP]
    out = out[[*first, *out.columns.difference(first, sort=False)]]
    return out.sort_values(["step", "symmetry", "member"], ignore_index=True)


def _named(run: Run, table: str) -> pd.DataFrame:
    rows = run.frame(table)
    if rows.empty:
        return _or_columns(rows, table)
    rows = _with_names(rows, _names(run))
    first = [c for c in COLUMNS[table] if c in rows]
    return rows[[*first, *rows.columns.difference(first, sort=False)]]


def _names(run: Run) -> list[str]:
    return [str(s.get("name")) for s in run.meta.get("symmetries") or ()]


def _with_names(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    known = dict(enumerate(names))
    return rows.assign(name=[known.get(i, f"symmetry {i}") for i in rows["symmetry"].astype(int)])


def _or_columns(rows: pd.DataFrame, table: str) -> pd.DataFrame:
    return rows.reindex(columns=COLUMNS[table]) if rows.empty else rows


def _faults(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a fault: its latest word, with the titles of the other causes that fit."""
    import pandas as pd

    from neuromech.report.faults import faults

    return pd.DataFrame([asdict(f) for f in faults(rows)], columns=COLUMNS["faults"])
