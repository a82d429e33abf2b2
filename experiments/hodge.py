"""Does the Hodge decomposition find known parts, in two to five dimensions, on a torus and between walls?

    python -m experiments.hodge [--steps 400] [--out runs/hodge]
    python -m analysis.hodge runs/hodge

On the torus the field is a sum of a gradient, a divergence-free and a constant field, each written down by itself. In
the box and the ball the divergence-free part goes along the walls, the gradient's potential vanishes there, and the
harmonic part is the gradient of (x_1^2 - x_2^2) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.runs import command, finish, is_done, next_command, run_of
from neuromech.physics import Ball, Box, FreeSpace, HodgeDecomposition, Torus

CASES = ("torus-2", "torus-3", "torus-5", "box-2", "box-3", "ball-3")
TWO_PI = 2 * math.pi
Parts = dict[str, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Config:
    case: str = "torus-2"
    steps: int = 400
    count: int = 4096
    width: int = 32
    depth: int = 2
    seed: int = 0


def domain_of(case: str) -> FreeSpace:
    kind, d = case.split("-")
    space: FreeSpace = {"torus": Torus, "box": Box, "ball": Ball}[kind](int(d))
    return space


def parts_of(case: str) -> Parts:
    """The known parts of the field."""
    d = int(case.split("-")[1])
    if case.startswith("torus"):
        return {  # the gradient is that of sum_i sin(2 pi x_i) cos(2 pi x_(i-1)) / 2 pi
            "gradient": lambda x: (
                torch.cos(TWO_PI * x) * torch.cos(TWO_PI * x.roll(1, -1))
                - torch.sin(TWO_PI * x.roll(-1, -1)) * torch.sin(TWO_PI * x)
            ),
            "divergence_free": lambda x: torch.sin(TWO_PI * x.roll(1, -1)),
            "harmonic": lambda x: torch.linspace(0.2, 0.6, d, dtype=x.dtype).expand_as(x),
        }

    def gradient(x: Tensor) -> Tensor:
        """Of prod_i sin(pi x_i) / pi."""
        s, c = torch.sin(math.pi * x), torch.cos(math.pi * x)
        return torch.stack([c[:, i] * torch.cat([s[:, :i], s[:, i + 1 :]], -1).prod(-1) for i in range(d)], -1)

    def solenoid(x: Tensor) -> Tensor:
        """The stream function sin^2(pi x_1) sin^2(pi x_2) / pi, in the plane of the first two axes."""
        s, c = torch.sin(math.pi * x), torch.cos(math.pi * x)
        v = torch.zeros_like(x)
        v[:, 0], v[:, 1] = 2 * s[:, 0] ** 2 * s[:, 1] * c[:, 1], -2 * s[:, 1] ** 2 * s[:, 0] * c[:, 0]
        return v

    def harmonic(x: Tensor) -> Tensor:
        h = torch.zeros_like(x)
        h[:, 0], h[:, 1] = x[:, 0], -x[:, 1]
        return h

    if case.startswith("ball"):
        return {
            # of (1 - |x|^2) sin(2 x_1)
            "gradient": lambda x: (
                2 * (1 - x.square().sum(-1, keepdim=True)) * torch.cos(2 * x[:, :1]) * torch.eye(d, dtype=x.dtype)[0]
                - 2 * x * torch.sin(2 * x[:, :1])
            ),
            # a turn of the first two axes, slower outside
            "divergence_free": lambda x: (
                (2 - x.square().sum(-1, keepdim=True)) * F.pad(torch.stack([-x[:, 1], x[:, 0]], -1), (0, d - 2))
            ),
            "harmonic": harmonic,
        }
    return {"gradient": gradient, "divergence_free": solenoid, "harmonic": harmonic}


def run(config: Config, directory: Path) -> Path:
    """Fit one case in float64; returns the run directory, with the tables `parts` and `pairs`."""
    if is_done(directory):
        return directory
    torch.manual_seed(config.seed)
    torch.set_default_dtype(torch.float64)
    domain, parts = domain_of(config.case), parts_of(config.case)
    hodge = HodgeDecomposition(domain, width=config.width, depth=config.depth)
    hodge.fit(lambda x: torch.stack([f(x) for f in parts.values()]).sum(0), config.steps, config.count, progress=True)
    report = hodge.orthogonality()
    x = domain.sample(5000)
    found = hodge.parts(x)
    errors = {k: float((found[k] - f(x)).norm() / f(x).norm()) for k, f in parts.items()}
    with run_of(directory, config, {"residual": report.residual}) as record:
        found_parts = {"part": list(errors), "error": list(errors.values())}
        record.append("parts", found_parts | {"energy": list(report.energy.values())})
        pairs = list(report.inner)
        products = {"inner": list(report.inner.values()), "cosine": list(report.cosine.values())}
        record.append("pairs", {"part": [a for a, _ in pairs], "other": [b for _, b in pairs]} | products)
    torch.save(hodge.state_dict(), directory / "model.pt")
    return finish(directory)


def main() -> None:
    from tqdm import tqdm

    parser = command("hodge", __doc__)
    parser.add_argument("--steps", type=int, default=Config.steps)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    options = parser.parse_args()
    for case in tqdm(options.cases, unit="case"):
        run(Config(case, options.steps), options.out / case)
    next_command("hodge", options.out)


if __name__ == "__main__":
    main()
