"""One table: what neuromech costs and how exact it is, beside whoever does the same.

    python -m experiments.benchmarks [--rounds 15] [--write]

Contenders take turns within one process, on one thread; a ratio is of their CPU times in one round, and what is shown
is the median over the rounds with its quartiles. Below 1, neuromech is ahead. A peer that is not installed is named,
and the rest goes on. `--write` makes docs/benchmarks.md of it. Exits with 1 if a peer is ahead and no sentence says
why.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from experiments.benchmarks.discrete_gradient import rivals
from experiments.benchmarks.divergence_free import reference
from experiments.benchmarks.models import resnet18
from neuromech.eom import Point, as_function
from neuromech.physics import DivergenceFree, mlp

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
Work = Callable[[], object]

# Why a peer may be ahead, by row; shown where one is.
BEHIND = {
    ("training step", "bare"): "Nothing is free: weights, gradients and momentum are read once more. Small models pay "
    "for the launches of kernels, large ones for the bytes.",
    ("training step", "bare, and the reads alone"): "The least that the law needs; the rest is arithmetic in float64 "
    "by family, its terms, and the records.",
    ("training step, ResNet-18", "bare"): "As above; the share falls as batches and layers grow.",
    ("training step", "wandb.watch, every 1,000 steps"): "It looks at one step in a thousand, and checks none. "
    "`instrument(every=1000)` records as seldom.",
    ("detection", "Torch-Pruning"): "DepGraph groups channels by following gradient functions, and claims nothing "
    "numerically. We record every operator, solve for all exponents and verify each claim on the loss.",
    ("Hessian-vector product", "double backward"): "It is the same work: two backward passes, behind a loss as a "
    "function of named parameters.",
    ("discrete gradient, training", "HNN midpoint"): "Two gradients, and no law: its energy drifts.",
    ("discrete gradient, training", "HNN rk4"): "Four gradients of a small network, and no law: its energy drifts.",
    ("discrete gradient, training", "modules by hand"): "Written for one network, with no check of the identity.",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One comparison: our CPU time over the peer's, quartiles and median; or an error over the peer's."""

    what: str
    peer: str
    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Absent:
    what: str
    peer: str
    why: str


def in_turns(contenders: Mapping[str, Work], rounds: int, what: str) -> Iterator[Row]:
    """The first contender is ours; every other one is a peer."""
    for work in contenders.values():
        work()
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for k in range(rounds):
        order = list(contenders) if k % 2 else list(contenders)[::-1]
        for name in order:
            start = time.process_time()
            contenders[name]()
            took[name].append(time.process_time() - start)
    ours, *peers = contenders
    for peer in peers:
        yield row(what, peer, [a / b for a, b in zip(took[ours], took[peer], strict=True)])


def row(what: str, peer: str, ratios: list[float]) -> Row:
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Row(what, peer, low, middle, high)


def perceptron(width: int = 256, depth: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    inner = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), *inner, nn.Linear(width, 10))


After = Callable[[nn.Module, torch.optim.Optimizer, Tensor], object]


def nothing(*_: Any) -> None:
    pass


def training(model: nn.Module, after: After = nothing, x: Tensor | None = None, steps_a_round: int = 20) -> Work:
    """Steps on fixed data; `after` sees each step's loss."""
    x = torch.randn(128, 64) if x is None else x
    y = torch.randint(0, 10, (len(x),))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def steps() -> None:
        for _ in range(steps_a_round):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            after(model, optimizer, loss)

    return steps


def read_once(model: nn.Module, optimizer: torch.optim.Optimizer, _: Tensor) -> None:
    """Weights, gradients and momentum, each once: what no law can do without."""
    for p in model.parameters():
        assert p.grad is not None
        torch.dot(p.detach().flatten(), p.grad.flatten())
        buffer = optimizer.state[p]["momentum_buffer"].flatten()
        torch.dot(buffer, buffer)


