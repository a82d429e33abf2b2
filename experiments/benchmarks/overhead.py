"""What the instrument costs: an instrumented training step against a bare one, paired; its memory; and the import.

    python -m experiments.benchmarks.overhead [--pairs 30]

Two training runs take turns, step by step, so that the drift of a shared machine hits both alike; what is printed are
medians of paired ratios and their quartiles. Absolute times are of no use to anyone else. All families are measured at
every step. Memory counts the tensors that the instrument keeps and the largest chunk that it holds on the way.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
    pairs: int = 30
    warmup: int = 3
    imports: int = 7


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


CASES = {
    "VGG of the demo, batch 128, SGD with momentum": Case(
        vgg, lambda: (digits()[0][:128], digits()[1][:128]), sgd, 1.10, 10
    ),
    "ResNet-18, batch 32, SGD with momentum": Case(resnet18, images, sgd, 1.05),
    "ResNet-18, batch 32, AdamW": Case(resnet18, images, adamw, 1.05),
    "transformer, batch 8 x 128, AdamW": Case(Transformer, tokens, adamw, 1.05),
    "transformer, batch 8 x 128, SGD with momentum": Case(Transformer, tokens, sgd, 1.05),
}


def training_step(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A training run as a function that takes its next step."""

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
        optimizer.step()

    return step


def paired(a: Callable[[], None], b: Callable[[], None], config: Config, repeats: int) -> list[float]:
    """Ratios time(a) / time(b) of neighbouring calls, the order within a pair alternating."""

    def timed(f: Callable[[], None]) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            f()
        return time.perf_counter() - start

    for f in (a, b):
        for _ in range(config.warmup):
            f()
    ratios = []
    for k in range(config.pairs):
        if k % 2:
            first, second = timed(a), timed(b)
        else:
            second, first = timed(b), timed(a)
        ratios.append(first / second)
    return sorted(ratios)


def kept() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    storages = {storage_id(t): t.untyped_storage().nbytes() for t in _tensors()}
    return sum(storages.values())


def _tensors() -> Iterator[Tensor]:
    for x in gc.get_objects():
        if issubclass(type(x), Tensor) and x.layout is torch.strided:
            yield x


def measure(case: Case, config: Config) -> tuple[list[float], float]:
    """Paired ratios of instrumented to bare steps, and the memory kept, as a share of that of the parameters."""
    x, y = case.batch()
    bare, model = case.model(), case.model()
    steps = []
    optimizers = [case.optimizer(m) for m in (model, bare)]
    for m, optimizer in zip((model, bare), optimizers, strict=True):
        steps.append(training_step(m, optimizer, x, y))
        steps[-1]()  # gradients and buffers are there from now on
    before = kept()
    with tempfile.TemporaryDirectory() as directory, neuromech.instrument(model, run=Path(directory) / "run"):
        ratios = paired(steps[0], steps[1], config, case.repeats)
        parameters = sum(p.numel() * p.element_size() for p in model.parameters())
        return ratios, (kept() - before) / parameters


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
    parser.add_argument("--pairs", type=int, default=Config.pairs)
    parser.add_argument("--only", default="", help="only the cases whose name contains this")
    options = parser.parse_args()
    config = Config(pairs=options.pairs)
    for name, case in CASES.items():
        if options.only in name:
            ratios, memory = measure(case, config)
            low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
            print(
                f"{name}: instrumented step / bare step {statistics.median(ratios):.3f} (quartiles {low:.3f} to "
                f"{high:.3f}; wanted: <= {case.wanted:.2f}); memory {100 * memory:.2f} % of the parameters"
            )
    if not options.only:
        print(f"import neuromech.probe / import torch: {import_ratio(config):.3f} (wanted: <= 1.15)")


if __name__ == "__main__":
    main()
