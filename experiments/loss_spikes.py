"""Runs whose loss spikes: a small GPT under AdamW with learning rates at which it is barely stable.

    python -m experiments.loss_spikes [--out runs/loss_spikes]     (resumes where it was interrupted)
    python -m analysis.loss_spikes runs/loss_spikes

By step: the loss ahead of it, and of each normalised tensor the angle by which the step turned it, and the first and
the second moment of the gradient as the optimizer holds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch.nn import functional as F

import neuromech
from experiments.norm_forecasts import batches, network
from experiments.runs import command, next_command, run_of


@dataclass(frozen=True)
class Config:
    rates: tuple[float, ...] = (1e-2, 3e-2)
    beta2: tuple[float, ...] = (0.99, 0.999)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 400
    batch: int = 32


def trained(config: Config, lr: float, beta2: float, seed: int) -> Iterator[dict[str, float | str]]:
    """Rows: step, tensor, loss, turn (sin^2 of the angle), first and second (mean squares of the moments)."""
    torch.manual_seed(seed)
    net, batch = network("gpt"), batches("gpt", config.batch, torch.Generator().manual_seed(100 + seed))
    names = neuromech.parameter_groups(net, (batch()[0][:4],))["normalised"]
    params = {name: net.get_parameter(name) for name in names}
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, beta2), weight_decay=0.1)
    for step in range(config.steps):
        x, y = batch()
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x).flatten(0, -2), y.flatten())
        loss.backward()
        before = {name: p.detach().clone().flatten() for name, p in params.items()}
        optimizer.step()
        for name, p in params.items():
            held = optimizer.state[p]
            cosine = float(F.cosine_similarity(before[name].double(), p.detach().flatten().double(), dim=0))
            yield {
                "step": step,
                "tensor": name,
                "loss": float(loss.detach()),
                "turn": max(0.0, 1.0 - cosine**2),
                "first": float(held["exp_avg"].square().mean()),
                "second": float(held["exp_avg_sq"].mean()),
            }


def run(config: Config, directory: Path, progress: bool = False) -> Path:
    """Train all that is not recorded yet; returns the run directory. Table spikes."""
    from tqdm import tqdm

    with run_of(directory, config) as record:
        done = set[tuple[float, float, int]]()
        if "spikes" in record.tables:
            frame = record.frame("spikes", every_session=True)
            done = set(zip(frame["lr"], frame["beta2"], frame["seed"], strict=True))
        ways = [(lr, beta2, s) for s, lr, beta2 in product(config.seeds, config.rates, config.beta2)]
        for way in tqdm([w for w in ways if w not in done], unit="run", disable=not progress):
            rows = list(trained(config, *way))
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            record.append("spikes", dict(zip(("lr", "beta2", "seed"), way, strict=True)) | columns)
            record.flush()
    return directory


def main() -> None:
    parser = command("loss_spikes", __doc__)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(Config(), options.out, progress=True)
    next_command("loss_spikes", options.out)


if __name__ == "__main__":
    main()
