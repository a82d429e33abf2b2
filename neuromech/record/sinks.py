"""Where the numbers of a run go besides its records: TensorBoard, W&B, MLflow, any logger, any function of (numbers,
step).

Tags get the group "neuromech/" in a logger; a function gets them as they are. A sink that fails is left out from then
on, with one warning: neither the training nor the records hear of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from neuromech.errors import InstrumentError, located
from neuromech.record.events import Journal

Sink = Callable[[Mapping[str, float], int], object]
GROUP = "neuromech/"


def sink_of(to: Any) -> Sink:
    """A function of (numbers, step) for what the user logs with: a `SummaryWriter`, `wandb` or a run of it, `mlflow` or
    an `MlflowClient` (with an active run), whatever has `log_metrics(dict, step)` as loggers of Lightning have, or such
    a function itself. Raises `InstrumentError` for anything else."""
    if hasattr(to, "add_scalar"):
        return lambda numbers, step: [to.add_scalar(tag, x, step) for tag, x in _grouped(numbers).items()]
    if hasattr(to, "define_metric"):
        return _WandB(to)
    if hasattr(to, "log_batch") and hasattr(to, "search_experiments"):
        return _to_client(to)
    if hasattr(to, "log_metrics"):
        return lambda numbers, step: to.log_metrics({_plain(k): x for k, x in _grouped(numbers).items()}, step=step)
    if callable(to):
        return to  # type: ignore[no-any-return]
    raise InstrumentError(
        "to= takes a SummaryWriter, a run of W&B, mlflow, a logger with log_metrics, or a function of (dict, step), "
        f"not {type(to).__name__}"
    )


class Sinks:
    """All that the numbers of one run are told to. `to`: one sink, a list of them, or None."""

    def __init__(self, to: Any, journal: Journal) -> None:
        listed = () if to is None else to if isinstance(to, (list, tuple)) else (to,)
        self._sinks: list[tuple[str, Sink]] = [(type(each).__name__, sink_of(each)) for each in listed]
        self._journal = journal

    def tell(self, numbers: Callable[[], Mapping[str, float]], step: int) -> None:
        """Hand `numbers()` to every sink."""
        if not self._sinks:
            return
        told = dict(numbers())
        for name, sink in list(self._sinks):
            try:
                sink(told, step)
            except Exception as error:
                self._sinks.remove((name, sink))
                message = f"{name} takes no more numbers from step {step} on: {located(error)}. The records go on"
                self._journal.once(f"sink {name}", step, "sink", message)


class _WandB:
    """Rows of the user and ours share a step of W&B where both log, whatever the user counts; `neuromech/step` is our
    axis. A row of ours that the user has not closed by one of theirs is closed ahead of the next."""

    def __init__(self, run: Any) -> None:
        self._run, self._begun, self._open = run, False, -1

    def __call__(self, numbers: Mapping[str, float], step: int) -> None:
        if not self._begun:
            self._run.define_metric(f"{GROUP}step")
            self._run.define_metric(f"{GROUP}*", step_metric=f"{GROUP}step")
            self._begun = True
        if self._open == self._step():
            self._run.log({}, commit=True)
        self._run.log(_grouped(numbers) | {f"{GROUP}step": step}, commit=False)
        self._open = self._step()

    def _step(self) -> int:
        live = self._run if hasattr(self._run, "step") else self._run.run  # the module has the run that is active
        return int(live.step)


def _to_client(client: Any) -> Sink:
    def log(numbers: Mapping[str, float], step: int) -> None:
        import mlflow

        run = mlflow.active_run()
        if run is None:
            raise InstrumentError("no run of MLflow is active: enclose the training in `with mlflow.start_run():`")
        for tag, x in _grouped(numbers).items():
            client.log_metric(run.info.run_id, _plain(tag), x, step=step)

    return log


def _grouped(numbers: Mapping[str, float]) -> dict[str, float]:
    return {tag if tag.startswith(GROUP) else GROUP + tag: float(x) for tag, x in numbers.items()}


def _plain(tag: str) -> str:
    """A tag in the letters that MLflow allows."""
    return re.sub(r"[^\w\-./: ]", "_", tag)
