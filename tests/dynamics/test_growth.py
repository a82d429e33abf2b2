"""Why gradients grow: settings of which the cause is known, and sums that are exact."""

import math

import pytest

from neuromech.dynamics import growth_of
from neuromech.dynamics.forecast import Balance


def test_a_schedule_that_falls_lets_gradients_grow() -> None:
    """In equilibrium the squared length goes with the root of the learning rate (SGD)."""
    balance = Balance(0.4, 3.0, 1)
    rest = balance.equilibrium(0.1)
    found = growth_of(balance, rest, [0.1] + [0.025] * 4000, math.sqrt(2.0))
    assert found.cause == "lr"
    assert found.lr == pytest.approx(0.25 * math.log(4.0), rel=1e-3)
    assert sum(found) == pytest.approx(math.log(math.sqrt(2.0)))


def test_decay_and_data_are_told_apart() -> None:
    balance, lrs = Balance(0.4, 0.01, 1), [0.1] * 100
    shrunk = growth_of(balance, 5.0, lrs, math.sqrt(5.0 / balance.advance(5.0, lrs)))
    assert shrunk.cause == "decay"
    assert shrunk.data == pytest.approx(0.0, abs=1e-12)
    assert growth_of(balance, 5.0, lrs, 100.0).cause == "data"


def test_it_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="0 steps"):
        growth_of(Balance(0.4, 0.01, 1), 5.0, [], 2.0)
