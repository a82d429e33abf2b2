"""Charges of rescalings over whole runs, forecast after a fifth of each: models x momentum x schedules x weight decay.

    python -m experiments.charge_forecasts [--out runs/charge_forecasts]     (resumes where it was interrupted)
    python -m analysis.charge_forecasts runs/charge_forecasts

The networks and data of `experiments.norm_forecasts`, and a perceptron without norms, under SGD. In one of two
seeds each tensor begins longer by a factor of its own, so that the two sides of a rescaling are out of balance.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from experiments.norm_forecasts import batches, factor, network
from experiments.runs import command, next_command, outstanding, run_of

WAY = ("model", "momentum", "schedule", "weight_decay", "seed")
COLUMNS = ("name", "made_at", "now", "end", "came", "low", "high", "error", "baseline")
LR = {0.0: 0.3, 0.9: 0.1}  # by momentum
LONGEST = 1.5  # factor at the start


@dataclass(frozen=True)
class Config:
    models: tuple[str, ...] = ("perceptron", "mlp", "resnet", "vit", "gpt")
    momenta: tuple[float, ...] = (0.0, 0.9)
    schedules: tuple[str, ...] = ("constant", "cosine")
    decays: tuple[float, ...] = (0.0, 2e-3)
    seeds: tuple[int, ...] = (4, 5)  # the width of intervals was chosen on those below
    steps: int = 300
    batch: int = 64


def built(name: str) -> nn.Module:
    if name != "perceptron":
        return network(name)
    layers = [nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def forecasts(
    config: Config, model: str, momentum: float, schedule: str, weight_decay: float, seed: int
) -> pd.DataFrame:
    """Train, and what neuromech has forecast of each rescale family and what came."""
    torch.manual_seed(seed)
    net, batch = built(model), batches(model, config.batch, torch.Generator().manual_seed(100 + seed))
    if seed % 2:
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1.0 + (LONGEST - 1.0) * torch.rand(()))
    lr = LR[momentum] * (0.5 if model == "perceptron" else 1.0)
    sgd = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: factor(schedule, step, config.steps))
    probe = neuromech.instrument(net, optimizer=sgd, members=None)
    for _ in range(config.steps):
        x, y = batch()
        sgd.zero_grad()
        F.cross_entropy(net(x).flatten(0, -2), y.flatten()).backward()
        sgd.step()
        scheduler.step()
    made = probe.forecasts
    probe.remove()
    return made.loc[made["kind"] == "rescale", list(COLUMNS)]


def run(config: Config, directory: Path, progress: bool = False) -> Path:
    """Train all that is not recorded yet; returns the run directory. Table forecasts."""
    from tqdm import tqdm

    with run_of(directory, config) as record:
        # Seed by seed, so that an unfinished run is a whole one with fewer seeds.
        settings = (config.models, config.momenta, config.schedules, config.decays)
        ways = [way for seed in config.seeds for way in product(*settings, (seed,))]
        for way in tqdm(outstanding(record, "forecasts", WAY, ways), unit="run", disable=not progress):
            rows = forecasts(config, *way)
            columns = {name: rows[name].tolist() for name in COLUMNS}
            record.append("forecasts", {**dict(zip(WAY, way, strict=True)), **columns})
            record.flush()
    return directory


def main() -> None:
    parser = command("charge_forecasts", __doc__)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(Config(), options.out, progress=True)
    next_command("charge_forecasts", options.out)


if __name__ == "__main__":
    main()
