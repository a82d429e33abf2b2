"""Do flows and steps follow each other to the order that is promised, for every rule, on every small network?

    python -m experiments.eom_orders [--out runs/eom_orders]
    python -m analysis.eom_orders runs/eom_orders

Two directions. *Analysis*: the steps of an optimizer against the flow that they should lie on. *Steps*: EoMOptimizer
against the gradient flow. Smooth networks in float64 on one batch; and one with ReLU, whose kinks no order survives:
there the signs that flip between two learning rates are counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from neuromech.eom import EoMOptimizer, Rule, as_function, descend, flow_of
from neuromech.eom.landscape import Function, Loss
from neuromech.eom.point import gradient_at
from neuromech.params import Params, combine, norm
from neuromech.record import Record

RULES: dict[str, Rule] = {
    "gd": Rule(),
    "coupled decay": Rule(weight_decay=0.1),
    "decoupled decay": Rule(weight_decay=0.1, decoupled=True),
    "heavy ball": Rule(momentum=0.5),
    "dampening": Rule(momentum=0.5, dampening=0.3, weight_decay=0.1),
    "nesterov": Rule(momentum=0.4, nesterov=True),
    "momentum, decoupled": Rule(momentum=0.5, weight_decay=0.1, decoupled=True),
    "adam": Rule("adam", betas=(0.5, 0.6), eps=0.1),
    "adamw": Rule("adam", betas=(0.5, 0.6), eps=0.1, weight_decay=0.1, decoupled=True),
    "rmsprop": Rule("rmsprop", betas=(0.0, 0.6), eps=0.1),
}
STEPS: dict[str, Rule] = {name: RULES[name] for name in ("gd", "coupled decay", "heavy ball", "dampening", "nesterov")}


class Attention(nn.Module):
    """A pre-norm transformer layer with smooth activations."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, "gelu", batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), (9, 4)),
    "conv net": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.Softplus(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        (6, 1, 6, 6),
    ),
    "attention": (Attention, (5, 4, 4)),
    "relu": (lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), (16, 4)),
}


@dataclass(frozen=True)
class Config:
    network: str = "mlp"
    rates: tuple[float, ...] = (0.02, 0.01, 0.005, 0.0025)
    time: float = 0.2
    orders: int = 4
    seed: int = 0
    rtol: float = 1e-11
    atol: float = 1e-13


def problem(config: Config) -> tuple[nn.Module, Loss, Params, Tensor]:
    torch.manual_seed(config.seed)
    make, shape = NETWORKS[config.network]
    model, x = make().double(), torch.randn(shape).double()
    target = torch.randn(model(x).shape).double()
    loss, params = as_function(model, lambda out, wanted: (out - wanted).square().mean(), x, target)
    return model, loss, params, x


def distance(x: Params, y: Params) -> float:
    return float(norm(combine([(1.0, x), (-1.0, y)])))


def orders_of(rule: Rule, most: int) -> range:
    """What the issue at hand is known to: 3 for gradient descent, 2 with momentum, 1 for the Adam family."""
    return range(min(most, 2 if rule.kind != "sgd" else 3 if rule.momentum else 4))


def run(config: Config, directory: Path) -> Path:
    """Measure every error of one network; returns the run directory. Table errors: direction, rule, order, lr, "
    "error."""
    model, loss, params, x = problem(config)
    flips = sign_flips(model, loss, params, x, config) if config.network == "relu" else 0
    record = Record(directory, {"network": config.network, "sign_flips": flips, "seed": config.seed}, False)

    def keep(direction: str, name: str, order: int, lr: float, error: float) -> None:
        row = {"direction": direction, "rule": name, "order": order, "lr": lr, "error": error}
        record.append("errors", {key: [value] for key, value in row.items()})

    rules = RULES if config.network == "mlp" else {"gd": RULES["gd"]}
    for name, rule in rules.items():
        fine = config.rates if rule.momentum or rule.kind != "sgd" else config.rates[:-1]
        for order in orders_of(rule, config.orders):
            for lr in fine:
                keep("analysis", name, order, lr, analysis_error(rule, order, lr, loss, params, config))
    for name, rule in STEPS.items() if config.network == "mlp" else [("gd", RULES["gd"])]:
        end = flow_of(rule, loss, params, 1.0, 0).at(config.time, rtol=config.rtol, atol=config.atol)
        for order in range(config.orders):
            # The series of Nesterov's rule converges latest, and shows its order at smaller lr.
            for lr in (r / (2 if rule.nesterov else 1) for r in (config.rates if rule.momentum else config.rates[:-1])):
                for backend in ("hvp", "gradients"):
                    keep(
                        f"steps, {backend}",
                        name,
                        order,
                        lr,
                        steps_error(rule, order, lr, backend, loss, params, end, config),
                    )
    record.close()
    return directory


def analysis_error(rule: Rule, order: int, lr: float, loss: Loss, params: Params, config: Config) -> float:
    """After `time`, how far steps are from their flow; buffers start on it."""
    remembers = rule.momentum > 0 or rule.kind == "rmsprop"
    flow = flow_of(rule, loss, params, lr, order, startup="matched")
    buffers = flow.buffers(lambda p: gradient_at(Function(loss, p))) if remembers else None
    steps = descend(rule, loss, params, lr, round(config.time / lr), buffers)
    # The fields of the Adam family have kinks where a gradient is 0, which no solver passes with more digits.
    smooth = rule.kind == "sgd" and config.network != "relu"
    end = flow.at(config.time, rtol=config.rtol if smooth else 1e-7, atol=config.atol if smooth else 1e-8)
    return distance(steps[-1], end)


def steps_error(
    rule: Rule, order: int, lr: float, backend: str, loss: Loss, params: Params, end: Params, config: Config
) -> float:
    live = {name: p.clone().requires_grad_() for name, p in params.items()}
    base = rule.optimizer(live.values(), lr)
    optimizer = EoMOptimizer(base, order, backend="hvp" if backend == "hvp" else "gradients")
    for _ in range(round(config.time / lr)):
        optimizer.step(lambda: loss(live))
    return distance({name: p.detach() for name, p in live.items()}, end)


def sign_flips(model: nn.Module, loss: Loss, params: Params, x: Tensor, config: Config) -> int:
    """How many pre-activations change their sign along the path of gradient descent: each is a kink that is crossed."""
    lr = config.rates[-1]
    path = [params, *descend(Rule(), loss, params, lr, round(config.time / lr))]
    signs = [(x @ p["0.weight"].T + p["0.bias"]) > 0 for p in path]
    return int(sum((a != b).sum() for a, b in pairwise(signs)))


def main() -> None:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/eom_orders"))
    options = parser.parse_args()
    for name in tqdm(NETWORKS, unit="network"):
        run(Config(name), options.out / name.replace(" ", "_"))
    print(f"records in {options.out}; now: python -m analysis.eom_orders {options.out}")


if __name__ == "__main__":
    main()
