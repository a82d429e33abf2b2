"""How a run goes on, beside its charges: logged numbers, the loss of each step, and what measuring costs.

metrics     step, name, value
progress    step, seconds since the start of the session, and of those the seconds spent on measuring
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from neuromech.errors import RecordError
from neuromech.record.record import Record

LOSS, BACKWARDS = "loss", "backwards"


class Progress:
    """Collects; values stay where they are computed until `flush`, so that no step waits for a device.

    `step`: tells the step that the run is at.
    """

    def __init__(self, record: Record, step: Callable[[], int]) -> None:
        self._record, self._step = record, step
        self._waiting: list[tuple[int, str, Any]] = []
        self._begun, self._spent, self._written = time.monotonic(), 0.0, -1
        self._logs_loss = False
        self._loss: Any = math.nan

    def log(self, values: Mapping[str, Any]) -> None:
        """Numbers of the user. A `loss` among them replaces the one that is read off the backward.

        Raises `RecordError` for what is not a number.
        """
        for name, value in values.items():
            if isinstance(value, Tensor):
                if value.numel() != 1:
                    raise RecordError(f"log({name}=...) takes one number, not a tensor of shape {tuple(value.shape)}")
                value = value.detach().reshape(()).clone()
            else:
                try:
                    value = float(value)
                except (TypeError, ValueError) as error:
                    raise RecordError(f"log({name}=...) takes a number, not {type(value).__name__}") from error
            if name == LOSS:
                self._logs_loss, self._loss = True, value
            self._waiting.append((self._step(), name, value))

    def loss(self, roots: Sequence[Tensor]) -> None:
        """What backward was called on for the step that was just taken; several passes are summed up."""
        if roots and not self._logs_loss:
            self._loss = sum(root.double().reshape(()) for root in roots)
            self._waiting.append((self._step(), LOSS, self._loss))
            if len(roots) > 1:
                self._waiting.append((self._step(), BACKWARDS, float(len(roots))))

    @property
    def newest_loss(self) -> float:
        """nan if there was none. Waits for the device."""
        return float(self._loss)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Encloses work of the instrument, to know its share."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._spent += time.perf_counter() - begun

    def flush(self) -> None:
        """Bring what waits to the record."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            steps, names, values = zip(*waiting, strict=True)
            self._record.append("metrics", {"step": steps, "name": names, "value": _numbers(values)})
        if (step := self._step()) != self._written:
            self._written = step
            seconds = time.monotonic() - self._begun
            self._record.append("progress", {"step": step, "seconds": seconds, "measuring": self._spent})


def _numbers(values: Sequence[Any]) -> list[float]:
    """Floats of tensors and numbers; one transfer for each device."""
    out = [v if not isinstance(v, Tensor) else math.nan for v in values]
    places: dict[torch.device, list[int]] = {}
    for i, v in enumerate(values):
        if isinstance(v, Tensor):
            places.setdefault(v.device, []).append(i)
    for indices in places.values():
        together = torch.stack([values[i].double().reshape(()) for i in indices]).tolist()
        for i, x in zip(indices, together, strict=True):
            out[i] = float(x)
    return out
