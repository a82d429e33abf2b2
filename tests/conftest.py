"""Every test starts from the same random numbers, on one thread; hypothesis takes the time that it needs."""

import gc
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from neuromech import errors
from neuromech.optimizers.registry import RULES
from neuromech.physics.energy import composites, pair_rules, rules
from tests.versions import skip_what_torch_lacks

torch.set_num_threads(1)
settings.register_profile("house", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_what_torch_lacks(items)


def pytest_collection_finish() -> None:
    """What was imported until here stays for good: the garbage collector need not go through it after every test."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the time goes, by folder, at the end of a run of several."""
    spent: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in (r for r in reports if isinstance(r, pytest.TestReport)):
            path = Path(report.nodeid.split("::")[0])
            spent[str(path.parent)] += report.duration
    if len(spent) > 2:
        terminalreporter.write_sep("=", "seconds by folder, all workers together")
        for folder, seconds in spent.most_common():
            terminalreporter.write_line(f"{seconds:8.1f}  {folder}")


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


# What a user's own rules are written into, by tests and by blocks of the documentation that run in this process.
REGISTRIES: tuple[dict[Any, Any] | set[str], ...] = (
    RULES, rules.LINEAR, rules.BILINEAR, rules.QUADRATIC, rules.SECANTS, rules.SOFTMAX, composites.COMPOSITES,
    pair_rules.PAIRS,
)  # fmt: skip


@pytest.fixture(autouse=True)
def registered_rules_are_taken_back() -> Iterator[None]:
    """No test sees the rules that another one registered."""
    before = [registry.copy() for registry in REGISTRIES]
    yield
    for registry, was in zip(REGISTRIES, before, strict=True):
        if registry != was:
            registry.clear()
            registry.update(was)


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
