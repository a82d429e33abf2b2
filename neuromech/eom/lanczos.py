"""The largest eigenvalues of a symmetric operator that is only known by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.errors import EoMError
from neuromech.params import Params, combine, dot, norm


class Eigen(NamedTuple):
    """`value` is off by at most `residual` from an eigenvalue; `steps` products were taken."""

    value: float
    residual: float
    steps: int
    vector: Params


def largest(
    product: Callable[[Params], Params],
    like: Params,
    tolerance: float = 1e-2,
    most: int = 60,
    start: Params | None = None,
) -> Eigen:
    """The algebraically largest eigenvalue, by Lanczos with full reorthogonalisation.

    Stops when the residual is below `tolerance` times the largest absolute value seen, or after `most` products.
    `start`: a guess of the eigenvector, as the last call returned it; without one, random numbers of a generator of
    their own.

    Raises `EoMError` if a product is not finite.
    """
    return leading(product, like, float("inf"), tolerance, most, start)[0]


def leading(
    product: Callable[[Params], Params],
    like: Params,
    least: float,
    tolerance: float = 1e-2,
    most: int = 60,
    start: Params | None = None,
) -> list[Eigen]:
    """The eigenvalues of at least `least` with their vectors, and in any case the largest, in falling order.

    As `largest`, stopping when the residuals of all of them are small enough. An eigenvector that `start` has nothing
    of is found only by rounding: mix some of every direction in. Of an eigenvalue that occurs twice one is found.
    """
    v = start or random_like(like)
    basis, diagonal, off = [combine([(1.0 / float(norm(v)), v)])], list[float](), list[float]()
    while True:
        image = product(basis[-1])
        diagonal.append(float(dot(basis[-1], image)))
        if not torch.isfinite(torch.tensor(diagonal[-1])):
            raise EoMError(
                "a Hessian-vector product is not finite: the loss has diverged, or overflows in this precision"
            )
        for _ in range(2):  # twice is enough
            image = combine([(1.0, image), *((-float(dot(q, image)), q) for q in basis)])
        rest = float(norm(image))
        matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if off:
            beside = torch.tensor(off, dtype=torch.float64)
            matrix += torch.diag(beside, 1) + torch.diag(beside, -1)
        values, vectors = torch.linalg.eigh(matrix)
        scale = float(values.abs().max())
        wanted = [k for k in range(len(values) - 1, -1, -1) if k == len(values) - 1 or float(values[k]) >= least]
        residuals = [rest * abs(float(vectors[-1, k])) for k in wanted]
        size = sum(x.numel() for x in like.values())
        settled = max(residuals) <= tolerance * scale
        if settled or len(diagonal) >= min(most, size) or rest <= 1e-14 * scale:
            return [
                Eigen(
                    float(values[k]),
                    residual,
                    len(diagonal),
                    combine([(float(c), q) for c, q in zip(vectors[:, k], basis, strict=True)]),
                )
                for k, residual in zip(wanted, residuals, strict=True)
            ]
        off.append(rest)
        basis.append(combine([(1.0 / rest, image)]))


def random_like(like: Params) -> Params:
    """Normal numbers of a generator of their own: the run's own random numbers stay as they are."""
    generator = torch.Generator().manual_seed(0)

    def normal(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)

    return {name: normal(x) for name, x in like.items()}
