"""How much does balancing a trained network help when its weights are rounded to few bits, one scale per tensor?

    python -m experiments.quantisation [--epochs 30] [--out runs/quantisation]
    python -m analysis.quantisation runs/quantisation

Three networks are trained on real digits: an MLP, a plain VGG, and a VGG with batch norm. Each is rounded as trained,
and as a copy that computes the same function with badly scaled channels (factors e^(N(0, 1)) along its own symmetries,
as long training without decay, pruning or a foreign initialisation may leave them); before and after
`neuromech.balance` with either criterion.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from experiments.runs import command, next_command
from neuromech.demo import digits, vgg


def mlp() -> nn.Module:
    sizes = (256, 64, 48, 32)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 10))


def plain_vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "vgg": plain_vgg,
    "vgg with batch norm": lambda: vgg((8, 16), depth=1, hidden=32),
}
BITS = (8, 6, 4)


@dataclass(frozen=True)
class Config:
    network: str = "mlp"
    epochs: int = 30
    batch: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    spread: float = 1.0
    held_out: int = 400
    seed: int = 0


def run(config: Config, directory: Path) -> Path:
    """Train, then round every version to every number of bits: one row each in `directory`/errors.csv."""
    torch.manual_seed(config.seed)
    x, y = digits()
    train, test = (x[config.held_out :], y[config.held_out :]), (x[: config.held_out], y[: config.held_out])
    model = NETWORKS[config.network]()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    for _ in range(config.epochs):
        for batch in torch.randperm(len(train[0])).split(config.batch):
            optimizer.zero_grad()
            F.cross_entropy(model(train[0][batch]), train[1][batch]).backward()
            optimizer.step()
    model.double().eval()
    inputs, labels = test[0].double(), test[1]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "errors.csv").open("w", newline="") as file:
        rows = [row | {"network": config.network, "seed": config.seed} for row in _rows(model, inputs, labels, config)]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return directory


def _rows(model: nn.Module, x: Tensor, y: Tensor, config: Config) -> Iterator[dict[str, Any]]:
    found = neuromech.find_symmetries(model, x[:32])
    reference = _outputs(model, x)
    for scaling in ("as trained", "badly scaled"):
        start = copy.deepcopy(model)
        if scaling == "badly scaled":
            for s in found.symmetries.of(kind="rescale"):
                neuromech.transform(start, s, config.spread * torch.randn(s.size))
        for balanced in ("no", "norm", "range"):
            version = copy.deepcopy(start)
            if balanced != "no":
                neuromech.balance(version, found, criterion="norm" if balanced == "norm" else "range")
            changed = _distance(_outputs(version, x), reference)
            for bits in BITS:
                rounded = _outputs(quantised(version, bits), x)
                yield {
                    "scaling": scaling,
                    "balanced": balanced,
                    "bits": bits,
                    "changed": changed,
                    "error": _distance(rounded, reference),
                    "accuracy": float((rounded.argmax(1) == y).double().mean()),
                    "accuracy before": float((reference.argmax(1) == y).double().mean()),
                }


def quantised(model: nn.Module, bits: int) -> nn.Module:
    """A copy whose weights (not biases) are rounded to `bits`, symmetrically, with one scale per tensor."""
    out, top = copy.deepcopy(model), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for p in out.parameters():
            if p.ndim > 1:
                step = p.abs().max() / top
                p.copy_((p / step).round() * step)
    return out


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = model(x)
    return y


def _distance(y: Tensor, reference: Tensor) -> float:
    return float((y - reference).norm() / reference.norm())


def main() -> None:
    from tqdm import tqdm

    parser = command("quantisation", __doc__)
    parser.add_argument("--epochs", type=int, default=Config.epochs)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    cases = [(network, seed) for network in NETWORKS for seed in range(options.seeds)]
    for network, seed in tqdm(cases, unit="run"):
        config = Config(network, epochs=options.epochs, seed=seed)
        run(config, options.out / f"{network.replace(' ', '-')}-{seed}")
    next_command("quantisation", options.out)


if __name__ == "__main__":
    main()
