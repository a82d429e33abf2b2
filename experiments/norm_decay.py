"""How fast do layers decay that do not see their scale (batch norm) or a shift (softmax)? On real digits, under SGD.

    python -m experiments.norm_decay [--out runs/norm_decay]     (resumes where it was interrupted)
    python -m analysis.norm_decay runs/norm_decay

Gradient flow shrinks |w|^2 in front of batch norm at the rate 2 decay, and the sum of the weights into softmax at the
rate decay, per unit of time (the sum of lr). The steps of gradient descent shrink them faster, at 1 + lr decay / 2 +
(lr decay)^2 / 3 + ... times that rate, and drive the norm by lr |g|^2: the equation of motion (Miyagawa 2022). All are
measured, for several lr and decays.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from experiments.runs import command, next_command, outstanding, run_of
from neuromech.demo import digits


@dataclass(frozen=True)
class Config:
    rates: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    decays: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    time: float = 3.0  # in units of 1 / decay
    scale: float = 3.0  # of the first weights, far above what decay and drive settle at; the network does not see it
    batch: int = 64
    width: int = 8
    eps: float = 1e-20  # with torch's 1e-5 batch norm sees the scale a little, which moves the rates by up to 4e-4
    seed: int = 0


def network(config: Config) -> nn.Sequential:
    """A convolution that batch norm makes scale invariant, and a layer whose sum over the classes softmax ignores."""
    torch.manual_seed(config.seed)
    model = nn.Sequential(
        nn.Conv2d(1, config.width, 3, stride=2, bias=False),
        nn.BatchNorm2d(config.width, config.eps),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(config.width * 49, 10),
    ).double()
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(config.scale)
    return model


def decayed(config: Config, lr: float, decay: float) -> dict[str, list[float]]:
    """Train; by step (the first row is the start) the time, |w|^2, |g|^2 of the step before, and the shift.

    The shift is the sum over the classes of the last weights, one for each input, along its direction at the start.
    """
    model = network(config)
    images, labels = digits()
    images = images.double()
    w, last = model.get_parameter("0.weight"), model.get_parameter("4.weight")
    direction = F.normalize(last.detach().sum(0), dim=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=decay)
    rows: dict[str, list[float]] = {"time": [], "norm": [], "drive": [], "shift": []}
    drive = 0.0
    for step in range(round(config.time / (lr * decay)) + 1):
        for name, value in (
            ("time", step * lr),
            ("norm", w.detach().square().sum()),
            ("drive", drive),
            ("shift", direction @ last.detach().sum(0)),
        ):
            rows[name].append(float(value))
        batch = torch.randint(0, len(images), (config.batch,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        assert w.grad is not None
        drive = float(w.grad.square().sum())
        optimizer.step()
    return rows


def run(config: Config, directory: Path, progress: bool = False) -> Path:
    """Train with every lr and decay that is not recorded yet; returns the run directory. Table decay."""
    from tqdm import tqdm

    with run_of(directory, config) as record:
        pairs = outstanding(record, "decay", ("lr", "weight_decay"), product(config.rates, config.decays))
        for lr, decay in tqdm(pairs, unit="run", disable=not progress):
            record.append("decay", {"lr": lr, "weight_decay": decay, **decayed(config, lr, decay)})
            record.flush()
    return directory


def main() -> None:
    parser = command("norm_decay", __doc__)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(Config(), options.out, progress=True)
    next_command("norm_decay", options.out)


if __name__ == "__main__":
    main()
