"""How a run goes on, beside its charges: logged numbers, the loss of each step, norms, and what measuring costs.

metrics     step, name, value
progress    step, seconds since the start of the session, and of those the seconds spent on measuring
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from neuromech.errors import RecordError
from neuromech.record.record import Record

LOSS, BACKWARDS = "loss", "backwards"
_NUMBER = struct.Struct("<d")
WEIGHTS, GRADIENT = "weight norm", "gradient norm"
NORMS = {"weight_norm": WEIGHTS, "gradient_norm": GRADIENT}  # as loggers call them


class Progress:
    """Collects; values stay where they are computed until `flush`, so that no step waits for a device.

    `step`: tells the step that the run is at.
    """

    def __init__(self, record: Record, step: Callable[[], int]) -> None:
        self._record, self._step = record, step
        self._waiting: list[tuple[int, str, Any]] = []
        self._begun, self._spent, self._written = time.monotonic(), 0.0, -1
        self._logs_loss, self._layouts = False, dict[str, int]()
        self._loss: Any = math.nan
        self._norms = dict[str, Any]()

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
            self._wait(name, value)
        if self._record.unwritten is not None:
            self._record.unwritten.keep()

    def loss(self, roots: Sequence[Tensor]) -> None:
        """What backward was called on for the step that was just taken; several passes are summed up."""
        if roots and not self._logs_loss:
            self._loss = sum(root.double().reshape(()) for root in roots)
            self._wait(LOSS, self._loss)
            if len(roots) > 1:
                self._wait(BACKWARDS, float(len(roots)))

    def norms(self, parameters: Collection[Tensor]) -> None:
        """The norm of all weights as the step has left them, and of the gradient that it took, at some of the steps."""
        if not _due(self._step()):
            return
        own = [p.detach() for p in parameters if p.is_floating_point() or p.is_complex()]
        taken = [p.grad for p in parameters if p.grad is not None]
        for name, tensors in ((WEIGHTS, own), (GRADIENT, taken)):
            if (norm := _norm(tensors)) is not None:
                self._norms[name] = norm
                self._wait(name, norm)

    def _wait(self, name: str, value: Any) -> None:
        self._waiting.append((self._step(), name, value))
        if (kept := self._record.unwritten) is not None and not (isinstance(value, Tensor) and not value.is_cpu):
            if name not in self._layouts:
                self._layouts[name] = kept.layout("metrics", ["value"], name=name)
            kept.reading(self._layouts[name], self._step(), _NUMBER.pack(value))

    @property
    def newest_norms(self) -> dict[str, float]:
        """Of the last step that measured them. Waits for the device."""
        return {tag: float(self._norms[name]) for tag, name in NORMS.items() if name in self._norms}

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
            self._record.append("metrics", {"step": steps, "name": names, "value": _numbers(values)}, kept=True)
        if (step := self._step()) != self._written:
            self._written = step
            seconds = time.monotonic() - self._begun
            self._record.append("progress", {"step": step, "seconds": seconds, "measuring": self._spent})


def _due(step: int) -> bool:
    """Eight steps in every doubling of their number: a norm reads all weights, which a run can afford now and then."""
    return step <= 8 or step % (1 << (step.bit_length() - 4)) == 0


def _norm(tensors: Sequence[Tensor]) -> Tensor | None:
    """Of all entries together, in float32 or better; None where that would need another device or process."""
    plain = all(type(t) in (Tensor, Parameter) and t.layout == torch.strided and not t.is_meta for t in tensors)
    if not tensors or not plain or len({t.device for t in tensors}) > 1:
        return None
    each = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    whole: Tensor = torch.linalg.vector_norm(torch.stack([x.double() for x in each]))
    return whole


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
