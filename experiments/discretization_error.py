"""How far is gradient descent from the flows that it should follow, against learning rate and curvature? On networks.

    python -m experiments.discretization_error [--out runs/discretization_error]     (resumes where it was interrupted)
    python -m analysis.discretization_error runs/discretization_error

Full batch on digits, smooth minis in float64, weights scaled up or down to begin at other curvatures. After a fixed
time, the distance of gradient descent from the gradient flow and the equation of motion of orders 1 and 2 (Miyagawa
2022), for lr that halve, and the distance from the gradient flow that `neuromech.eom.path_error` predicts beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from experiments.edge_of_stability import batch, network
from experiments.runs import command, next_command, run_of
from neuromech.eom import Rule, as_function, descend, equation_of_motion, gradient_flow, path_error, sharpness
from neuromech.params import Params, combine, norm
from neuromech.record import Record


@dataclass(frozen=True)
class Config:
    networks: tuple[str, ...] = ("mlp", "resnet", "vit")
    gains: tuple[float, ...] = (0.7, 1.0, 1.4)  # of the weights at the start
    largest: float = 0.32  # lr * sharpness of the largest lr; the series converges below 1
    halvings: int = 4
    steps: int = 8  # of the largest lr
    samples: int = 48
    seed: int = 0


def distance(x: Params, y: Params) -> float:
    return float(norm(combine([(1.0, x), (-1.0, y)])))


def case(config: Config, name: str, gain: float, record: Record) -> None:
    """Rows of the table errors for one network and one gain."""
    torch.manual_seed(config.seed)
    model = network(name).double()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(gain)
    x, y = batch(config.samples)
    loss, params = as_function(model, F.mse_loss, x, y)
    curvature = sharpness(loss, params, tolerance=1e-4).value
    time = config.steps * config.largest / curvature
    flow = gradient_flow(loss, params).at(time)
    predicted = path_error(loss, params, time)
    moved = distance(flow, params)
    rows: dict[str, list[float]] = {"lr": [], "order": [], "error": [], "predicted": []}
    for k in range(config.halvings):
        lr = config.largest / curvature / 2**k
        end = descend(Rule(), loss, params, lr, config.steps * 2**k)[-1]
        for order in (0, 1, 2):
            at = equation_of_motion(loss, params, lr, order).at(time) if order else flow
            told = distance(predicted.at(lr), combine([(0.0, flow)])) if not order else float("nan")
            for column, value in (("lr", lr), ("order", order), ("error", distance(end, at)), ("predicted", told)):
                rows[column].append(value)
    record.append("errors", {"network": name, "gain": gain, "sharpness": curvature, "moved": moved, **rows})
    record.flush()


def run(config: Config, directory: Path, progress: bool = False) -> Path:
    """Measure every network and gain that is not recorded yet; returns the run directory. Table errors."""
    from tqdm import tqdm

    with run_of(directory, config) as record:
        done = set[tuple[str, float]]()
        if "errors" in record.tables:
            frame = record.frame("errors", every_session=True)
            done = set(zip(frame["network"], frame["gain"], strict=True))
        pairs = [(name, gain) for name in config.networks for gain in config.gains]
        for name, gain in tqdm(pairs, unit="network", disable=not progress):
            if (name, gain) not in done:
                case(config, name, gain, record)
    return directory


def main() -> None:
    options = command("discretization_error", __doc__).parse_args()
    torch.set_num_threads(1)
    run(Config(), options.out, progress=True)
    next_command("discretization_error", options.out)


if __name__ == "__main__":
    main()
