"""Do flows and steps follow each other to the order that is promised, for every rule, on every small network?

    python -m experiments.eom_orders [--out runs/eom_orders]     (resumes where it was interrupted)
    python -m analysis.eom_orders runs/eom_orders

Two directions. *Analysis*: the steps of an optimizer against the flow that they should lie on. *Steps*: EoMOptimizer
against the gradient flow. Smooth networks in float64 on one batch; and one with ReLU, whose kinks no order survives:
there the signs that flip between two learning rates are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.runs import command, next_command
from neuromech.eom import EoMOptimizer, Rule, as_function, descend, flow_of
from neuromech.eom.derivatives import gradient_at
from neuromech.eom.landscape import LossFunction, PureLandscape
from neuromech.eom.terms import Backend
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
STEPS = ("gd", "coupled decay", "heavy ball", "dampening", "nesterov")
KEYS = ("direction", "rule", "order", "lr")


class Attention(nn.Module):
    """A pre-norm transformer layer with smooth activations."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, "gelu", batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


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


def problem(config: Config) -> tuple[nn.Module, LossFunction, Params, Tensor]:
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


def cases(config: Config) -> Iterator[tuple[str, str, int, float]]:
    """Direction, rule, order and lr of every error that is measured of one network."""

    def rates(rule: Rule, finer: bool) -> list[float]:
        # Momentum and the Adam family show their order at smaller lr, the more so on the conv net, the most curved one,
        # and in steps of Nesterov's rule, whose series converges latest.
        adaptive = rule.kind != "sgd"
        slow = rule.momentum > 0 or adaptive
        divisor = (2 if adaptive or (finer and rule.nesterov) else 1) * (
            2 if slow and config.network == "conv net" else 1
        )
        return [lr / divisor for lr in (config.rates if slow else config.rates[:-1])]

    for name in RULES if config.network != "relu" else ["gd"]:
        for order in orders_of(RULES[name], config.orders):
            yield from (("analysis", name, order, lr) for lr in rates(RULES[name], finer=False))
    for name in STEPS if config.network != "relu" else ["gd"]:
        for order in range(config.orders):
            for lr in rates(RULES[name], finer=True):
                yield from ((f"steps, {backend}", name, order, lr) for backend in ("hvp", "gradients"))


def run(config: Config, directory: Path, progress: bool = False) -> Path:
    """Measure every error of one network that is not recorded yet; returns the run directory.

    Table errors: direction, rule, order, lr, error.
    """
    from tqdm import tqdm

    model, loss, params, x = problem(config)
    flips = sign_flips(model, loss, params, x, config) if config.network == "relu" else 0
    ends: dict[str, Params] = {}  # of the gradient flow, with the decay of a rule
    meta = {"network": config.network, "sign_flips": flips, "seed": config.seed}
    with Record(directory, meta, resume=True) as record:
        known = record.frame("errors") if "errors" in record.tables else None
        done = set() if known is None else {tuple(row) for row in known[list(KEYS)].itertuples(index=False)}
        for case in tqdm(list(cases(config)), desc=config.network, unit="error", disable=not progress):
            if case in done:
                continue
            direction, name, order, lr = case
            rule = RULES[name]
            if direction == "analysis":
                error = analysis_error(rule, order, lr, loss, params, config)
            else:
                if name not in ends:
                    flow = flow_of(rule, loss, params, 1.0, 0)
                    ends[name] = flow.at(config.time, rtol=config.rtol, atol=config.atol)
                backend: Backend = "hvp" if direction == "steps, hvp" else "gradients"
                error = steps_error(rule, order, lr, backend, loss, params, ends[name], config)
            record.append("errors", dict(zip((*KEYS, "error"), ([v] for v in (*case, error)), strict=True)))
    return directory


def analysis_error(rule: Rule, order: int, lr: float, loss: LossFunction, params: Params, config: Config) -> float:
    """After `time`, how far steps are from their flow; buffers start on it."""
    remembers = rule.momentum > 0 or rule.kind == "rmsprop"
    flow = flow_of(rule, loss, params, lr, order, startup="matched")
    buffers = flow.buffers(lambda p: gradient_at(PureLandscape(loss, p))) if remembers else None
    steps = descend(rule, loss, params, lr, round(config.time / lr), buffers)
    # The fields of the Adam family have kinks where a gradient is 0, which no solver passes with more digits.
    smooth = rule.kind == "sgd" and config.network != "relu"
    end = flow.at(config.time, rtol=config.rtol if smooth else 1e-7, atol=config.atol if smooth else 1e-8)
    return distance(steps[-1], end)


def steps_error(
    rule: Rule, order: int, lr: float, backend: Backend, loss: LossFunction, params: Params, end: Params, config: Config
) -> float:
    live = {name: p.clone().requires_grad_() for name, p in params.items()}
    base = rule.optimizer(live.values(), lr)
    optimizer = EoMOptimizer(base, order, backend=backend)
    for _ in range(round(config.time / lr)):
        optimizer.step(lambda: loss(live))
    return distance({name: p.detach() for name, p in live.items()}, end)


def sign_flips(model: nn.Module, loss: LossFunction, params: Params, x: Tensor, config: Config) -> int:
    """How many pre-activations change their sign along the path of gradient descent: each is a kink that is crossed."""
    lr = config.rates[-1]
    path = [params, *descend(Rule(), loss, params, lr, round(config.time / lr))]
    signs = [(x @ p["0.weight"].T + p["0.bias"]) > 0 for p in path]
    return int(sum((a != b).sum() for a, b in pairwise(signs)))


def main() -> None:
    parser = command("eom_orders", __doc__)
    options = parser.parse_args()
    for name in NETWORKS:
        run(Config(name), options.out / name.replace(" ", "_"), progress=True)
    next_command("eom_orders", options.out)


if __name__ == "__main__":
    main()
