"""Matrix families in training: along which members they are followed, and what is invariant of their charges.

A family of n x n matrices has n (n + 1) / 2 charges a block, and products that cost n multiplications an element. Small
ones (n <= `WHOLE`) are followed entry by entry; larger ones along `DIRECTIONS` fixed random directions, u_a^T C u_b,
which costs the same for any n: per step and vector (weights; gradients, and momentum or the direction of a step) one
reading of the parameters in matrix families, `DIRECTIONS` multiplications an element.

The matrix as a whole, C = sum_t weight_t X_t X_t^T, is looked at at 8 steps of every doubling: `size`, sum_t |X_t|^2,
which bounds the others; `trace`; `norm`, |C| (Frobenius); `largest`, the eigenvalue furthest from zero; each over all
blocks. Beyond n = `EIGENVALUES` the norm is `estimated`, n <|C u|^2> over random signs u of length one (Hutchinson
1990), and the eigenvalue unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from neuromech.dynamics.forms.vectors import Values
from neuromech.dynamics.sides import is_due
from neuromech.symmetry import Symmetry, mixing

WHOLE, DIRECTIONS, EIGENVALUES, PROBES = 8, 4, 64, 16
COLUMNS = ("size", "trace", "norm", "largest", "estimated")


def followed(symmetries: Iterable[Symmetry], params: Values, whole: bool = True) -> list[Symmetry]:
    """The families that have laws, as they are followed; matrix families, large ones along directions, come last.

    Rotations have no charge, and are left out. Not `whole`: parameters lie in parts on several processes, none has a
    matrix to multiply: all matrix families are left out.
    """
    every = list(symmetries)
    matrices = [s for s in every if s.kind == "matrix" and not s.skew] if whole else []
    large = [s.order(params) > WHOLE for s in matrices]
    return [s for s in every if s.kind != "matrix"] + [
        s.along(params, DIRECTIONS) if many else s for s, many in zip(matrices, large, strict=True)
    ]


def followed_by_search(
    found: Sequence[Symmetry], searches: Sequence[int], params: Values, whole: bool
) -> list[list[Symmetry]]:
    """The families that have laws, search by search; see `followed`."""
    ends = [*accumulate(searches)]
    parts = [found[end - n : end] for n, end in zip(searches, ends, strict=True)]
    return [followed(part, params, whole) for part in parts]


class Matrices:
    """The matrix families among `symmetries`, by their numbers there."""

    def __init__(self, symmetries: Sequence[Symmetry]) -> None:
        self._of = {i: s for i, s in enumerate(symmetries) if s.kind == "matrix"}
        self._kept: list[tuple[int, Tensor]] = []

    def due(self, step: int) -> bool:
        """Whether a step is one of those at which the matrices are looked at."""
        return bool(self._of) and is_due(step)

    @torch.no_grad()
    def measure(self, step: int, params: Values) -> None:
        """Keep what is invariant: nothing here waits for the device."""
        self._kept.append((step, torch.stack([invariants(s, params) for s in self._of.values()])))

    def take(self) -> dict[str, list[float]]:
        """Columns of what was kept, one row a family and step; then it is forgotten."""
        kept, self._kept = self._kept, []
        if not kept:
            return {}
        data = torch.cat([x for _, x in kept]).cpu()
        columns = {name: data[:, i].tolist() for i, name in enumerate(COLUMNS)}
        steps = [step for step, _ in kept for _ in self._of]
        return {"step": steps, "symmetry": [*self._of] * len(kept), **columns}


def invariants(s: Symmetry, params: Values) -> Tensor:
    """`COLUMNS` of the matrices of a family: [5], float64."""
    n = s.order(params)
    rows = [(float(t.weight), t.matrices(params[t.parameter].detach()).double()) for t in s.terms]
    rows = [(w, x.to(rows[0][1].device)) for w, x in rows]
    squares = torch.stack([x.square().sum() for _, x in rows])
    weights = torch.tensor([w for w, _ in rows], dtype=squares.dtype, device=squares.device)
    size, trace = (weights.abs() * squares).sum(), (weights * squares).sum()
    if n <= EIGENVALUES:
        whole = torch.stack([w * (x @ x.mT) for w, x in rows]).sum(0)
        values = torch.linalg.eigvalsh(whole).flatten()
        norm, largest = whole.norm(), values[values.abs().argmax()]
    else:
        u = mixing.directions(n, PROBES).to(size.device)
        moved = torch.stack([w * (x @ (x.mT @ u)) for w, x in rows]).sum(0)
        norm, largest = (moved.square().sum() * n / PROBES).sqrt(), torch.full_like(size, math.nan)
    return torch.stack((size, trace, norm, largest, torch.full_like(size, float(n > EIGENVALUES))))
