"""Neighbours on grids of cells, around the edge or at walls."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from neuromech.errors import PhysicsError

Boundary = Literal["periodic", "dirichlet", "neumann"]
PADDING: dict[str, Literal["circular", "zeros", "replicate"]] = {
    "periodic": "circular",
    "dirichlet": "zeros",
    "neumann": "replicate",
}  # of convolutions


def check_boundary(boundary: str, among: tuple[str, ...] = get_args(Boundary)) -> None:
    """Raise `PhysicsError` for a boundary that is not one of those."""
    if boundary not in among:
        raise PhysicsError(f"boundary {boundary!r} is not one of {', '.join(among)}")


def neighbours(g: Tensor, axis: int, boundary: Boundary, outside: float = -1.0) -> tuple[Tensor, Tensor]:
    """The cells ahead and behind. At a wall: neumann the cell itself, no slope; dirichlet `outside` times the cell.

    `outside` -1 puts the value 0 on the wall, between two cells; 0 puts it on the centre of the cell beyond.
    """
    if boundary == "periodic":
        return g.roll(-1, axis), g.roll(1, axis)
    n, factor = g.shape[axis], 1.0 if boundary == "neumann" else outside
    first, last = factor * g.narrow(axis, 0, 1), factor * g.narrow(axis, n - 1, 1)
    return torch.cat([g.narrow(axis, 1, n - 1), last], axis), torch.cat([first, g.narrow(axis, 0, n - 1)], axis)
