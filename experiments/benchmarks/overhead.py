"""What the instrument costs: an instrumented training step against a bare one, a monitored one against an instrumented
one; its memory; and the import.

    python -m experiments.benchmarks.overhead [--rounds 30] [--warmup 3] [--only ResNet] [--coverage]

The training runs take turns, step by step and in random order, so that the drift of a shared machine hits all alike.
What is printed are medians of paired ratios of CPU time, with their quartiles: absolute times are of no use to anyone
else. All families are measured at every step. The first steps of a run are the dearest, as records are densest there:
`--warmup 64` shows later ones. Memory counts the tensors that the instrument keeps and the largest chunk that it holds
on the way.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import Optimizer

import neuromech
from experiments.benchmarks.models import Transformer, resnet18
from neuromech.compat import storage_id
from neuromech.demo import digits, vgg


@dataclass(frozen=True)
class Config:
    rounds: int = 30
    warmup: int = 3
    imports: int = 7
    coverage: bool = False


@dataclass(frozen=True)
class Case:
    """A model, what it is trained on, the optimizer, and the ratio that is wanted."""

    model: Callable[[], nn.Module]
    batch: Callable[[], tuple[Tensor, Tensor]]
    optimizer: Callable[[nn.Module], Optimizer]
    wanted: float
    repeats: int = 1


def sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def adamw(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))


def tokens() -> tuple[Tensor, Tensor]:
    return torch.randint(0, 256, (8, 128)), torch.randint(0, 256, (8, 128))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def vectors() -> tuple[Tensor, Tensor]:
    return torch.randn(64, 64), torch.randint(0, 10, (64,))


CASES = {
    "VGG of the demo, batch 128, SGD with momentum": Case(
        vgg, lambda: (digits()[0][:128], digits()[1][:128]), sgd, 1.10, 10
    ),
    "ResNet-18, batch 32, SGD with momentum": Case(resnet18, images, sgd, 1.05),
    "ResNet-18, batch 32, AdamW": Case(resnet18, images, adamw, 1.05),
    "transformer, batch 8 x 128, AdamW": Case(Transformer, tokens, adamw, 1.05),
    "transformer, batch 8 x 128, SGD with momentum": Case(Transformer, tokens, sgd, 1.05),
    "perceptron of 26,000 weights, batch 64, SGD with momentum": Case(perceptron, vectors, sgd, math.inf, 20),
}
MONITORED, COVERED = 1.05, 1.01  # wanted, of an instrumented step and of a bare one


def training_step(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A training run as a function that takes its next step."""

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
        optimizer.step()

    return step


def interleaved(steps: dict[str, Callable[[], None]], config: Config, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each of `steps`, round by round, in an order that is drawn anew for each round."""
    for _ in range(config.warmup):
        for step in steps.values():
            step()
    order, draw = list(steps), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(config.rounds):
        draw.shuffle(order)
        for name in order:
            start = time.process_time()
            for _ in range(repeats):
                steps[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def paired(a: Callable[[], None], b: Callable[[], None], config: Config, repeats: int) -> list[float]:
    """Ratios a / b of CPU time, round by round, in order of their size."""
    spent = interleaved({"a": a, "b": b}, config, repeats)
    return quotients(spent["a"], spent["b"])


def quotients(a: list[float], b: list[float]) -> list[float]:
    return sorted(x / y for x, y in zip(a, b, strict=True))


def ratio(a: list[float], b: list[float], wanted: float) -> str:
    """In words: the median of a / b over the rounds, its quartiles, and what is wanted."""
    ratios = quotients(a, b)
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    asked = f"; wanted: <= {wanted:.2f}" if wanted < math.inf else ""
    return f"{statistics.median(ratios):.3f} (quartiles {low:.3f} to {high:.3f}{asked})"


def kept() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    storages = {storage_id(t): t.untyped_storage().nbytes() for t in _tensors()}
    return sum(storages.values())


def _tensors() -> Iterator[Tensor]:
    for x in gc.get_objects():
        if issubclass(type(x), Tensor) and x.layout is torch.strided:
            yield x


def measure(case: Case, config: Config) -> tuple[dict[str, list[float]], float]:
    """CPU seconds of bare, instrumented and monitored steps; the memory kept by the instrument, as a share of that of
    the parameters."""
    x, y = case.batch()
    models = {name: case.model() for name in ("bare", "instrumented", "monitored", "covered")[: 3 + config.coverage]}
    steps = {name: training_step(m, case.optimizer(m), x, y) for name, m in models.items()}
    for step in steps.values():
        step()  # gradients and buffers are there from now on
    with tempfile.TemporaryDirectory() as directory, ExitStack() as probes:
        before = kept()
        probes.enter_context(neuromech.instrument(models["instrumented"], run=Path(directory) / "run"))
        for _ in range(config.warmup):
            steps["instrumented"]()
        parameters = sum(p.numel() * p.element_size() for p in models["bare"].parameters())
        memory = (kept() - before) / parameters
        probes.enter_context(neuromech.instrument(models["monitored"], run=Path(directory) / "monitored")).monitor()
        if config.coverage:
            probes.enter_context(neuromech.instrument(models["covered"], coverage=0.1))
        return interleaved(steps, config, case.repeats), memory


def import_ratio(config: Config) -> float:
    """Median over fresh interpreters of importing the instrument against importing torch, in turns."""

    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # compiled once, as for any user

    def seconds(module: str) -> float:
        code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        return float(run.stdout)

    # `import neuromech` alone loads next to nothing; `neuromech.probe` is what instrument() needs, torch included.
    seconds("neuromech.probe"), seconds("torch")  # the first imports read from a cold disk
    return statistics.median(seconds("neuromech.probe") / seconds("torch") for _ in range(config.imports))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=Config.rounds)
    parser.add_argument("--warmup", type=int, default=Config.warmup, help="steps ahead of those that are timed")
    parser.add_argument("--only", default="", help="only the cases whose name contains this")
    parser.add_argument("--coverage", action="store_true", help="measure a run with coverage=0.1 too")
    options = parser.parse_args()
    config = Config(options.rounds, options.warmup, coverage=options.coverage)
    for name, case in CASES.items():
        if options.only in name:
            spent, memory = measure(case, config)
            bare, instrumented = spent["bare"], spent["instrumented"]
            print(f"{name}:\n  instrumented step / bare step {ratio(instrumented, bare, case.wanted)}")
            print(f"  monitored step / instrumented step {ratio(spent['monitored'], instrumented, MONITORED)}")
            if config.coverage:
                print(f"  step with coverage=0.1 / bare step {ratio(spent['covered'], bare, COVERED)}")
            print(f"  memory {100 * memory:.2f} % of the parameters")
    if not options.only:
        print(f"import neuromech.probe / import torch: {import_ratio(config):.3f} (wanted: <= 1.15)")


if __name__ == "__main__":
    main()