def step(rounds: int, folder: Path) -> Iterator[Row | Absent]:
    watched = perceptron()
    neuromech.instrument(watched, run=folder / "run")
    contenders = {
        "ours": training(watched),
        "bare": training(perceptron()),
        "bare, and the reads alone": training(perceptron(), read_once),
    }
    try:
        import wandb
    except ImportError:
        yield Absent("training step", "wandb.watch", "not installed: pip install wandb")
        yield from in_turns(contenders, rounds, "training step")
        return
    run: Any = wandb.init(mode="offline", dir=str(folder), settings=wandb.Settings(silent=True))
    for name, every in (("at every step", 1), ("every 1,000 steps", 1000)):
        run.watch(model := perceptron(), log="all", log_freq=every)
        contenders[f"wandb.watch, {name}"] = training(model, lambda m, o, loss: run.log({"loss": loss.item()}))
    yield from in_turns(contenders, rounds, "training step")
    run.finish()


def residual(rounds: int) -> Iterator[Row | Absent]:
    watched, x = resnet18(), torch.randn(16, 3, 32, 32)
    neuromech.instrument(watched)
    contenders = {"ours": training(watched, nothing, x, 1), "bare": training(resnet18(), nothing, x, 1)}
    yield from in_turns(contenders, rounds, "training step, ResNet-18")


def detection(rounds: int) -> Iterator[Row | Absent]:
    model, x = resnet18(), torch.randn(2, 3, 32, 32)
    try:
        import torch_pruning
    except ImportError:
        yield Absent("detection", "Torch-Pruning", "not installed: pip install --no-deps torch-pruning")
        return
    except Exception as error:
        yield Absent("detection", "Torch-Pruning", f"does not import here ({type(error).__name__})")
        return
    contenders: dict[str, Work] = {
        "ours": lambda: neuromech.find_symmetries(model, x),
        "Torch-Pruning": lambda: torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x),
    }
    yield from in_turns(contenders, min(rounds, 3), "detection")


def products(rounds: int) -> Iterator[Row | Absent]:
    model, criterion = perceptron(512), nn.CrossEntropyLoss()
    x, y = torch.randn(128, 64), torch.randint(0, 10, (128,))
    loss, params = as_function(model, criterion, x, y)
    live = list(model.parameters())
    v = {name: torch.randn_like(p) for name, p in params.items()}

    def double_backward() -> None:
        gradient = torch.autograd.grad(criterion(model(x), y), live, create_graph=True)
        product = sum((g * t).sum() for g, t in zip(gradient, v.values(), strict=True))
        assert isinstance(product, Tensor)
        torch.autograd.grad(product, live)

    contenders: dict[str, Work] = {
        "ours": lambda: Point(loss, params, once=True).hvp(v),
        "double backward": double_backward,
    }
    try:
        from curvlinops import HessianLinearOperator
    except Exception as error:
        yield Absent("Hessian-vector product", "curvlinops", f"does not import here ({type(error).__name__}: {error})")
    else:
        hessian = HessianLinearOperator(model, criterion, live, [(x, y)], check_deterministic=False)
        flat = torch.cat([t.reshape(-1) for t in v.values()])
        contenders["curvlinops"] = lambda: hessian @ flat
    yield from in_turns(contenders, rounds, "Hessian-vector product")


def energies(rounds: int) -> Iterator[Row | Absent]:
    made = rivals(2, 500, torch.float32)
    ours = "discrete gradient"
    yield from in_turns({ours: made.pop(ours), **made}, rounds, "discrete gradient, training")


