"""What the instrument costs: an instrumented training step against a bare one, paired; and the import.

    python -m experiments.benchmarks.overhead

The two training runs take turns, step by step, so that the drift of a shared machine hits both alike; what is printed
are ratios of medians and the spread of the paired ratios. Absolute times are of no use to anyone else.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

import neuromech
from neuromech.demo import digits, vgg


@dataclass(frozen=True)
class Config:
    steps: int = 400
    warmup: int = 40
    batch: int = 128
    imports: int = 7


def training_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A training run as a function that takes its next step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    loss = nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    return step


def paired(a: Callable[[], None], b: Callable[[], None], config: Config) -> list[float]:
    """Ratios time(a) / time(b) of neighbouring calls, the order within a pair alternating."""

    def timed(f: Callable[[], None]) -> float:
        start = time.perf_counter()
        f()
        return time.perf_counter() - start

    for f in (a, b):
        for _ in range(config.warmup):
            f()
    ratios = []
    for k in range(config.steps):
        if k % 2:
            first, second = timed(a), timed(b)
        else:
            second, first = timed(b), timed(a)
        ratios.append(first / second)
    return ratios


def import_ratio(config: Config) -> float:
    """Median over fresh interpreters of importing the instrument against importing torch, in turns."""

    def seconds(module: str) -> float:
        code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    # `import neuromech` alone loads next to nothing; `neuromech.probe` is what instrument() needs, torch included.
    seconds("neuromech.probe"), seconds("torch")  # the first imports read from a cold disk
    return statistics.median(seconds("neuromech.probe") / seconds("torch") for _ in range(config.imports))


def main(config: Config = Config()) -> dict[str, float]:
    images, labels = digits()
    x, y = images[: config.batch], labels[: config.batch]
    bare, model = vgg(), vgg()
    with tempfile.TemporaryDirectory() as directory, neuromech.instrument(model, run=f"{directory}/run"):
        ratios = sorted(paired(training_step(model, x, y), training_step(bare, x, y), config))
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    result = {"step": statistics.median(ratios), "import": import_ratio(config)}
    print(f"instrumented step / bare step: {result['step']:.3f} (quartiles {low:.3f} to {high:.3f}; wanted: <= 1.10)")
    print(f"import neuromech.probe / import torch: {result['import']:.3f} (wanted: <= 1.15)")
    return result


if __name__ == "__main__":
    main()
