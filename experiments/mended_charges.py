"""Does EoMOptimizer mend the broken conservation laws? Charges of ReLU pairs and softmax, instrumented, at several lr.

    python -m experiments.mended_charges [--out runs/mended_charges]
    python -m analysis.mended_charges runs/mended_charges

Gradient flow conserves the charges (lets them decay with weight decay); steps of size lr break the law by O(lr).
Steps of `EoMOptimizer` of order p break it by O(lr^(p+1)). A network with ReLU on real digits, minibatches of 64, the
same in each run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import neuromech
from experiments.runs import command, finish, is_done, next_command, record_in
from neuromech.demo import digits


@dataclass(frozen=True)
class Config:
    order: int = 1
    lr: float = 0.1
    time: float = 4.0
    momentum: float = 0.0
    weight_decay: float = 1e-3
    batch: int = 64
    hidden: int = 32
    seed: int = 0

    @property
    def steps(self) -> int:
        return round(self.time / self.lr)


ORDERS = (0, 1, 2)
RATES = (0.1, 0.05, 0.025, 0.0125)


def run(config: Config, directory: Path) -> Path:
    """Train, record; returns the run directory. A run that is done is left as it is, an unfinished one begins anew."""
    if is_done(directory):
        return directory
    torch.manual_seed(config.seed)
    images, labels = digits()
    x, y = images.flatten(1).double(), labels
    model = nn.Sequential(nn.Linear(256, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 10)).double()
    base = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    optimizer = neuromech.EoMOptimizer(base, config.order)
    # The minibatch of a time is the same in every run, so that they differ in nothing but the size of their steps.
    batches = [torch.randint(0, len(x), (config.batch,)) for _ in range(round(config.time / max(RATES)))]
    with neuromech.instrument(model, run=record_in(directory, config), members=None):
        for step in range(config.steps):
            batch = batches[step * len(batches) // config.steps]
            optimizer.step(lambda batch=batch: F.cross_entropy(model(x[batch]), y[batch]))  # type: ignore[misc]
    return finish(directory)


def main() -> None:
    from tqdm import tqdm

    parser = command("mended_charges", __doc__)
    options = parser.parse_args()
    for order, lr in tqdm([(order, lr) for order in ORDERS for lr in RATES], unit="run"):
        run(Config(order, lr), options.out / f"order{order}-lr{lr:g}")
    next_command("mended_charges", options.out)


if __name__ == "__main__":
    main()
