"""The demo: a small VGG on real handwritten digits, trained as one would train it, instrumented with one line.

SGD with momentum, weight decay and a cosine schedule; the digits are the 1797 scans that come with scikit-learn.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from neuromech.errors import NeuromechError

SIDE = 16  # pixels


def vgg(widths: tuple[int, ...] = (32, 64, 64), depth: int = 2, hidden: int = 64) -> nn.Sequential:
    """A VGG for ten classes: blocks of `depth` convolutions with batch norm and a pooling, then linear layers."""
    layers: list[tuple[str, nn.Module]] = []
    channels, side = 1, SIDE
    for block, width in enumerate(widths, 1):
        for k in range(1, depth + 1):
            layers += [
                (f"conv{block}_{k}", nn.Conv2d(channels, width, 3, padding=1)),
                (f"bn{block}_{k}", nn.BatchNorm2d(width)),
                (f"relu{block}_{k}", nn.ReLU()),
            ]
            channels = width
        layers += [(f"pool{block}", nn.MaxPool2d(2))]
        side //= 2
    head = [
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(channels * side**2, hidden)),
        ("relu_fc", nn.ReLU()),
        ("fc2", nn.Linear(hidden, 10)),
    ]
    return nn.Sequential(OrderedDict([*layers, *head]))


def digits() -> tuple[Tensor, Tensor]:
    """1797 handwritten digits: images [1797, 1, 16, 16] in [0, 1], labels [1797].

    The scans are 8x8 and enlarged twice, so that three poolings have something to pool.

    Raises `NeuromechError` if scikit-learn, an extra of the demo, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise NeuromechError("the demo's data come with scikit-learn: pip install 'neuromech[demo]'") from error
    data = load_digits()
    scans = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return nn.functional.interpolate(scans, size=(SIDE, SIDE), mode="bilinear"), torch.tensor(data.target)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).float().mean()
    model.train()
    return float(right)


def run(directory: str | Path, epochs: int = 40, seed: int = 0, progress: bool = True) -> Path:
    """Train, and write the report; returns its path. The run directory holds the records."""
    from tqdm import tqdm

    import neuromech

    torch.manual_seed(seed)
    x, y = digits()
    train, test = torch.randperm(len(x)).split([1437, len(x) - 1437])
    model = vgg()
    loss = nn.CrossEntropyLoss()
    batches = [len(train) // 128] * epochs
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=sum(batches))

    with (
        neuromech.instrument(model, run=directory, name="digits") as probe,  # the one line
        tqdm(total=sum(batches), desc="training", unit="step", disable=None if progress else True) as bar,
    ):
        probe.monitor()  # and one to name what goes wrong; the rest is any training loop
        for n in batches:
            for batch in train[torch.randperm(len(train))][: n * 128].split(128):
                optimizer.zero_grad()
                value = loss(model(x[batch]), y[batch])
                value.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{value.item():.4f}")
    if progress:
        print("writing the report ...", file=sys.stderr)
    report = probe.report(Path(directory) / "report.html")
    if progress:
        print(f"test accuracy {accuracy(model, x[test], y[test]):.1%}; {probe}")
    return report
