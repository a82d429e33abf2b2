"""Lengths of normalised weights over whole runs, for forecasts made early in them: models x optimizers x schedules.

    python -m experiments.norm_forecasts [--out runs/norm_forecasts]     (resumes where it was interrupted)
    python -m analysis.norm_forecasts runs/norm_forecasts

Which tensors are normalised is proven by `neuromech.parameter_groups`. After every step the squared length of each is
recorded, the angle by which the step has turned it, and the loss ahead of it. Data: the digits that come with scikit-
learn; for the GPT the source text of a module of the standard library.
"""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import Optimizer

import neuromech
from experiments.runs import command, next_command, outstanding, run_of
from neuromech.demo import digits

WAY = ("model", "optimizer", "schedule", "seed")


@dataclass(frozen=True)
class Config:
    models: tuple[str, ...] = ("mlp", "resnet", "vit", "gpt")
    optimizers: tuple[str, ...] = ("sgd", "adamw", "muon")
    schedules: tuple[str, ...] = ("constant", "cosine", "linear", "step")
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 300
    batch: int = 64


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Block(nn.Module):
    """Attention with queries and keys that are normalised, as large models have them, and norms without gains."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x, x.shape[-1:])
        q, k = (F.rms_norm(f(y), x.shape[-1:]) for f in (self.q, self.k))
        weights = q @ k.transpose(-1, -2) / math.sqrt(x.shape[-1])
        if self.causal:
            weights = weights + torch.full((x.shape[-2],) * 2, -torch.inf).triu(1)
        x = x + F.rms_norm(self.o(weights.softmax(-1) @ self.v(y)), x.shape[-1:])
        return x + F.rms_norm(self.down(F.relu(self.up(F.rms_norm(x, x.shape[-1:])))), x.shape[-1:])


class Transformer(nn.Module):
    """Of patches (ViT: rows of an image, the mean is classified) or of letters (GPT)."""

    def __init__(self, embed: nn.Module, length: int, classes: int, causal: bool, width: int = 32) -> None:
        super().__init__()
        self.embed, self.position = embed, nn.Parameter(0.1 * torch.randn(length, width))
        self.blocks = nn.Sequential(Block(width, causal), Block(width, causal))
        self.head, self.causal = nn.Linear(width, classes), causal

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(self.blocks(self.embed(x) + self.position), self.position.shape[-1:])
        out: Tensor = self.head(y if self.causal else y.mean(-2))
        return out


def network(name: str) -> nn.Module:
    if name == "mlp":
        layers: list[nn.Module] = [nn.Flatten()]
        for n in (64, 48, 48):
            layers += [nn.Linear(n, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(48, 10))
    if name == "resnet":
        stem = [nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
        return nn.Sequential(
            *stem, Residual(12), Residual(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)
        )
    if name == "vit":
        rows = nn.Sequential(nn.Flatten(1, 2), nn.Linear(8, 32))
        return Transformer(rows, 8, 10, causal=False)
    return Transformer(nn.Embedding(128, 32), 24, 128, causal=True)


Batches = Callable[[], tuple[Tensor, Tensor]]


def batches(name: str, size: int, draw: torch.Generator) -> Batches:
    if name == "gpt":
        text = torch.tensor([min(ord(c), 127) for c in inspect.getsource(argparse)])

        def letters() -> tuple[Tensor, Tensor]:
            at = torch.randint(0, len(text) - 25, (size // 4,), generator=draw)[:, None] + torch.arange(25)
            return text[at[:, :-1]], text[at[:, 1:]]

        return letters
    images, labels = digits()
    images = images[:, :, ::2, ::2]

    def scans() -> tuple[Tensor, Tensor]:
        some = torch.randint(0, len(images), (size,), generator=draw)
        return images[some], labels[some]

    return scans


def optimizers(name: str, model: nn.Module) -> list[Optimizer]:
    if name == "sgd":
        return [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-3)]
    if name == "adamw":
        return [torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.5)]
    held = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "head" not in n]
    mine = {id(p) for p in held}
    muon = torch.optim.Muon(held, lr=2e-2, weight_decay=0.2)
    return [muon, torch.optim.AdamW([p for p in model.parameters() if id(p) not in mine], lr=3e-3, weight_decay=0.1)]


def factor(schedule: str, step: int, steps: int) -> float:
    """The learning rate of a step, in units of the largest."""
    done = step / steps
    ways = {"cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1.0 - done, "step": 0.1 ** (done >= 0.6)}
    return ways.get(schedule, 1.0)


def lengths(config: Config, model: str, optimizer: str, schedule: str, seed: int) -> Iterator[dict[str, float | str]]:
    """Train; by step and normalised tensor its learning rate, loss and squared length before, and sin^2 of the turn."""
    torch.manual_seed(seed)
    net, batch = network(model), batches(model, config.batch, torch.Generator().manual_seed(100 + seed))
    groups = neuromech.parameter_groups(net, (batch()[0][:4],))
    params = dict(net.named_parameters())
    steppers = optimizers(optimizer, net)
    of = {id(p): (o, group) for o in steppers for group in o.param_groups for p in group["params"]}
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: factor(schedule, step, config.steps)) for o in steppers
    ]
    for step in range(config.steps):
        x, y = batch()
        net.zero_grad()
        loss = F.cross_entropy(net(x).flatten(0, -2), y.flatten())
        loss.backward()
        before = {name: params[name].detach().double().flatten() for name in groups["normalised"]}
        told = {name: of[id(params[name])] for name in before}
        rates = {name: float(group["lr"]) for name, (_, group) in told.items()}
        for o in steppers:
            o.step()
        for name, old in before.items():
            new = params[name].detach().double().flatten()
            inner, length2, after = float(old @ new), float(old @ old), float(new @ new)
            yield {
                "tensor": name,
                "by": type(told[name][0]).__name__,
                "weight_decay": float(told[name][1]["weight_decay"]),
                "step": step,
                "lr": rates[name],
                "loss": float(loss.detach()),
                "length2": length2,
                "turn": max(0.0, 1.0 - inner * inner / (length2 * after)),
            }
        for s in schedulers:
            s.step()


def run(config: Config, directory: Path, progress: bool = False) -> Path:
    """Train all that is not recorded yet; returns the run directory. Table lengths."""
    from tqdm import tqdm

    with run_of(directory, config) as record:
        # Seed by seed, so that an unfinished run is a whole one with fewer seeds.
        ways = [w for s in config.seeds for w in product(config.models, config.optimizers, config.schedules, (s,))]
        for way in tqdm(outstanding(record, "lengths", WAY, ways), unit="run", disable=not progress):
            rows = list(lengths(config, *way))
            which = dict(zip(WAY, way, strict=True))
            record.append("lengths", {**which, **_columns(rows)})
            record.flush()
    return directory


def _columns(rows: Iterable[dict[str, float | str]]) -> dict[str, list[float | str]]:
    rows = list(rows)
    return {key: [row[key] for row in rows] for key in rows[0]}


def main() -> None:
    parser = command("norm_forecasts", __doc__)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(Config(), options.out, progress=True)
    next_command("norm_forecasts", options.out)


if __name__ == "__main__":
    main()
