"""`Probe`: the handle that `instrument` returns.

The probe lives through three states. *Waiting*: it records the graph at the first forward, and hears from the first
backward what the loss does not see. *Measuring*: before every optimizer step it reads what drives each charge, after
it the charges themselves, and advances the predictions. *Removed*: records and report remain.

Nothing here changes a number of the training run: hooks read, and return what they were given.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from neuromech.detect import Findings, why_not
from neuromech.dynamics import counted_elsewhere, drawn, followed_by_search, read, resumed
from neuromech.errors import InstrumentError, RecordError, kept_from_the_run, stood_aside
from neuromech.hooks import Guard, HandedGradients, LossWatch, StepWatch, held_alike, rank
from neuromech.params import named_parameters, unwrapped
from neuromech.probe import describe, empty_run
from neuromech.probe.arguments import Asked, find_now, findings_in
from neuromech.probe.averages import Averages
from neuromech.probe.later import LaterSearch
from neuromech.probe.measure import Measurement
from neuromech.probe.waiting import Waiting
from neuromech.record import Journal, Progress, Record, Sinks, how_it_ended
from neuromech.report import RunFrames

if TYPE_CHECKING:
    from neuromech.monitor import Expect, Gather, Monitor, Reaction

watched: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # the models that have a probe, without their wrappers


class Probe(RunFrames):
    """The instrument of one model, made by `instrument`. Also a context manager: leaving it is `remove()`."""

    def __init__(self, model: nn.Module, asked: Asked) -> None:
        self._model = unwrapped(model)
        self._monitor: Monitor | None = None
        self._saved_monitor: dict[str, Any] | None = None
        self._asked = asked
        self._reason = ""  # why the instrument has stood aside, if it has
        self._elsewhere: list[str] = []  # what other processes count
        self._guard = Guard(self._stand_aside, lambda: counted_elsewhere(self._elsewhere))
        self._found = None if asked.loss is None else find_now(self._model, asked.loss, asked.example, asked.budget)
        self._measurement: Measurement | None = None
        self._averages: Averages | None = None
        self._later: LaterSearch | None = None
        self._removed = False
        about = describe.of_model(self._model) | describe.of_run(asked)
        self._record = Record(asked.run if rank() == 0 else None, about, asked.resume)
        self._journal = Journal(self._record)
        self._sinks = Sinks(asked.to if rank() == 0 else None, self._journal)
        self._progress = Progress(self._record, lambda: 0 if self._measurement is None else self._measurement.step)
        self._waiting = Waiting(self._model, self._guard, asked.example if asked.loss is None else None, asked.budget)
        self._waiting.found = self._found
        self._loss = LossWatch()
        self._handed = HandedGradients(lambda: named_parameters(self._model).values(), self._guard)
        self._waiting.hooks.listeners += [self._loss, self._handed]
        work = self._enclosed(self._before), self._enclosed(self._after)
        self._steps = StepWatch(lambda: list(self._model.parameters()), *work, self._guard)
        watched.add(self._model)
        if asked.optimizer is not None:
            self._steps.consider(asked.optimizer)
        if reason := why_not(self._model):
            self._stand_aside(InstrumentError(reason))
        self._elsewhere = self._guard(held_alike, self._model) or []

    @property
    def symmetries(self) -> Findings:
        """What was found. Between the first forward and the first step: as if the loss saw the whole output.

        Raises `InstrumentError` before the first forward.
        """
        found = self._found or (None if self._reason else self._waiting.so_far())
        if found is None:
            raise InstrumentError(self._why_nothing())
        return found

    def _recorded(self) -> Record:
        self.flush()
        return self._record

    def averaging(self, averaged: nn.Module, weight: float) -> AbstractContextManager[None]:
        """Encloses one update of averaged weights (EMA, SWA): `with probe.averaging(ema, 1 - decay): ema.update...`.

        `weight`: with which the model's weights are taken in; `neuromech.dynamics.averaging_weight` knows that
        of `AveragedModel`. Raises `InstrumentError` before the first step, or for what does not average this model.
        """
        if self._averages is None:
            raise InstrumentError("nothing has been measured yet: averages are followed from the first step on")
        return self._averages.averaging(averaged, weight)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, one self-contained HTML file; returns its path (default: in the run directory)."""
        from neuromech.report import write_report

        self._explain_silence(warn=True)
        return write_report(self._recorded(), path or (self._record.path or Path()) / "report.html")

    def monitor(
        self,
        on_fault: Reaction = "warn",
        *,
        clip_norm: float | None = None,
        expect: Expect | None = None,
        scheduled: str | Collection[str] = ("lr", "momentum", "betas"),
        precision: torch.dtype | None = None,
        replicas: bool | Gather = False,
        ignore: str | Collection[str] = (),
        allow: str | Collection[str] = (),
    ) -> Monitor:
        """Watch every step for what breaks an exact law, and name the likely cause; returns the monitor.

        `on_fault`: "warn", "raise" (`FaultError`, ahead of the step if it is seen ahead of it), or a function of the
        `Fault`. Each fault is told once, and recorded. What the monitor cannot know may be declared. `clip_norm`: what
        gradients are clipped to. `expect`: settings, as in `{"lr": 0.1}` or `{"*.bias": {"weight_decay": 0}}`; values
        may be functions of the step (1, 2, ...). `scheduled`: settings that change in mid-run. `precision`: the
        coarsest format computed in, where autocast inside of the forward hides it. `replicas`: compare the ranks of
        torch.distributed; all have to. `ignore`: causes that are not faults here. `allow`: what is done on purpose
        ("sam", "penalty", "freezing", "handover", "noise", ...: see `neuromech.monitor.PRACTICES`).

        Without arguments: the monitor that there is, if there is one. Raises `InstrumentError` for arguments that make
        no sense, or if there is a monitor with other ones.
        """
        from neuromech.monitor import Monitor, Options  # a quarter of the package, for those who ask

        options = Options(on_fault, clip_norm, expect, scheduled, precision, replicas, ignore, allow)
        if self._monitor is not None and options == Options():
            return self._monitor
        aside = self._removed and self._reason  # the run goes on, and is not to be ended by asking for a monitor
        if self._monitor is not None or (self._removed and not aside):
            why = "has been removed" if self._removed else "has its monitor already (monitor() gives it again)"
            raise InstrumentError(f"this probe {why}")
        self._waiting.lenient = True
        self._monitor = Monitor(self._model, self._waiting.hooks, self._record, self._journal, options, self._progress)
        if aside:
            self._monitor.remove()
        elif self._measurement is not None:
            self._monitor.go_on(self._measurement.step, self._saved_monitor)
            self._record.update_meta({"unwatched": 0 if self._saved_monitor else self._measurement.step})
        return self._monitor

    def flush(self) -> None:
        """Bring everything measured so far to the records."""
        (self._measurement or self._progress).flush()  # the one brings the other along

    def log(self, **values: Any) -> None:
        """Record numbers at the present step; a `loss` replaces the one that backward saw. Raises `RecordError`."""
        self._progress.log(values)

    def scalars(self) -> dict[str, float]:
        """At most 30 numbers of the newest step, by short tags, for any logger; see `neuromech.dynamics.scalars_of`."""
        measured = {} if self._measurement is None else self._measurement.scalars()
        faults = {} if self._monitor is None else {"faults": float(len(self._monitor.faults))}
        return {"loss": self._progress.newest_loss} | self._progress.newest_norms | measured | faults

    def remove(self) -> None:
        """Take the instrument off the model and the optimizer; records and report remain. Twice does no harm."""
        self._remove("finished")

    def _remove(self, how: str, what: str = "") -> None:
        if not self._removed:
            self._removed = True
            self._waiting.hooks.remove()
            if self._later is not None:
                self._later.remove()
            self._steps.remove()
            self._handed.remove()
            self.flush()
            self._explain_silence()
            if self._monitor is not None:
                self._monitor.remove()
            watched.discard(self._model)
            self._record.end(how, what)

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._remove(*how_it_ended(error))

    def __repr__(self) -> str:
        name, how = type(self._model).__name__, describe.how(self._asked.coverage, self._record.path)
        if self._measurement is None or self._found is None:
            return f"Probe of {name}, waiting: {self._why_nothing().partition('. ')[0]}{how}"
        return f"Probe of {name}: {len(self._found)} families, {self._measurement.step} steps{how}"

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on exactly: plain data and tensors, fit for `torch.load(weights_only=True)`.

        Empty before the first step: there is nothing to go on from. If the model is sharded all processes have to call
        this, and `load_state_dict`; what is saved is the same for any number of them.
        """
        if self._measurement is None or self._found is None:
            return {}
        searches = self._later.searches if self._later is not None else []
        state = {"found": self._found.to_dict(), "searches": searches, "measurement": self._measurement.state_dict()}
        return state | ({"monitor": self._monitor.state_dict()} if self._monitor else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`: predictions continue as if the run had never been interrupted.

        Load the model and the optimizer first. Raises `RecordError` if the state is of another model or coverage, or if
        this probe has measured already. The state of a fresh probe leaves it as it is.
        """
        if isinstance(state, dict) and not state:
            return
        if self._measurement is not None:
            raise RecordError("this probe has measured already: load the state into a fresh instrument(model)")
        found, members = findings_in(state, self._model), resumed(state["measurement"], self._asked.coverage)
        self._waiting.meet(found)
        self._elsewhere = held_alike(self._model)
        with counted_elsewhere(self._elsewhere):
            self._measure(found, members, state.get("searches", ())).load_state_dict(state["measurement"])
        self._saved_monitor = state.get("monitor")
        if self._monitor is not None and self._measurement is not None:
            self._monitor.go_on(self._measurement.step, self._saved_monitor)

    # -- waiting

    def _start(self) -> bool:
        """The gradients of the first step are ready: settle the symmetries, read the initial charges."""
        if self._found is None:
            self._found = self._waiting.settle(by_hand=self._handed.none_seen)
            if self._found is None:
                parts = ". From the next step on its parts are followed" if self._waiting.follow_parts() else ""
                if not self._waiting.forwards.empty:
                    self._journal.once("no forward", 0, "no forward", self._why_nothing() + parts)
                return False
            if self._monitor is not None:
                self._monitor.begin(self._waiting.violated, self._waiting.graph, self._waiting.forwards)
        if self._record.session:
            self._journal.once("no state", 0, "no state", empty_run.NO_STATE)
        self._measure(self._found).begin()
        return True

    def _measure(
        self, found: Findings, members: Sequence[range] | None = None, searches: Sequence[int] = ()
    ) -> Measurement:
        self._found = found
        self._waiting.forget()
        if (dtype := self._waiting.forwards.autocast) is not None:
            self._record.update_meta({"autocast": str(dtype).removeprefix("torch.")})
        searches, ranks = searches or [len(found)], self._waiting.ranks
        have_laws = followed_by_search(list(found), searches, named_parameters(self._model), ranks is None)
        members = members or drawn([s for some in have_laws for s in some], self._asked.coverage)
        run = self._model, found, self._record, self._journal, self._asked
        self._measurement = Measurement(*run, have_laws, members, ranks)
        late = self._journal, self._asked.budget, self._waiting, searches
        self._later = LaterSearch(self._model, self._measurement, *late)
        self._averages = Averages(self._measurement, self._record, self._journal, lambda: self._monitor)
        self._measurement.beside(self._progress.flush)
        return self._measurement

    def _why_nothing(self) -> str:
        return self._reason or self._waiting.why_nothing()

    def _explain_silence(self, warn: bool = False) -> None:
        if self._measurement is None:
            self._journal.once("silence", 0, "nothing measured", self._why_nothing(), warn=warn)

    def _before(self, optimizer: Optimizer) -> None:
        if self._measurement is None and not read(optimizer, {p: n for n, p in named_parameters(self._model).items()}):
            # a step before any backward, or one that a GradScaler skips: nothing begins
            return self._monitor.empty_step(optimizer) if self._monitor else None
        if self._measurement is not None or self._start():
            measured, monitor, changed = self._measurement, self._monitor, self._handed.changed
            assert measured is not None
            if self._later is not None and self._found is not None:
                self._found = self._later.ahead(self._found, self._asked.coverage, monitor is not None)
            edited: bool | None = None  # for want of a monitor, the measurement looks for itself
            if monitor is not None and self._found is not None:
                monitor.arm(measured.laws, self._found.inactive, self._waiting.ranks)
                edited, changed = monitor.before(optimizer, changed)
            measured.before(optimizer, edited, changed)

    def _after(self, optimizer: Optimizer) -> None:
        if self._measurement is not None:
            reading = self._measurement.after(optimizer)
            self._progress.loss(self._loss.take(optimizer))
            self._progress.norms(() if self._waiting.ranks else self._measurement.params.values())
            if self._monitor is not None and self._monitor.after(optimizer, reading):
                self._measurement.start_over()
            self._measurement.flush_if_due()
            if self._measurement.step % self._asked.every == 0:
                self._sinks.tell(self.scalars, self._measurement.iteration)

    def _enclosed(self, work: Callable[[Optimizer], None]) -> Callable[[Optimizer], None]:
        """`work` without gradients, its failures kept from the run; then what the monitor has to say."""

        def enclosed(optimizer: Optimizer) -> None:
            if not self._removed:
                if self._measurement is None:  # sharding may have come behind `instrument`
                    self._elsewhere = self._guard(held_alike, self._model) or []
                with torch.no_grad(), self._progress.measuring():
                    self._guard(work, optimizer)
                if self._monitor is not None:
                    with kept_from_the_run():
                        self._monitor.react()  # what it raises is meant to end the run

        return enclosed

    def _stand_aside(self, error: Exception) -> None:
        """Something of ours has failed: training goes on without it, or ends if that was asked for."""
        self._reason = stood_aside(step := self._measurement.step if self._measurement else 0, error)
        try:
            if self._waiting.ranks is not None:
                self._waiting.ranks.leave()
            self._remove("failed", f"{type(error).__name__}: {error}")
        except Exception as second:
            self._reason += f" Then the records could not be closed: {second}"
        if self._asked.strict:
            raise error
        self._journal.once("failed", step, "failed", self._reason)
