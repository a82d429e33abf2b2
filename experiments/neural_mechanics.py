"""The figures of Neural Mechanics (Kunin et al., ICLR 2021), with laws of the discrete steps: charges, predicted.

    python -m experiments.neural_mechanics [--steps 60] [--out runs/neural_mechanics]
    python -m experiments.neural_mechanics --data PATH [--full] [--device cuda]      (the user's Tiny ImageNet)
    python -m analysis.neural_mechanics runs/neural_mechanics

Translation, scale and rescale charges of VGG-16 with and without batch norm, under SGD and momentum, for several weight
decays; and of a small ViT (digits) and GPT (text of the standard library), under AdamW and Muon. Small, the layers of
VGG-16 have a sixteenth of their widths and see enlarged digits; `--full` is the paper's size, for a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from experiments.norm_forecasts import batches, network, optimizers
from experiments.runs import command, device, finish, is_done, next_command, record_in
from experiments.tiny_imagenet import TinyImageNet
from neuromech.demo import digits

MOMENTA = (0.0, 0.8, 0.9, 0.99)
DECAYS = (0.0, 1e-4, 5e-4, 1e-3)
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: pooling; configuration D
SIDE = 32


@dataclass(frozen=True)
class Config:
    model: str = "vgg16-bn"  # vgg16-bn, vgg16, vit, gpt
    optimizer: str = "sgd"  # sgd, adamw, muon
    momentum: float = 0.9
    weight_decay: float = 1e-3
    lr: float = 0.1
    steps: int = 60
    batch: int = 32
    divide: int = 16  # the widths of VGG-16 by this
    every: int = 2
    dtype: str = "float64"
    data: str = ""  # a folder of Tiny ImageNet; "": what ships with packages
    device: str = "cpu"
    seed: int = 0


def vgg16(batch_norm: bool, divide: int, channels: int, side: int, classes: int) -> nn.Sequential:
    """VGG-16 (Simonyan & Zisserman 2015, D), widths divided; one hidden linear layer behind it."""
    layers: list[nn.Module] = []
    for width in (w // divide for w in VGG16):
        if not width:
            layers.append(nn.MaxPool2d(2))
            side //= 2
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        layers += [nn.BatchNorm2d(width)] if batch_norm else []
        layers.append(nn.ReLU())
        channels = width
    hidden = 512 // divide
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * side * side, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


Batch = Callable[[], tuple[Tensor, Tensor]]


def training_of(config: Config) -> tuple[nn.Module, Batch]:
    """The model, and where its batches come from."""
    draw = torch.Generator().manual_seed(100 + config.seed)
    if not config.model.startswith("vgg16"):
        return network(config.model), batches(config.model, config.batch, draw)
    norm = config.model == "vgg16-bn"
    if config.data:
        images = TinyImageNet(Path(config.data))
        model = vgg16(norm, config.divide, 3, 64, len(images.classes))
        return model, lambda: images.batch(torch.randint(0, len(images), (config.batch,), generator=draw))
    x, y = digits()
    x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear")

    def scans() -> tuple[Tensor, Tensor]:
        rows = torch.randint(0, len(x), (config.batch,), generator=draw)
        return x[rows], y[rows]

    return vgg16(norm, config.divide, 1, SIDE, 10), scans


def optimizers_of(config: Config, model: nn.Module) -> list[torch.optim.Optimizer]:
    if config.optimizer != "sgd":
        made = optimizers(config.optimizer, model)
        for group in (g for o in made for g in o.param_groups):
            group["weight_decay"] = config.weight_decay
        return made
    # Momentum lengthens steps by 1 / (1 - momentum): at this rate all train alike.
    lr = config.lr * (1.0 - config.momentum)
    return [torch.optim.SGD(model.parameters(), lr=lr, momentum=config.momentum, weight_decay=config.weight_decay)]


def run(config: Config, directory: Path) -> Path:
    """Train, record; returns the run directory. A run that is done is left as it is, an unfinished one begins anew."""
    if is_done(directory):
        return directory
    torch.manual_seed(config.seed)
    model, batch = training_of(config)
    dtype = getattr(torch, config.dtype)
    model = model.to(config.device, dtype)
    made = optimizers_of(config, model)
    with neuromech.instrument(model, run=record_in(directory, config), every=config.every):
        for _ in range(config.steps):
            x, y = batch()
            x = x.to(config.device, dtype) if x.is_floating_point() else x.to(config.device)
            model.zero_grad()
            F.cross_entropy(model(x).flatten(0, -2), y.to(config.device).flatten()).backward()
            for optimizer in made:
                optimizer.step()
    return finish(directory)


def cases(base: Config) -> dict[str, Config]:
    vggs = {
        f"{model}-{f'momentum-{momentum:g}' if momentum else 'sgd'}-{decay:g}": replace(
            base, model=model, momentum=momentum, weight_decay=decay
        )
        for model in ("vgg16-bn", "vgg16")
        for momentum in MOMENTA
        for decay in DECAYS
    }
    others = {
        f"{model}-{name}-{decay:g}": replace(base, model=model, optimizer=name, weight_decay=decay, data="")
        for model in ("vit", "gpt")
        for name in ("adamw", "muon")
        for decay in DECAYS
    }
    return vggs | others


def full(base: Config) -> Config:
    """The paper's size: whole widths, 100 epochs of batches of 128, single precision."""
    return replace(base, divide=1, batch=128, steps=100 * (100_000 // 128), every=100, dtype="float32")


def main() -> None:
    from tqdm import tqdm

    parser = command("neural_mechanics", __doc__)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--data", type=Path, default=None, help="the folder tiny-imagenet-200, for VGG-16")
    parser.add_argument("--full", action="store_true", help="the paper's size: days, or a GPU; needs --data")
    parser.add_argument("--device", default="cpu", type=device)
    parser.add_argument("--only", default="", help="only the runs whose name contains this")
    options = parser.parse_args()
    base = _configured(options)
    if base.data:
        TinyImageNet(Path(base.data))  # said now, not after the first runs
    chosen = {name: config for name, config in cases(base).items() if options.only in name}
    for name, config in tqdm(chosen.items(), unit="run"):
        run(config, options.out / name)
    next_command("neural_mechanics", options.out)


def _configured(options: argparse.Namespace) -> Config:
    if options.full and options.data is None:
        raise SystemExit("--full is VGG-16 on Tiny ImageNet: say where it lies, --data PATH/tiny-imagenet-200")
    base = Config(data=str(options.data or ""), device=options.device)
    base = full(base) if options.full else base
    return base if options.steps is None else replace(base, steps=options.steps)


if __name__ == "__main__":
    main()
