"""Averaged weights beside a run: the charges of an exponential or plain average, observed and predicted.

The law (dynamics/average.py) needs the charges of the weights that are taken in, the average before it takes them in,
and with which weight. One row an update and family: sums over members, and the worst residual among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from neuromech.dynamics import AverageLaw, AverageReading, Rows, WeightTaken
from neuromech.errors import InstrumentError, SymmetryError
from neuromech.monitor import Monitor
from neuromech.params import named_parameters
from neuromech.probe.measure import Measurement
from neuromech.record import Journal, Record

COLUMNS = ("observed", "exact", "spread", "scale", "residual")


class Averages:
    """Follows averages of the weights that `measurement` measures."""

    def __init__(
        self, measurement: Measurement, record: Record, journal: Journal, monitor: Callable[[], Monitor | None]
    ) -> None:
        """An update that takes in another weight than it was told is a fault if there is a monitor, else an event."""
        self._journal, self._monitor = journal, monitor
        self._measurement, self._record = measurement, record
        self._laws: WeakKeyDictionary[nn.Module, tuple[int, AverageLaw, Rows]] = WeakKeyDictionary()
        self._waiting: list[tuple[int, int, Tensor]] = []
        self._met = 0
        measurement.beside(self.flush)

    @contextmanager
    def averaging(self, averaged: nn.Module, weight: float) -> Iterator[None]:
        """Encloses one update of `averaged`, which takes in the model's weights with `weight`."""
        if not 0 <= weight <= 1:
            raise InstrumentError(
                f"averaging() takes the weight of the new weights, a number from 0 to 1, not {weight}: 1 - decay of an "
                "exponential average, 1 / (n + 1) after n of a plain mean"
            )
        module = averaged
        if isinstance(averaged, AveragedModel):
            module = averaged.module
            weight = weight if int(averaged.n_averaged) else 1.0  # its first update copies, whatever its decay
        means = {name: p.detach() for name, p in named_parameters(module).items()}
        number, law, rows = self._law(averaged, means)
        with torch.no_grad():
            law.before(self._measurement.params, means, self._measurement.charges())
            taken_in = WeightTaken(self._measurement.params, means)
        yield
        with torch.no_grad():
            reading = law.after(means, weight)
            self._waiting.append((self._measurement.step, number, _summed(rows, reading)))
            taken = taken_in(self._measurement.params, means, weight)
        if taken is not None:
            self._report(number, type(averaged).__name__, weight, taken)

    def _report(self, number: int, of: str, told: float, taken: float) -> None:
        if (monitor := self._monitor()) is not None:
            return monitor.averaged(of, told, taken)
        text = f"{of}, an average of the weights, takes them in with {taken:.3g} and not, as declared, with {told:.3g}"
        self._journal.once(f"average {number}", self._measurement.step, "average", text)

    def flush(self) -> None:
        """Bring what waits to the record."""
        if not self._waiting:
            return
        data = torch.cat([x for *_, x in self._waiting], dim=1).cpu().numpy()
        families = self._waiting[0][2].shape[1]
        index = {
            "step": [step for step, *_ in self._waiting for _ in range(families)],
            "average": [number for _, number, _ in self._waiting for _ in range(families)],
            "symmetry": [*range(families)] * len(self._waiting),
        }
        self._record.append("averages", index | {k: x.tolist() for k, x in zip(COLUMNS, data, strict=True)})
        self._waiting = []

    def _law(self, averaged: nn.Module, means: dict[str, Tensor]) -> tuple[int, AverageLaw, Rows]:
        if averaged not in self._laws:
            try:
                law = AverageLaw(self._measurement.laws.symmetries, means, self._measurement.laws.members)
            except (SymmetryError, KeyError) as error:
                raise InstrumentError(
                    f"{type(averaged).__name__} does not average this model: its parameters differ ({error})"
                ) from error
            self._laws[averaged] = self._met, law, Rows(law.slices, 0, self._measurement.laws.device)
            self._met += 1
        return self._laws[averaged]


def _summed(rows: Rows, reading: AverageReading) -> Tensor:
    """[COLUMNS, families]"""
    residual = rows.residuals(reading.exact, reading.observed, reading.scale)
    sums = rows.sums(torch.stack((reading.observed, reading.exact, reading.spread, reading.scale)))
    return torch.cat((sums, rows.maxima(residual[None])))
