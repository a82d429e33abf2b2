"""What a divergence-free field costs against one evaluation of its potential, and how exact it is, for n = 2 ... 32.

    python -m experiments.benchmarks.divergence_free

Timings are CPU times, take turns on one thread, and the ratio is of the least, which a busy machine disturbs least. The
reference is what the paper's code does: the full Jacobian of the matrix by forward mode, and the Jacobian of the
antisymmetrised Jacobian of the vector by reverse mode. Exits with 1 if a divergence is not rounding, or if a scheme
costs more than the best that was measured before (`BEST`: evaluation, training) or than the reference.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacfwd, jacrev, vmap

from neuromech.physics import DivergenceFree, mlp
from neuromech.physics.fields.schemes import PotentialForm, antisymmetric, outputs_of

# Best scheme of an earlier study of the same networks, in the same units: (evaluation, training) for each n.
BEST: dict[str, dict[int, tuple[float, float]]] = {
    "matrix": {2: (3.7, 4.4), 3: (5.1, 5.7), 4: (7.7, 6.9), 8: (14, 12), 16: (17, 15), 32: (30, 17)},
    "vector": {2: (10, 11), 3: (13, 14), 4: (16, 15), 8: (26, 26), 16: (53, 43), 32: (107, 88)},
}
BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-14}
LARGEST_REFERENCE = {"matrix": 32, "vector": 8}  # beyond, one run of the reference takes minutes


@dataclass(frozen=True)
class Config:
    batch: int = 1024
    width: int = 128
    depth: int = 3
    seconds: float = 6.0  # of CPU time for each row of the table and each of evaluation and training


def reference(potential: nn.Module, x: Tensor, n: int, form: PotentialForm) -> Tensor:
    """The paper's schemes."""
    params: dict[str, Tensor] = dict(potential.named_parameters())

    def value(y: Tensor) -> Tensor:
        value: Tensor = functional_call(potential, params, (y.unsqueeze(0),))[0]
        return value

    def of_vector(y: Tensor) -> Tensor:
        j = jacrev(value)(y)
        matrix: Tensor = j - j.T
        return matrix

    jacobian = jacfwd(lambda y: antisymmetric(value(y), n)) if form == "matrix" else jacrev(of_vector)
    return vmap(lambda y: torch.einsum("ijj->i", jacobian(y)))(x)


def ratios(runs: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Least CPU time of each run over that of the first, in turns."""
    best = [float("inf")] * len(runs)
    begin, rounds = time.process_time(), 0
    while rounds < 3 or time.process_time() - begin < seconds:
        for i, f in enumerate(runs):
            start = time.process_time()
            f()
            best[i] = min(best[i], time.process_time() - start)
        rounds += 1
    return [b / best[0] for b in best[1:]]


def costs(form: PotentialForm, n: int, config: Config) -> tuple[list[float], list[float]]:
    """(ours, reference) for evaluation, and for training; without a reference where that is too slow."""
    potential = mlp(n, outputs_of(form, n), config.width, config.depth)
    field, x = DivergenceFree(potential, n, form), torch.randn(config.batch, n)
    few = x[: max(8, config.batch // (n * n))]  # the reference is linear in the batch, and large
    run: list[Callable[[Tensor], Tensor]] = [potential, field]
    with_reference = n <= LARGEST_REFERENCE[form]

    def evaluation(f: Callable[[Tensor], Tensor], y: Tensor) -> Callable[[], object]:
        return torch.no_grad()(lambda: f(y))

    def training(f: Callable[[Tensor], Tensor], y: Tensor) -> Callable[[], object]:
        def step() -> None:
            potential.zero_grad()
            f(y).square().sum().backward()

        return step

    result = []
    for mode in (evaluation, training):
        ours = ratios([mode(f, x) for f in run], config.seconds)
        theirs = []
        if with_reference:
            scaled = ratios([mode(potential, x), mode(lambda y: reference(potential, y, n, form), few)], config.seconds)
            theirs = [scaled[0] * len(x) / len(few)]
        result.append(ours + theirs)
    return result[0], result[1]


def divergence(form: PotentialForm, n: int, dtype: torch.dtype) -> float:
    """Root mean square of div v over that of |J_v|, by autodiff of the field itself."""
    field = DivergenceFree(mlp(n, outputs_of(form, n), 64, 3), n, form).to(dtype)
    x = torch.randn(32, n, dtype=dtype)
    j = vmap(jacrev(field))(x)
    return float((j.diagonal(dim1=1, dim2=2).sum(-1).norm() / j.norm()).detach())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=Config.seconds)
    config = Config(seconds=parser.parse_args().seconds)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    missed = 0
    forms: tuple[PotentialForm, ...] = ("matrix", "vector")
    print("form     n   evaluation: ours  best  reference   training: ours  best  reference   divergence: f32      f64")
    for form in forms:
        for n, best in BEST[form].items():
            both = costs(form, n, config)
            rest = {dtype: divergence(form, n, dtype) for dtype in BOUNDS}
            missed += sum(rest[dtype] > bound for dtype, bound in BOUNDS.items())
            cells = []
            for (ours, *theirs), bar in zip(both, best, strict=True):
                missed += ours > bar or any(ours > t for t in theirs)
                cells += [f"{ours:10.1f}", f"{bar:5.1f}", f"{theirs[0]:10.1f}" if theirs else " " * 9 + "-"]
            residuals = [f"{r:8.1e}" for r in rest.values()]
            print(form, f"{n:3d}   ", *cells[:3], "       ", *cells[3:], "      ", *residuals)
    print("all as they should be" if not missed else f"{missed} MISSED")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
