"""Trains every public bug with its healthy twin, every practice, and every optimizer of the libraries at hand.

    python -m experiments.silent_bugs [--seeds 3] [--out runs/silent_bugs]
    python -m analysis.silent_bugs runs/silent_bugs

One row a run: what was told, in which iteration, and where the true cause stood. Runs that are there are not made
again, so that a run that was broken off goes on. With 3 seeds there are more than 700 clean runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.runs import command, next_command, outstanding, run_of
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
    """`unwatched`: why the instrument stood aside; `steps` that it saw."""

    kind: str
    run: str
    seed: int
    steps: int
    alarms: int
    told: str
    unwatched: str = ""


def trial(bug: Bug) -> Found:
    """The first fault that is told of a run with the bug."""
    faults = bug.run(True).faults
    if not faults:
        return Found(bug.name, bug.source, bug.cause, -1, 0, "")
    iteration, fault = faults[0]
    rank = fault.causes.index(bug.cause) + 1 if bug.cause in fault.causes else 0
    return Found(bug.name, bug.source, bug.cause, max(0, iteration - bug.at), rank, ", ".join(fault.causes))


def clean(kind: str, name: str, seed: int, watched: Watched) -> Clean:
    """What was told of a run that is finished."""
    told = "; ".join(str(fault) for _, fault in watched.faults)
    events = watched.probe.events
    failed = "; ".join(events[events["kind"] == "failed"]["message"]) if len(events) else ""
    return Clean(kind, name, seed, watched.monitor.step, len(watched.faults), told, failed)


Way = tuple[str, str, int]


def clean_runs(config: Config) -> Iterator[tuple[Way, Callable[[], Watched | None]]]:
    """((kind, name, seed), run), whose run is None if this loop cannot train so when nobody watches."""
    for bug in BUGS.values():
        yield ("healthy twin", bug.name, 0), partial(bug.run, False)
    for seed in range(config.seeds):
        for name, make in PRACTICES.items():
            yield ("practice", name, seed), partial(make, seed)
        for name, make in frameworks():
            yield ("framework", name, seed), partial(make, seed)
        for name, optimizer in optimizers():
            yield ("optimizer", name, seed), partial(_optimized, optimizer, seed)


def _optimized(make: Callable[[nn.Module], Any], seed: int) -> Watched | None:
    return watched_run(make, seed) if runs_bare(make, seed) else None


def run(config: Config, directory: Path) -> Path:
    torch.set_num_threads(1)
    with run_of(directory, config) as record, warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuromechWarning)
        for (name,) in outstanding(record, "bugs", ("bug",), [(name,) for name in BUGS]):
            record.append("bugs", {k: [v] for k, v in asdict(trial(BUGS[name])).items()})
        runs, columns = dict(clean_runs(config)), ("kind", "run", "seed")
        for way in outstanding(record, "clean", columns, outstanding(record, "left_out", columns, runs)):
            if (watched := runs[way]()) is None:
                record.append("left_out", {column: [x] for column, x in zip(columns, way, strict=True)})
            else:
                record.append("clean", {k: [v] for k, v in asdict(clean(*way, watched)).items()})
    return directory


def main() -> None:
    parser = command("silent_bugs", __doc__)
    parser.add_argument("--seeds", type=int, default=Config.seeds)
    options = parser.parse_args()
    run(Config(options.seeds), options.out)
    next_command("silent_bugs", options.out)


if __name__ == "__main__":
    main()
