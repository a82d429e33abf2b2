"""A grid of terms in the loss and of ways to send them back: none of these runs has a fault.

    python -m experiments.silent_bugs.penalties [--half SGD|AdamW] [--declared]

11 terms x 7 ways, with `SGD` or `AdamW`, declared by `allow="penalty"` or not; exits with 1 if anything is told.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.silent_bugs.nets import Watched, data, loss_of, perceptron, sgd
from experiments.silent_bugs.practices.losses import absolute_values, matrix, total
from neuromech.errors import NeuromechWarning

STEPS = 20
Model = nn.Sequential
X, Y = data()
KEPT = [p.detach().clone() for p in perceptron(7).parameters()]


def _orthogonality(m: Model) -> Tensor:
    w = matrix(m)
    return 1e-2 * (w @ w.T - torch.eye(len(w))).square().sum()


def _distance(m: Model) -> Tensor:
    return 1e-2 * total((p - q).square() for p, q in zip(m.parameters(), KEPT, strict=True))


TERMS: dict[str, Callable[[Model], Tensor]] = {
    "absolute values": absolute_values,
    "squares": lambda m: 1e-2 * total(p.square() for p in m.parameters()),
    "squares of one": lambda m: 1e-2 * matrix(m).square().sum(),
    "squares of biases": lambda m: 1e-2 * total(p.square() for p in m.parameters() if p.ndim == 1),
    "distance from kept weights": _distance,
    "orthogonality": _orthogonality,
    "rows as groups": lambda m: 1e-2 * matrix(m).norm(dim=1).sum(),
    "Huber": lambda m: 1e-2 * total(F.huber_loss(p, torch.zeros_like(p), reduction="none") for p in m.parameters()),
    "fourth powers": lambda m: 1e-2 * total(p.pow(4) for p in m.parameters()),
    "largest singular value": lambda m: 1e-2 * torch.linalg.matrix_norm(matrix(m), 2),
    "elastic net": lambda m: absolute_values(m) + 1e-2 * matrix(m).square().sum(),
}


def _parts(model: Model, k: int, n: int) -> list[Tensor]:
    return [loss_of(model, n * k + part, X, Y) / n for part in range(n)]


def _backwards(losses: Sequence[Tensor]) -> None:
    for loss in losses:
        loss.backward()


def _micro_batches(model: Model, term: Callable[[Model], Tensor], k: int, where: Sequence[float]) -> None:
    """`where`: the share of the term in the loss of each micro-batch."""
    n = len(where)
    for part, share in enumerate(where):
        (loss_of(model, n * k + part, X, Y) / n + share * term(model)).backward()


def _clipped(model: Model, term: Callable[[Model], Tensor], k: int, clip: Callable[[Any], Any]) -> None:
    (loss_of(model, k, X, Y) + term(model)).backward()
    clip(model.parameters())


WAYS: dict[str, Callable[[Model, Callable[[Model], Tensor], int], None]] = {
    "one loss": lambda m, t, k: (loss_of(m, k, X, Y) + t(m)).backward(),
    "each of two micro-batches": lambda m, t, k: _micro_batches(m, t, k, (0.5, 0.5)),
    "the last of three micro-batches": lambda m, t, k: _micro_batches(m, t, k, (0.0, 0.0, 1.0)),
    "a backward of its own": lambda m, t, k: _backwards([*_parts(m, k, 1), t(m)]),
    "two forwards of one loss": lambda m, t, k: (torch.stack(_parts(m, k, 2)).sum() + t(m)).backward(),
    "clipped by norm": lambda m, t, k: _clipped(m, t, k, lambda ps: nn.utils.clip_grad_norm_(ps, 0.5)),
    "clipped by value": lambda m, t, k: _clipped(m, t, k, lambda ps: nn.utils.clip_grad_value_(ps, 0.05)),
}


def run(term: str, way: str, adam: bool, declared: bool) -> Watched:
    model = perceptron()
    watched = Watched(model, allow="penalty" if declared else ())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3) if adam else sgd(model)
    for k in watched.until(STEPS):
        optimizer.zero_grad()
        WAYS[way](model, TERMS[term], k)
        optimizer.step()
    return watched


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("SGD", "AdamW"), help="default: both")
    parser.add_argument("--declared", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NeuromechWarning)
    halves = [options.half] if options.half else ["SGD", "AdamW"]
    ways = [(term, way, half) for half in halves for term in TERMS for way in WAYS]
    told = 0
    for term, way, half in ways:
        watched = run(term, way, half == "AdamW", options.declared)
        told += bool(watched.faults)
        for iteration, fault in watched.faults:
            print(f"{term}, {way}, {half}: iteration {iteration}: {fault}", flush=True)
    print(f"{told} of {len(ways)} runs with an alarm, terms {'declared' if options.declared else 'not declared'}")
    return told > 0


if __name__ == "__main__":
    sys.exit(main())
