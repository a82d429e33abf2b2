"""The figures of Neural Mechanics (Kunin et al., ICLR 2021), with laws that are exact: charges of a VGG, predicted.

    python -m experiments.paper_figures [--steps 400] [--out runs/paper_figures]
    python -m analysis.paper_figures runs/paper_figures

Translation, scale and rescale charges of a small VGG with and without batch norm, under SGD and momentum, for several
weight decays, on real digits, minibatches of 64.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from experiments.runs import command, next_command
from neuromech.demo import digits, vgg

MOMENTA = {"SGD": 0.0, "momentum": 0.9}
WEIGHT_DECAYS = (0.0, 1e-3, 5e-3)
CONFIG = "config.json"


@dataclass(frozen=True)
class Config:
    batch_norm: bool = True
    momentum: float = 0.9
    weight_decay: float = 1e-3
    lr: float = 0.1
    steps: int = 400
    batch: int = 64
    widths: tuple[int, ...] = (8, 16)
    seed: int = 0


def model_of(config: Config) -> nn.Module:
    model = vgg(config.widths, depth=1, hidden=32)
    layers = [m for m in model if config.batch_norm or not isinstance(m, nn.BatchNorm2d)]
    return nn.Sequential(*layers).double()


def run(config: Config, directory: Path) -> Path:
    """Train in float64, record; returns the run directory."""
    torch.manual_seed(config.seed)
    x, y = digits()
    x, model = x.double(), model_of(config)
    # Momentum lengthens steps by 1 / (1 - momentum): at this rate both train alike.
    lr = config.lr * (1.0 - config.momentum)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=config.momentum, weight_decay=config.weight_decay)
    with neuromech.instrument(model, run=directory, every=4):
        for _ in range(config.steps):
            batch = torch.randint(0, len(x), (config.batch,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    (directory / CONFIG).write_text(json.dumps(asdict(config)))
    return directory


def cases(steps: int) -> dict[str, Config]:
    return {
        f"{'batch-norm' if norm else 'plain'}-{name}-{decay:g}": Config(norm, momentum, decay, steps=steps)
        for norm in (True, False)
        for name, momentum in MOMENTA.items()
        for decay in WEIGHT_DECAYS
    }


def main() -> None:
    from tqdm import tqdm

    parser = command("paper_figures", __doc__)
    parser.add_argument("--steps", type=int, default=Config.steps)
    options = parser.parse_args()
    for name, config in tqdm(cases(options.steps).items(), unit="run"):
        run(config, options.out / name)
    next_command("paper_figures", options.out)


if __name__ == "__main__":
    main()
