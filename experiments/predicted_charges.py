"""Do predicted charges lie on observed ones, over a long run, for every variant of SGD and both precisions?

    python -m experiments.predicted_charges [--steps 2000] [--out runs/predicted_charges]
    python -m analysis.predicted_charges runs/predicted_charges

A small VGG with batch norm at its default eps, ReLU pairs and softmax, on real digits, minibatches of 32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import neuromech
from experiments.runs import command, finish, is_done, next_command, record_in
from neuromech.demo import digits, vgg

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "decay": {"weight_decay": 5e-4},
    "momentum": {"momentum": 0.9, "weight_decay": 5e-4},
    "dampening": {"momentum": 0.9, "dampening": 0.5, "weight_decay": 5e-4},
    "nesterov": {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True},
}


@dataclass(frozen=True)
class Config:
    optimizer: dict[str, Any] = field(default_factory=lambda: OPTIMIZERS["momentum"])
    dtype: str = "float64"
    steps: int = 2000
    batch: int = 32
    lr: float = 0.1
    cosine: bool = True
    widths: tuple[int, ...] = (4, 8)
    seed: int = 0


def run(config: Config, directory: Path) -> Path:
    """Train, record; returns the run directory. A run that is done is left as it is, an unfinished one begins anew."""
    if is_done(directory):
        return directory
    torch.manual_seed(config.seed)
    dtype = getattr(torch, config.dtype)
    x, y = digits()
    x = x.to(dtype)
    model = vgg(config.widths, depth=1, hidden=16).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, **config.optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps) if config.cosine else None
    with neuromech.instrument(model, run=record_in(directory, config), every=10):
        for _ in range(config.steps):
            batch = torch.randint(0, len(x), (config.batch,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            if schedule:
                schedule.step()
    return finish(directory)


def main() -> None:
    from tqdm import tqdm

    parser = command("predicted_charges", __doc__)
    parser.add_argument("--steps", type=int, default=Config.steps)
    options = parser.parse_args()
    cases = [(name, dtype) for name in OPTIMIZERS for dtype in ("float64", "float32")]
    for name, dtype in tqdm(cases, unit="run"):
        run(Config(OPTIMIZERS[name], dtype, options.steps), options.out / f"{name}-{dtype}")
    next_command("predicted_charges", options.out)


if __name__ == "__main__":
    main()
