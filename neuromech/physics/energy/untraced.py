"""Discrete gradients that need no graph of the energy: by its ordinary gradient on the segment between the states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neuromech.physics.energy.secants import gauss_legendre

EnergyFunction = Callable[..., Tensor]


def averaged_gradient(energy: EnergyFunction, u: Tensor, v: Tensor, nodes: int) -> Tensor:
    """The mean of grad H over the segment from v to u, by `nodes` Gauss-Legendre points."""
    middle, half = (u + v) / 2, (u - v) / 2
    gradient = torch.func.grad(lambda w: energy(w).sum())
    total = torch.zeros_like(u)
    for x, weight in gauss_legendre(nodes):
        total = total + weight * gradient(middle + x * half)
    return total


def corrected_midpoint_gradient(energy: EnergyFunction, u: Tensor, v: Tensor) -> Tensor:
    """g + (H(u) - H(v) - <g, d>) d / |d|^2 with g = grad H at the midpoint and d = u - v (Gonzalez 1996, eq. 2.7)."""
    d = u - v
    g = torch.func.grad(lambda w: energy(w).sum())((u + v) / 2)
    change = energy(u) - energy(v)
    axes = list(range(change.ndim, d.ndim))

    def inner(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(axes, keepdim=True) if axes else x * y

    square = inner(d, d)
    zero = square == 0
    defect = change.reshape(square.shape) - inner(g, d)
    secant: Tensor = g + torch.where(zero, 0.0, defect / torch.where(zero, 1.0, square)) * d
    return secant
