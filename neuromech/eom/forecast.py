"""A forecast on a live run: will its steps be unstable within k steps?

Sharpness over the edge is followed in logarithms. A line through the last measurements, with the error of least squares
for a new observation, gives the probability that it stands above 0 after k steps.
"""

from __future__ import annotations

import math
from collections import deque

from neuromech.eom.error import StepError
from neuromech.errors import EoMError

LEAST = 3  # measurements


class EdgeForecast:
    """Add what `ErrorMeter.measure` returns, every so many steps; `within(k)` is a probability.

        meter, forecast = ErrorMeter(model, optimizer), EdgeForecast()
        forecast.add(meter.measure(closure))
        if forecast.within(50) > 0.5: ...

    `window`: how many measurements the line goes through. A change of lr moves the edge, and is known at once.
    """

    def __init__(self, window: int = 8) -> None:
        if window < LEAST:
            raise EoMError(f"window is {window}: a line with an error needs at least {LEAST} measurements")
        self._rows: deque[StepError] = deque(maxlen=window)

    def add(self, row: StepError) -> None:
        """Raises `EoMError` for a row without sharpness, or out of order."""
        if not (math.isfinite(row.sharpness) and row.sharpness > 0.0 and math.isfinite(row.edge)):
            raise EoMError(f"step {row.step} has sharpness {row.sharpness}: measure it, with sharpness=True")
        if self._rows and row.step <= self._rows[-1].step:
            raise EoMError(f"step {row.step} comes after step {self._rows[-1].step}: add rows in order")
        self._rows.append(row)

    @property
    def excess(self) -> float:
        """ln(sharpness / edge) as last measured: positive past the edge."""
        if not self._rows:
            raise EoMError("nothing has been added yet")
        return math.log(self._rows[-1].sharpness / self._rows[-1].edge)

    def within(self, steps: int) -> float:
        """The probability of being past the edge at some time within so many steps; nan before 3 measurements."""
        if steps < 1:
            raise EoMError(f"steps is {steps}: it has to be at least 1")
        if self._rows and self.excess > 0.0:
            return 1.0
        if len(self._rows) < LEAST:
            return math.nan
        edge = math.log(self._rows[-1].edge)
        t = [float(r.step - self._rows[-1].step) for r in self._rows]
        y = [math.log(r.sharpness) - edge for r in self._rows]
        n, mean_t, mean_y = len(t), math.fsum(t) / len(t), math.fsum(y) / len(y)
        wide = math.fsum((a - mean_t) ** 2 for a in t)
        slope = math.fsum((a - mean_t) * (b - mean_y) for a, b in zip(t, y, strict=True)) / wide
        left = math.fsum((b - mean_y - slope * (a - mean_t)) ** 2 for a, b in zip(t, y, strict=True)) / (n - 2)
        measured = max((r.uncertainty / r.sharpness for r in self._rows if math.isfinite(r.uncertainty)), default=0.0)
        noise = max(left, measured**2, 1e-12)
        ahead = float(steps) if slope > 0.0 else 0.0
        value = mean_y + slope * (ahead - mean_t)
        error = math.sqrt(noise * (1.0 + 1.0 / n + (ahead - mean_t) ** 2 / wide))
        return 0.5 * math.erfc(-value / error / math.sqrt(2.0))
