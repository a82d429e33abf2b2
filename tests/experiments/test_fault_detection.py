"""Faults are injected, the monitor has to catch them and name the cause; clean runs have to stay silent.

The full table (each fault ten times, two hundred clean runs) is `slow`; each fault once and a few clean runs are not.
"""

from dataclasses import asdict

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

import neuromech
from analysis.fault_detection import KINDS, WANTED, by_fault, share
from experiments.fault_detection import Config, run, silence, trial
from experiments.faults import INJECTIONS
from experiments.faults.clean import HABITS
from neuromech.demo import digits, vgg
from neuromech.record import read
from tests.families import fast

pytestmark = pytest.mark.filterwarnings("ignore::neuromech.NeuromechWarning")


@pytest.mark.parametrize("name", fast(INJECTIONS, list(INJECTIONS)[::5]))
def test_each_fault_once(name: str) -> None:
    done = trial(INJECTIONS[name], 0, Config(earliest=4, latest=8))
    assert done.alarms == 0
    assert 0 <= done.delay < 100
    assert done.rank in (1, 2), done.told


@pytest.mark.parametrize("seed", fast(range(len(HABITS)), range(0, len(HABITS), 6)))
def test_each_habit_once(seed: int) -> None:
    done = silence(seed, Config(steps=15))
    assert done.steps >= 8  # a `GradScaler` skips some
    assert done.alarms == 0, done.told


@pytest.mark.parametrize("seed", fast([0, 1], [0]))
def test_the_network_of_the_demo(seed: int) -> None:
    """Its first filters see pixels that are mostly dark: of channels that hardly vary the eps of batch norm is felt."""
    torch.manual_seed(seed)
    x, y = digits()
    model = vgg()
    monitor = neuromech.instrument(model).monitor("raise")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for rows in torch.randperm(len(x))[:512].split(128):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    assert monitor.step == 4


def test_there_are_enough_kinds_of_fault() -> None:
    assert len(INJECTIONS) >= KINDS


@pytest.mark.slow
@pytest.mark.parametrize("tenth", range(10))
def test_the_whole_table(tenth: int) -> None:
    """In tenths, each of which is held to the figures of the whole."""
    trials = pd.DataFrame(asdict(trial(injection, tenth, Config())) for injection in INJECTIONS.values())
    print("\n" + by_fault(trials).to_string(index=False))
    assert trials["alarms"].sum() == 0
    assert share(trials) >= WANTED
    clean = [silence(seed, Config()) for seed in range(20 * tenth, 20 * (tenth + 1))]
    assert not [(s.run, s.told) for s in clean if s.alarms]


@pytest.mark.slow
def test_the_command_makes_each_run_once(tmp_path) -> None:
    config = Config(seeds=1, clean=2, steps=20)
    for _ in range(2):
        runs = read(run(config, tmp_path / "monitor"))
        assert len(runs.frame("trials")) == len(INJECTIONS)
        assert len(runs.frame("clean")) == 2
