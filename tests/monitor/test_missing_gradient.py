"""A gradient is missing by chance or not: against a brute-force count of coins."""

import math
import random

import pytest

from neuromech.monitor.missing_gradient import MissingGradientTest
from neuromech.rounding import CHANCE


def run_until_told(test: MissingGradientTest, most: int = 10_000) -> int:
    for k in range(1, most):
        test.note(False)
        if test.stopped:
            return k
    return most


def test_what_always_moved_is_missed_soon_and_sooner_the_longer_it_moved() -> None:
    lengths = []
    for moves in (1, 10, 100, 1000):
        test = MissingGradientTest()
        for _ in range(moves):
            test.note(True)
        lengths.append(run_until_told(test))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[:2] == [46, 46]
    assert lengths[2] == 10


def test_what_never_moved_is_compared_with_a_fair_coin() -> None:
    assert run_until_told(MissingGradientTest()) == math.ceil(math.log2(1 / CHANCE))


@pytest.mark.parametrize("rest", [0.1, 0.3, 0.5])
def test_layers_that_are_dropped_at_random_are_never_missed(rest: float) -> None:
    """200 series of 500 steps: by chance none is told, at a probability of 3e-14 each step."""
    r = random.Random(0)
    for _ in range(200):
        test = MissingGradientTest()
        for _ in range(500):
            test.note(r.random() > rest)
            assert not (test.run and test.stopped)
