"""The columns of the tables of forecasts: what each is called, and what it says of a forecast."""

from __future__ import annotations

from collections.abc import Callable

from neuromech.report.charges_ahead import ChargeForecast
from neuromech.report.forecasts import Forecast
from neuromech.report.words import number, share

COLUMNS: tuple[tuple[str, Callable[[Forecast], str]], ...] = (
    ("At the forecast", lambda f: number(f.now)),
    ("Forecast", lambda f: number(f.end)),
    ("What came", lambda f: number(f.came)),
    ("Off by", lambda f: share(f.error)),
    ("If nothing changed", lambda f: share(f.baseline)),
    ("Equilibrium then", lambda f: number(f.equilibrium)),
    ("Time constant", lambda f: number(f.time_constant) + (" steps" if f.time_constant < 1e300 else "")),
    ("Effective learning rate", lambda f: number(f.effective)),
    ("Turn a step, forecast", lambda f: number(f.angle)),
    ("Turn, measured", lambda f: number(f.turned)),
    ("Turn, off by", lambda f: share(f.angle_error)),
    ("Turn, as before", lambda f: share(f.angle_baseline)),
)
OF_CHARGES: tuple[tuple[str, Callable[[ChargeForecast], str]], ...] = (
    ("At the forecast", lambda f: number(f.now)),
    ("Forecast", lambda f: number(f.end)),
    ("80 % interval", lambda f: f"{number(f.low)} to {number(f.high)}"),
    ("What came", lambda f: number(f.came)),
    ("Off by", lambda f: share(f.error)),
    ("If nothing changed", lambda f: share(f.baseline)),
    ("At rest", lambda f: number(f.equilibrium) if f.equilibrium * 0 == 0 else "never"),
    ("Time constant", lambda f: number(f.time_constant) + (" steps" if f.time_constant < 1e300 else "")),
)
