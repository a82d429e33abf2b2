"""Random states: whatever was drawn, everything comes again after a restore, and what was not drawn costs little."""

import random

import numpy as np
import pytest
import torch

from neuromech.rng import preserved_rng, restore, states

DRAWS = {
    "python": lambda: random.random(),
    "python, normal": lambda: random.gauss(),
    "numpy": lambda: float(np.random.rand()),
    "numpy, normal": lambda: float(np.random.randn()),
    "torch": lambda: float(torch.rand(())),
}


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_drawn_inside_does_not_count(name: str) -> None:
    start = states([])
    after = DRAWS[name]()
    restore(start)
    with preserved_rng():
        for draw in DRAWS.values():
            draw()
    assert DRAWS[name]() == after


@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("name", DRAWS)
def test_draws_come_again(name: str, before: int) -> None:
    """Also where a normal number is in store, which is drawn without moving the generator."""
    np.random.seed(0)
    draw = DRAWS[name]
    for _ in range(before):
        draw()
    start = states([])
    first = [draw() for _ in range(3)]
    end = states([])
    after = draw()
    restore(start)
    assert [draw() for _ in range(3)] == first
    restore(end)
    assert draw() == after


def test_the_store_of_numpy_is_seen_to_be_used() -> None:
    np.random.seed(1)
    np.random.randn()
    start = states([])
    stored = np.random.randn()  # does not move the generator
    used = states([])
    other = np.random.randn()
    restore(start)
    assert np.random.randn() == stored
    restore(used)
    assert np.random.randn() == other


def test_other_generators_of_numpy() -> None:
    mine = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(3))
        start = states([])
        first = np.random.rand()
        restore(start)
        assert np.random.rand() == first
    finally:
        np.random.set_bit_generator(mine)
