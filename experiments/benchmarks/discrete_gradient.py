"""What an iteration of training with a discrete gradient costs, as ratios of paired runs.

    python -m experiments.benchmarks.discrete_gradient [--repeats 30] [--dtype float32]

The same data and loss for all, and the same energy for all but the neural ODE, whose field is a network of the same
size. Rivals: the Hamiltonian network and the neural ODE trained through torchdiffeq's dopri5, and the discrete gradient
as modules written by hand for this one network, with the secant as the papers' code has it (quotient where the states
differ by more than a threshold, by boolean indexing; else the derivative at the midpoint). Each round runs all of them,
in turn; a ratio is the median over the rounds. Exits with 1 unless dopri5 on the same energy costs at least 3 times a
discrete gradient, and the modules by hand at least as much.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from neuromech.physics import EnergyModel, ExplicitScheme, MLPEnergy, MLPField, Symplectic

THRESHOLD = 1e-6


def by_hand(network: nn.Sequential, u: Tensor, v: Tensor) -> Tensor:
    """The discrete gradient of a network of linear layers and tanh."""
    secants: list[Tensor] = []
    a, b = u, v
    for layer in network:
        after_a, after_b = layer(a), layer(b)
        if isinstance(layer, nn.Tanh):
            far = (a - b).abs() > THRESHOLD
            slope = 1 - torch.tanh((a + b) / 2) ** 2
            slope[far] = (after_a[far] - after_b[far]) / (a[far] - b[far])
            secants.append(slope)
        a, b = after_a, after_b
    g = torch.ones_like(a)
    for layer in reversed(network):
        g = g @ layer.weight if isinstance(layer, nn.Linear) else g * secants.pop()
    return g


def rivals(size: int, batch: int, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """One training iteration, forward and backward, of every method on one model and one batch."""
    torch.manual_seed(0)
    model = EnergyModel(MLPEnergy(size), Symplectic()).to(dtype)
    u0 = torch.randn(batch, size, dtype=dtype)
    dt = 0.1
    with torch.no_grad():
        u1 = u0 + dt * model.velocity(u0)
    explicit = {method: ExplicitScheme(model, method, tolerance=1e-6) for method in ("midpoint", "rk4", "dopri5")}
    field = MLPField(size).to(dtype)
    network = model.energy.network
    assert isinstance(network, nn.Sequential)

    def train(velocity: Callable[[], Tensor]) -> Callable[[], None]:
        def iteration() -> None:
            model.zero_grad()
            field.zero_grad()
            (((u1 - u0) / dt - velocity()) ** 2).mean().backward()

        return iteration

    made = {"discrete gradient": train(lambda: model(u0, u1))}
    made["modules by hand"] = train(lambda: model.structure(by_hand(network, u1, u0), u0))
    for method, scheme in explicit.items():
        made[f"HNN {method}"] = train(partial(scheme, u0, u1, dt))
    made["NODE dopri5"] = train(partial(ExplicitScheme(field, "dopri5", tolerance=1e-6), u0, u1, dt))
    return made


def ratios(made: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median over the rounds of each time over that of the discrete gradient."""
    for run in made.values():
        run()
    rounds = []
    for _ in range(repeats):
        took = {}
        for name, run in made.items():
            began = time.perf_counter()
            run()
            took[name] = time.perf_counter() - began
        rounds.append({name: t / took["discrete gradient"] for name, t in took.items()})
    return {name: statistics.median(r[name] for r in rounds) for name in made}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    options = parser.parse_args()
    ok = True
    for size, batch in ((2, 2475), (8, 200)):
        found = ratios(rivals(size, batch, getattr(torch, options.dtype)), options.repeats)
        print(f"state of {size}, batch of {batch}, {options.dtype}: time of an iteration, discrete gradient = 1")
        for name, ratio in found.items():
            print(f"  {name:20} {ratio:6.2f}")
        ok &= found["HNN dopri5"] >= 3 and found["modules by hand"] >= 1
    print("verdict: as claimed" if ok else "verdict: SLOWER THAN CLAIMED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
