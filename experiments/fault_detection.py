"""Does the monitor catch what goes wrong in training, name the cause, and stay silent where nothing is wrong?

    python -m experiments.fault_detection [--seeds 10] [--clean 200] [--out runs/fault_detection]
    python -m analysis.fault_detection runs/fault_detection

Every fault of `experiments.faults` is injected into runs of random models, optimizers and precisions, at a random step;
clean runs are those of `experiments.faults.clean`. One row a run: what was told, when, and where the true cause stood.
Runs that are there are not made again, so that a run that was broken off goes on.
"""

from __future__ import annotations

import random
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from experiments.faults import INJECTIONS, Injection
from experiments.faults.clean import clean
from experiments.runs import command, next_command, outstanding, run_of
from neuromech.errors import NeuromechWarning


@dataclass(frozen=True)
class Config:
    seeds: int = 10  # of each fault
    clean: int = 200  # runs without a fault
    steps: int = 100  # within which a fault is to be caught; of a clean run
    earliest: int = 5
    latest: int = 40  # step at which a fault sets in


@dataclass(frozen=True)
class Trial:
    """What became of one fault. `alarms`: what was told before it set in; `delay`: steps until it was told, -1: never;
    `rank`: where the true cause stood among those that were named, 0: nowhere."""

    fault: str
    seed: int
    cause: str
    at: int
    alarms: int
    delay: int
    rank: int
    told: str


def trial(injection: Injection, seed: int, config: Config) -> Trial:
    """Inject a fault, and train until the monitor says so or `config.steps` have passed."""
    r = random.Random(f"{injection.name} {seed}")
    at = 1 if injection.from_the_start else r.randrange(config.earliest, config.latest)
    run = injection.make(r, seed, at)
    while run.step < at - 1:
        run.iterate()
    alarms = len(run.faults)
    while run.step < at + config.steps - 1 and len(run.faults) == alarms:
        run.iterate()
    if run.probe is not None:
        run.probe.remove()
    if len(run.faults) == alarms:
        return Trial(injection.name, seed, injection.cause, at, alarms, -1, 0, "")
    fault = run.faults[alarms]
    rank = fault.causes.index(injection.cause) + 1 if injection.cause in fault.causes else 0
    return Trial(injection.name, seed, injection.cause, at, alarms, fault.step - at, rank, ", ".join(fault.causes))


@dataclass(frozen=True)
class Silence:
    """What became of one clean run; `steps`: how many the monitor saw."""

    run: str
    seed: int
    steps: int
    alarms: int
    told: str


def silence(seed: int, config: Config) -> Silence:
    """Train without a fault."""
    run, what = clean(seed)
    run.watch().run(config.steps)
    assert run.monitor is not None
    assert run.probe is not None
    run.probe.remove()
    return Silence(what, seed, run.monitor.step, len(run.faults), "; ".join(map(str, run.faults)))


def run(config: Config, directory: Path, progress: bool = False) -> Path:
    """Inject every fault, train the clean runs; returns the run directory."""
    from tqdm import tqdm

    torch.set_num_threads(1)
    with run_of(directory, config) as record, warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuromechWarning)
        cases = [(name, seed) for seed in range(config.seeds) for name in INJECTIONS]
        for name, seed in tqdm(
            outstanding(record, "trials", ("fault", "seed"), cases), unit="fault", disable=not progress
        ):
            record.append("trials", {k: [v] for k, v in asdict(trial(INJECTIONS[name], seed, config)).items()})
        seeds = outstanding(record, "clean", ("seed",), [(seed,) for seed in range(config.clean)])
        for (seed,) in tqdm(seeds, unit="clean run", disable=not progress):
            record.append("clean", {k: [v] for k, v in asdict(silence(seed, config)).items()})
    return directory


def main() -> None:
    parser = command("fault_detection", __doc__)
    parser.add_argument("--seeds", type=int, default=Config.seeds)
    parser.add_argument("--clean", type=int, default=Config.clean)
    options = parser.parse_args()
    run(Config(options.seeds, options.clean), options.out, progress=True)
    next_command("fault_detection", options.out)


if __name__ == "__main__":
    main()
