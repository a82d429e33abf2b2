"""Full-batch training past the edge of stability, and the flows that should follow it: networks x rules, on digits.

    python -m experiments.edge_of_stability [--out runs/edge_of_stability]     (resumes where it was interrupted)
    python -m analysis.edge_of_stability runs/edge_of_stability

Each network is trained at a small lr until motion is smooth, then lr is set so that its sharpness is at 90 % of the
edge, and optimizer, edge flow, central flow and gradient flow go on from there: loss, sharpness, swing, and the charges
of the symmetries that neuromech finds in the network; the charges also as the covariance term predicts them. Beside it
50 runs that may or may not cross the edge, with a forecast on the way. All smooth, float64, no decay.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import neuromech
from experiments.runs import command, finish, is_done, next_command, run_of
from neuromech.demo import digits
from neuromech.eom import (
    EdgeForecast,
    ErrorMeter,
    Rule,
    as_function,
    central_flow,
    charge_rate,
    descend,
    edge_flow,
    gradient_flow,
    sharpness,
)
from neuromech.eom.landscape import LossFunction
from neuromech.params import Params, combine, norm
from neuromech.record import Record

CHARGED = ("scale", "rescale", "matrix")  # kinds whose charges are quadratic: steps keep linear ones


@dataclass(frozen=True)
class Config:
    network: str = "mlp"
    momentum: float = 0.0
    steps: int = 1000
    every: int = 10  # steps between two measurements of loss and sharpness
    settle: int = 40  # steps at the small lr
    begin: float = 0.9  # of the edge
    samples: int = 256
    scale: float = 3.0  # of the targets: the harder they are to reach, the longer sharpness grows
    seed: int = 0


RUNS = (
    Config(),
    Config("mlp", momentum=0.5, steps=400),
    Config("resnet", steps=300, samples=64, settle=60, scale=10.0),
    Config("vit", steps=300, samples=64, settle=600, scale=2.0),
)


@dataclass(frozen=True)
class Forecasts:
    runs: int = 50
    steps: int = 160
    every: int = 6
    told: int = 30  # the step at which the forecast is made
    ahead: int = 130


class Block(nn.Module):
    """A pre-norm transformer block with smooth activations."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.first(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.second(x))))
        return out


