"""What following the flow costs: EoMOptimizer's step against plain SGD's with the same closure, and Hessian products.

    python -m experiments.benchmarks.eom

Runs take turns, step by step, so that the drift of a shared machine hits all alike; what is printed are medians of
paired ratios. Then the price of accuracy: gradients that each method spends to stay equally close to the gradient flow.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.benchmarks.overhead import Config as Pairs
from experiments.benchmarks.overhead import paired
from neuromech.demo import digits, vgg
from neuromech.eom import EoMOptimizer, Point, as_function, gradient_flow
from neuromech.eom.landscape import LossFunction
from neuromech.eom.terms import Backend, cost
from neuromech.params import Params, combine, norm


@dataclass(frozen=True)
class Config:
    pairs: Pairs = field(default_factory=lambda: Pairs(rounds=20, warmup=2))
    batch: int = 128
    time: float = 1.0
    tolerances: tuple[float, ...] = (1e-2, 1e-4, 1e-6)


def networks(batch: int) -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """The demo's convolutional network, with its batch norm and without, and a smooth perceptron, on real digits."""
    images, labels = digits()
    x, y = images[:batch], labels[:batch]
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 10)
    )
    bare = nn.Sequential(*(layer for layer in vgg() if not isinstance(layer, nn.BatchNorm2d)))
    return {"conv net with batch norm": (vgg(), x, y), "conv net": (bare, x, y), "perceptron": (mlp, x, y)}


def plain(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    def step() -> None:
        optimizer.step(closure)

    return step


def following(model: nn.Module, x: Tensor, y: Tensor, order: int, backend: Backend) -> Callable[[], None]:
    optimizer = EoMOptimizer(torch.optim.SGD(model.parameters(), lr=1e-3), order, backend=backend)

    def step() -> None:
        optimizer.step(lambda: F.cross_entropy(model(x), y))

    return step


def steps(config: Config) -> None:
    for name, (model, x, y) in networks(config.batch).items():
        for backend, order, bound in (("hvp", 1, 3.3), ("gradients", 1, 2.1), ("gradients", 2, 0), ("gradients", 3, 0)):
            backend_: Backend = "hvp" if backend == "hvp" else "gradients"
            other = copy.deepcopy(model)  # one closure's gradients must not wait in the other's `.grad`
            ratios = paired(following(other, x, y, order, backend_), plain(model, x, y), config.pairs, 1)
            wanted = f" (wanted: <= {bound})" if bound else f" ({order + 1} gradients)"
            print(f"{name}: EoMOptimizer order {order}, {backend} / SGD: {statistics.median(ratios):.2f}{wanted}")


def products(config: Config) -> None:
    """Hessian-vector products, one vector after another at one point, against a peer and against the textbook."""
    model, x, y = networks(config.batch)["perceptron"]
    criterion = nn.CrossEntropyLoss()
    loss, params = as_function(model, criterion, x, y)
    live = list(model.parameters())
    v = {name: torch.randn_like(p) for name, p in params.items()}
    flat = torch.cat([t.reshape(-1) for t in v.values()])

    def ours() -> None:
        Point(loss, params, once=True).hvp(v)

    def textbook() -> None:
        gradient = torch.autograd.grad(criterion(model(x), y), live, create_graph=True)
        products = [(g * t).sum() for g, t in zip(gradient, v.values(), strict=True)]
        torch.autograd.grad(torch.stack(products).sum(), live)

    peers: dict[str, Callable[[], None]] = {"hand-written double backward": textbook}
    try:
        from curvlinops import HessianLinearOperator
    except ImportError:
        print("curvlinops is not installed: no ratio against it")
    else:
        hessian = HessianLinearOperator(model, criterion, list(model.parameters()), [(x, y)], check_deterministic=False)

        def theirs() -> None:
            hessian @ flat

        peers["curvlinops"] = theirs
        distance = float(
            (hessian @ flat - torch.cat([t.reshape(-1) for t in Point(loss, params).hvp(v).values()])).norm()
        )
        print(f"the product agrees with curvlinops to {distance / float((hessian @ flat).norm()):.0e}")
    for name, peer in peers.items():
        ratio = statistics.median(paired(ours, peer, config.pairs, 1))
        print(f"one Hessian-vector product / {name}: {ratio:.2f} (wanted: <= 1.0)")
    several = 10

    def shared() -> None:
        point = Point(loss, params)
        for _ in range(several):
            point.hvp(v)

    for name, peer in peers.items():
        ratio = statistics.median(paired(shared, repeated(peer, several), config.pairs, 1))
        print(f"{several} of them at one point / {name}: {ratio:.2f} (wanted: <= 1.0)")


def repeated(work: Callable[[], None], times: int) -> Callable[[], None]:
    def all_of_it() -> None:
        for _ in range(times):
            work()

    return all_of_it


def price(config: Config) -> None:
    """Gradients per unit of time that keep the end of the path within a tolerance of the gradient flow."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(32, 4).double(), torch.randn(32, 3).double()
    loss, params = as_function(model, nn.MSELoss(), x, y)
    end = gradient_flow(loss, params).at(config.time, rtol=1e-11, atol=1e-13)
    print(
        f"gradients to reach time {config.time} within a tolerance of the gradient flow (a Hessian product counts 2):"
    )
    names = {("hvp", 1): "Taylor 1 (HVP)", ("hvp", 2): "Taylor 2", ("gradients", 1): "Heun", ("gradients", 3): "RK4"}
    for (backend, order), name in {("hvp", 0): "SGD", **names}.items():
        backend_: Backend = "hvp" if backend == "hvp" else "gradients"
        each = cost(order, "steps", backend_) - (1.0 if backend == "hvp" and order else 0.0)  # its forward is shared
        spent = [each * needed(loss, params, end, order, backend_, config.time, t) for t in config.tolerances]
        print(f"  {name:16s}" + "".join(f"  {t:.0e}: {s:9.0f}" for t, s in zip(config.tolerances, spent, strict=True)))


def needed(
    loss: LossFunction, params: Params, end: Params, order: int, backend: Backend, time: float, tolerance: float
) -> float:
    """Steps to reach the tolerance, by the order of the method from a run that is fine enough to show it."""
    count = 32
    live = {name: p.clone().requires_grad_() for name, p in params.items()}
    optimizer = EoMOptimizer(torch.optim.SGD(live.values(), lr=time / count), order, backend=backend)
    for _ in range(count):
        optimizer.step(lambda: loss(live))
    error = float(norm(combine([(1.0, {n: p.detach() for n, p in live.items()}), (-1.0, end)])))
    needed: float = math.ceil(count * (error / tolerance) ** (1.0 / (order + 1)))
    return needed


def main(config: Config = Config()) -> None:
    steps(config)
    products(config)
    price(config)


if __name__ == "__main__":
    main()
