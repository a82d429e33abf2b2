"""Trains every public bug with its healthy twin, every practice, and every optimizer of the libraries at hand.

    python -m experiments.silent_bugs [--seeds 3] [--out runs/silent_bugs]
    python -m analysis.silent_bugs runs/silent_bugs

One row a run: what was told, in which iteration, and where the true cause stood.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from experiments.runs import command, next_command, run_of
from experiments.silent_bugs.bugs import BUGS, Bug
from experiments.silent_bugs.frameworks import frameworks
from experiments.silent_bugs.libraries import optimizers, runs_bare, watched_run
from experiments.silent_bugs.nets import Watched
from experiments.silent_bugs.practices import PRACTICES
from neuromech.errors import NeuromechWarning


@dataclass(frozen=True)
class Config:
    seeds: int = 3  # of each clean run


@dataclass(frozen=True)
class Found:
    """What became of one bug. `delay`: iterations until it was told, -1: never; `rank` of the cause, 0: nowhere."""

    bug: str
    source: str
    cause: str
    delay: int
    rank: int
    told: str


@dataclass(frozen=True)
class Clean:
    kind: str
    run: str
    seed: int
    steps: int
    alarms: int
    told: str


def trial(bug: Bug) -> Found:
    """The first fault that is told of a run with the bug."""
    faults = bug.run(True).faults
    if not faults:
        return Found(bug.name, bug.source, bug.cause, -1, 0, "")
    iteration, fault = faults[0]
    rank = fault.causes.index(bug.cause) + 1 if bug.cause in fault.causes else 0
    return Found(bug.name, bug.source, bug.cause, max(0, iteration - bug.at), rank, ", ".join(fault.causes))


def clean_runs(config: Config) -> Iterator[tuple[str, str, int, Callable[[], Watched]]]:
    """(kind, name, seed, run)"""
    for bug in BUGS.values():
        yield "healthy twin", bug.name, 0, partial(bug.run, False)
    for seed in range(config.seeds):
        for name, make in PRACTICES.items():
            yield "practice", name, seed, partial(make, seed)
        for name, make in frameworks():
            yield "framework", name, seed, partial(make, seed)
        for name, optimizer in optimizers():
            if runs_bare(optimizer, seed):
                yield "optimizer", name, seed, partial(watched_run, optimizer, seed)


def run(config: Config, directory: Path) -> Path:
    torch.set_num_threads(1)
    with run_of(directory, config) as record, warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuromechWarning)
        for bug in BUGS.values():
            record.append("bugs", {k: [v] for k, v in asdict(trial(bug)).items()})
        for kind, name, seed, make in clean_runs(config):
            watched = make()
            told = "; ".join(str(fault) for _, fault in watched.faults)
            row = Clean(kind, name, seed, watched.monitor.step, len(watched.faults), told)
            record.append("clean", {k: [v] for k, v in asdict(row).items()})
    return directory


def main() -> None:
    parser = command("silent_bugs", __doc__)
    parser.add_argument("--seeds", type=int, default=Config.seeds)
    options = parser.parse_args()
    run(Config(options.seeds), options.out)
    next_command("silent_bugs", options.out)


if __name__ == "__main__":
    main()
