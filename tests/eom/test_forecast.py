"""The forecast of instability: on series whose crossing is known."""

import math

import pytest

from neuromech import EoMError
from neuromech.eom import EdgeForecast, StepError


def row(step: int, sharpness: float, edge: float = 20.0, uncertainty: float = 0.0) -> StepError:
    return StepError(step, 0.1, 0, 1.0, 1.0, 1.0, {}, sharpness, uncertainty, edge)


def growing(rate: float, to: int = 80, noise: float = 0.0, edge: float = 20.0) -> EdgeForecast:
    forecast = EdgeForecast()
    for k, step in enumerate(range(10, to + 1, 10)):
        forecast.add(row(step, 10.0 * math.exp(rate * step + noise * (-1) ** k), edge))
    return forecast


def test_a_line_crosses_when_it_does() -> None:
    crossing = math.log(2.0) / 0.005  # step 138.6
    forecast = growing(0.005)
    assert forecast.within(round(crossing) - 80 - 5) < 0.01
    assert forecast.within(round(crossing) - 80 + 5) > 0.99
    assert growing(-0.01).within(10_000) < 0.01


def test_noise_makes_it_less_sure_and_a_longer_time_more_likely() -> None:
    sure, unsure = growing(0.005).within(100), growing(0.005, noise=0.1).within(100)
    assert 0.5 < unsure < sure
    inside = [growing(0.005, noise=0.05).within(k) for k in (10, 40, 80, 200)]
    assert inside == sorted(inside)


def test_a_lower_edge_is_known_at_once() -> None:
    forecast = growing(0.005)
    forecast.add(row(90, 10.0 * math.exp(0.45), edge=15.0))
    assert forecast.within(1) == 1.0
    assert forecast.excess > 0.0


def test_bad_input() -> None:
    forecast = EdgeForecast()
    with pytest.raises(EoMError, match="nothing has been added"):
        _ = forecast.excess
    forecast.add(row(1, 1.0))
    assert math.isnan(forecast.within(10))
    for wrong, message in ((row(1, 1.0), "in order"), (row(2, math.nan), "sharpness=True")):
        with pytest.raises(EoMError, match=message):
            forecast.add(wrong)
    with pytest.raises(EoMError, match="at least 1"):
        forecast.within(0)
    with pytest.raises(EoMError, match="at least 3"):
        EdgeForecast(window=2)