def fields(rounds: int) -> Iterator[Row | Absent]:
    for n in (3, 6):
        potential, x = mlp(n, n * (n - 1) // 2, 64, 2), torch.randn(128, n)
        field = DivergenceFree(potential, n)
        contenders: dict[str, Work] = {
            "ours": torch.no_grad()(lambda f=field, y=x: f(y)),
            "the paper's scheme": torch.no_grad()(lambda p=potential, y=x, m=n: reference(p, y, m, "matrix")),
        }
        yield from in_turns(contenders, rounds, f"divergence-free field, n = {n}")


def accuracy() -> Iterator[Row | Absent]:
    """How far the exact law is off after 100 steps, over the paper's oscillator and over gradient flow, by family."""
    torch.manual_seed(0)
    model = perceptron(32).double()
    probe = neuromech.instrument(model)
    x, y = torch.randn(128, 64, dtype=torch.float64), torch.randint(0, 10, (128,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    last = probe.latest()
    for column, peer in (("continuous", "the oscillator of Neural Mechanics"), ("flow", "gradient flow")):
        known = last[last["exact"].notna() & last[column].notna()]
        off = (known["exact"] - known["observed"]).abs() / (known[column] - known["observed"]).abs()
        yield row("error of a predicted charge after 100 steps", peer, off.tolist())


def scaling(rounds: int) -> Iterator[tuple[str, int, Row]]:
    """Instrumented over bare steps, as the model grows in width and in depth."""
    for axis, sizes in (("width", (64, 128, 256, 512)), ("depth", (2, 4, 8, 16))):
        for size in sizes:
            make = partial(perceptron, size) if axis == "width" else partial(perceptron, 64, size)
            watched = make()
            neuromech.instrument(watched)
            found = in_turns({"ours": training(watched), "bare": training(make())}, rounds, axis)
            yield axis, size, next(found)


def table(rows: list[Row | Absent], curves: list[tuple[str, int, Row]]) -> str:
    lines = ["| what | beside | ours / peer | quartiles |", "| --- | --- | --- | --- |"]
    for r in rows:
        if isinstance(r, Absent):
            lines.append(f"| {r.what} | {r.peer} | - | {r.why} |")
        else:
            lines.append(f"| {r.what} | {r.peer} | {r.median:.3g} | {r.low:.3g} to {r.high:.3g} |")
    behind = [r for r in rows if isinstance(r, Row) and r.median > 1]
    lines += ["", "Where a peer is ahead:", ""] if behind else []
    lines += [f"- {r.what}, {r.peer}: {BEHIND.get((r.what, r.peer), 'no reason is known.')}" for r in behind]
    lines += ["", "An instrumented step over a bare one, as a perceptron grows (batch 128, SGD with momentum):", ""]
    lines += ["| axis | size | ratio | quartiles |", "| --- | --- | --- | --- |"]
    lines += [f"| {axis} | {n} | {r.median:.2f} | {r.low:.2f} to {r.high:.2f} |" for axis, n, r in curves]
    return "\n".join(lines)


HEAD = """# Benchmarks

Written by `python -m experiments.benchmarks --write`. Contenders take turns within one process, on one thread; a number
is the median over rounds of our CPU time over the peer's (of the last two rows, of errors over families), so below 1
neuromech is ahead. The training step is of a perceptron of width 256 and depth 3, detection is of a ResNet-18 for small
images. Models of other sizes have other ratios: measure yours. W&B writes from a process of its own, whose time is not
counted.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row | Absent] = []
    with tempfile.TemporaryDirectory() as folder:
        parts = (
            step(options.rounds, Path(folder)), residual(options.rounds), detection(options.rounds),
            products(options.rounds), energies(options.rounds), fields(options.rounds), accuracy(),
        )  # fmt: skip
        for part in parts:
            for r in part:
                print(r, flush=True)
                rows.append(r)
    curves = []
    for axis, n, r in scaling(options.rounds):
        print(axis, n, r, flush=True)
        curves.append((axis, n, r))
    shown = table(rows, curves)
    print(shown)
    if options.write:
        PAGE.write_text(HEAD + shown + "\n")
    unexplained = [r for r in rows if isinstance(r, Row) and r.median > 1 and (r.what, r.peer) not in BEHIND]
    for r in unexplained:
        print(f"{r.peer} is ahead in {r.what!r}, and no sentence says why", file=sys.stderr)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
