"""Runs whose loss spikes: normalised networks under SGD with a learning rate at which they are barely stable.

    python -m experiments.loss_spikes [--out runs/loss_spikes]     (resumes where it was interrupted)
    python -m analysis.loss_spikes runs/loss_spikes

By step: the loss ahead of it, and of each normalised tensor what might warn of a spike: sin^2 of the angle by which the
step turned it, the squares of its momentum (first) and of its gradient (second), both at length one.
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
from experiments.runs import command, next_command, outstanding, run_of


@dataclass(frozen=True)
class Config:
    models: tuple[str, ...] = ("mlp", "gpt")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    lr: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    steps: int = 400
    batch: int = 32


def trained(config: Config, model: str, seed: int) -> Iterator[dict[str, float | str]]:
    """Rows: step, tensor, loss, turn, first, second."""
    torch.manual_seed(seed)
    net, batch = network(model), batches(model, config.batch, torch.Generator().manual_seed(100 + seed))
    names = neuromech.parameter_groups(net, (batch()[0][:4],))["normalised"]
    params = {name: net.get_parameter(name) for name in names}
    optimizer = torch.optim.SGD(
        net.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    for step in range(config.steps):
        x, y = batch()
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x).flatten(0, -2), y.flatten())
        loss.backward()
        before = {name: p.detach().double().flatten() for name, p in params.items()}
        optimizer.step()
        for name, p in params.items():
            old, new, g = before[name], p.detach().double().flatten(), p.grad
            assert g is not None
            length2 = float(old @ old)
            yield {
                "step": step,
                "tensor": name,
                "loss": float(loss.detach()),
                "turn": max(0.0, 1.0 - float(old @ new) ** 2 / (length2 * float(new @ new))),
                "first": float(optimizer.state[p]["momentum_buffer"].square().sum()) * length2,
                "second": float(g.square().sum()) * length2,
            }


def run(config: Config, directory: Path, progress: bool = False) -> Path:
    """Train all that is not recorded yet; returns the run directory. Table spikes."""
    from tqdm import tqdm

    with run_of(directory, config) as record:
        ways = [(model, seed) for seed, model in product(config.seeds, config.models)]
        for way in tqdm(outstanding(record, "spikes", ("model", "seed"), ways), unit="run", disable=not progress):
            rows = list(trained(config, *way))
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            record.append("spikes", {"model": way[0], "seed": way[1], **columns})
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
