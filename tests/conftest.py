"""Every test starts from the same random numbers, on one thread; hypothesis takes the time that it needs."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

from neuromech import errors

torch.set_num_threads(1)
settings.register_profile("house", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_warning_is_swallowed() -> Iterator[None]:
    """Filters make errors of warnings here. Inside of a training neuromech prints them instead, and counts them."""
    errors.swallowed.clear()
    yield
    assert not errors.swallowed


@pytest.fixture
def float64() -> Iterator[None]:
    """Tensors and modules made in the test are in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