class ViT(nn.Module):
    """Sixteen patches of an 8x8 image, one block, the mean over patches."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        self.block, self.head = Block(width, 2), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.patches(x).flatten(2).transpose(1, 2) + self.places).mean(1))
        return out


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.last = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.last(self.two(torch.tanh(self.norm(self.one(x)))))
        return out


def network(name: str) -> nn.Module:
    """A mini with symmetries: linear layers in a row, normalised convolutions, queries and keys."""
    if name == "mlp":
        layers = (nn.Linear(64, 6, bias=False), nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 10))
        return nn.Sequential(nn.Flatten(), *layers)
    if name == "resnet":
        width = 4
        stem = nn.Conv2d(1, width, 3, stride=2, bias=False)
        return nn.Sequential(stem, nn.BatchNorm2d(width), Residual(width), nn.Tanh(), nn.Flatten(), nn.Linear(36, 10))
    return ViT()


def batch(samples: int) -> tuple[Tensor, Tensor]:
    """Digits of 8x8, and their classes as vectors of 10 numbers."""
    images, labels = digits()
    return F.avg_pool2d(images[:samples], 2).double(), F.one_hot(labels[:samples], 10).double()


def charges(model: nn.Module, x: Tensor) -> Callable[[Params], Tensor]:
    """All quadratic charges of the symmetries of a model, in one vector."""
    found = neuromech.find_symmetries(model, x, verify=False).symmetries
    kept = [s for s in found if s.kind in CHARGED]

    def of(params: Params) -> Tensor:
        return torch.cat([torch.as_tensor(s.charge(params)).reshape(-1).double() for s in kept])

    return of


def settled(loss: LossFunction, params: Params, steps: int) -> Params:
    """After steps at a fifth of the lr that would be at the edge: where stiff directions have come to rest."""
    for _ in range(3):
        lr = 0.4 / max(sharpness(loss, params).value, 1e-3)
        params = descend(Rule(), loss, params, lr, steps // 3)[-1]
    return params


def binomial(values: Iterable[tuple[float, Params]], sign: float) -> Params:
    return combine([(c * sign**j, x) for j, (c, x) in enumerate(values)])


def both_sides(values: Sequence[Any], k: int) -> Any:
    """The mean of a quantity over both sides of the swing at step k: one is read there, the other is interpolated.

    To the sixth order, from five steps on either side: a mean over neighbours is 12 % too large where a burst falls by
    half within three steps. Numbers or tensors.
    """
    other = sum(c / 256 * (values[k - j] + values[k + j]) for j, c in ((1, 150), (3, -25), (5, 3)))
    return 0.5 * (values[k] + other)


def follow(config: Config, record: Record) -> None:
    """Tables path (by series and step) and charges."""
    torch.manual_seed(config.seed)
    model, rule = network(config.network).double(), Rule(momentum=config.momentum)
    x, y = batch(config.samples)
    loss, params = as_function(model, F.mse_loss, x, config.scale * y)
    charge = charges(model, x)
    params = settled(loss, params, config.settle)
    top = sharpness(loss, params)
    lr = config.begin * rule.edge / top.value
    path = [params, *descend(rule, loss, params, lr, config.steps + 5)]
    losses = [float(loss(p)) for p in path]
    weights = [math.comb(4, j) / 16 for j in range(5)]
    shown = range(config.every, config.steps + 1, config.every)
    guess = {"start": top.vector}

    def sharp(at: Params) -> float:
        found = sharpness(loss, at, tolerance=1e-3, start=guess["start"])
        guess["start"] = found.vector
        return found.value * lr / rule.edge

    def write(series: str, rows: list[tuple[int, float, float, float]]) -> None:
        steps, values, sharps, swings = (list(column) for column in zip(*rows, strict=True))
        columns = {"step": steps, "loss": values, "sharpness": sharps, "swing": swings}
        record.append("path", {"series": series, "lr": lr, **columns})
        record.flush()

    rows = []
    for k in shown:
        near = list(zip(weights, path[k - 2 : k + 3], strict=True))
        rows.append((k, both_sides(losses, k), sharp(binomial(near, 1.0)), float(norm(binomial(near, -1.0)))))
    write("steps", rows)
    between = range(0, config.steps + 1, 2)
    kept: dict[str, list[Any]] = {"step": list(shown)}
    charged = [charge(p) for p in path]
    true = {k: both_sides(charged, k) for k in shown}
    start = charge(params)
    scale = float(torch.stack([true[k] for k in shown]).norm(dim=1).max())

    def off(value: Tensor, k: int) -> float:
        return float((value - true[k]).norm()) / scale

    kept["changed"] = [off(start, k) for k in shown]
    for series in ("edge flow", "central flow"):
        flow = (edge_flow if series == "edge flow" else central_flow)(rule, loss, params, lr)
        points: list[Any] = list(flow.points([lr * k for k in between]))
        rates = [charge_rate(charge, point, rule, lr) for point in points]
        told, sum_of = {0: start}, start
        for k, (a, b) in zip(between[1:], pairwise(rates), strict=True):
            sum_of = sum_of + lr * (a + b)  # trapezoids, two steps wide
            told[k] = sum_of
        at = dict(zip(between, points, strict=True))
        spread = {k: math.sqrt(sum(float(norm(s)) ** 2 for s in at[k].spread)) for k in shown}
        write(series, [(k, float(at[k].mean_of(loss)), sharp(at[k].centre), spread[k]) for k in shown])
        name = series.replace(" ", "_")
        kept[name] = [off(at[k].mean_of(charge), k) for k in shown]
        kept["covariance_of_" + name] = [off(told[k], k) for k in shown]
    smooth = gradient_flow(loss, params).along([lr * rule.speed * k for k in shown], 1e-6, 1e-8, "dopri5")
    write("gradient flow", [(k, float(loss(p)), sharp(p), 0.0) for k, p in zip(shown, smooth, strict=True)])
    kept["gradient_flow"] = [off(charge(p), k) for k, p in zip(shown, smooth, strict=True)]
    record.append("charges", kept)


def foretold(config: Forecasts, record: Record) -> None:
    """Table forecasts: by run the forecast at the step `told`, and whether the edge was crossed within `ahead`."""
    from tqdm import tqdm

    x, y = batch(32)
    for k in tqdm(range(config.runs), unit="run", leave=False):
        torch.manual_seed(1000 + k)
        width, spread = 6 + 2 * (k % 5), 2.0 ** (-3.5 + 2.0 * float(torch.rand(())))
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)).double()
        loss = as_function(model, F.mse_loss, x, 10.0 * y)
        lr = spread * 2.0 / sharpness(*loss).value
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        meter, forecast = ErrorMeter(model, optimizer), EdgeForecast()

        def closure(model: nn.Module = model) -> Tensor:
            return F.mse_loss(model(x), 10.0 * y)

        told, crossed, before = math.nan, False, False
        for step in range(config.steps):
            if step % config.every == 0:
                row = meter.measure(closure)
                past = row.sharpness > row.edge
                if step <= config.told:
                    forecast.add(row)
                    before = past
                if step == config.told:
                    told = forecast.within(config.ahead)
                crossed = crossed or (step > config.told and past)
            optimizer.zero_grad()
            closure().backward()
            optimizer.step()
        record.append("forecasts", {"run": k, "lr": lr, "forecast": told, "crossed": crossed, "past_already": before})
        record.flush()


def run(config: Config | Forecasts, directory: Path) -> Path:
    """One run, unless it is done; returns its directory."""
    import warnings

    if is_done(directory):
        return directory
    with run_of(directory, config) as record, warnings.catch_warnings():
        warnings.simplefilter("ignore", neuromech.NeuromechWarning)  # runs past the edge are what is wanted
        if isinstance(config, Config):
            follow(config, record)
        else:
            foretold(config, record)
    return finish(directory)


def main() -> None:
    parser = command("edge_of_stability", __doc__)
    names = [f"{c.network}_{c.momentum:g}" for c in RUNS]
    parser.add_argument("--only", nargs="*", choices=[*names, "forecasts"], default=[*names, "forecasts"])
    options: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    configs: dict[str, Config | Forecasts] = dict(zip(names, RUNS, strict=True)) | {"forecasts": Forecasts()}
    for name, config in configs.items():
        if name in options.only:
            run(config, options.out / name)
    next_command("edge_of_stability", options.out)


if __name__ == "__main__":
    main()
