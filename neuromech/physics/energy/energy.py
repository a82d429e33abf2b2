"""Energies: modules from states to one number a sample. Any nn.Module that does so is one; these are the usual.

Shapes: a state [...] or a batch [B, ...]; the energy is () or [B]. Fields live on periodic grids with spacing `dx`, and
their energy is an integral: a density summed with the cell's volume.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics.energy.grids import PADDING, Boundary, check_boundary

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
}


def _activation(name: str) -> Callable[[], nn.Module]:
    if name not in _ACTIVATIONS:
        raise PhysicsError(f"activation {name!r} is not one of {', '.join(_ACTIVATIONS)}; pass a module of your own")
    return _ACTIVATIONS[name]


def _orthogonal(module: nn.Module) -> None:
    for m in module.modules():
        if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.orthogonal_(m.weight)


def mlp(inputs: int, outputs: int, hidden: int = 200, depth: int = 2, activation: str = "tanh") -> nn.Sequential:
    """`depth` hidden layers, orthogonal initial weights as in Matsubara et al. (2020)."""
    act = _activation(activation)
    widths = [inputs, *[hidden] * depth]
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), act())]
    network = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
    _orthogonal(network)
    return network


def convnet(
    ndim: int,
    hidden: int = 200,
    kernel: int = 3,
    depth: int = 2,
    activation: str = "tanh",
    channels: tuple[int, int] = (1, 1),
    boundary: Boundary = "periodic",
) -> nn.Sequential:
    """Of channels on a grid: one layer that sees `kernel` cells an axis, the rest cell by cell."""
    check_boundary(boundary)
    if ndim not in (1, 2) or kernel % 2 == 0:
        raise PhysicsError(f"fields have 1 or 2 axes and kernels an odd size; found {ndim} axes and kernel {kernel}")
    act = _activation(activation)
    conv = nn.Conv1d if ndim == 1 else nn.Conv2d
    many, few = channels
    first = conv(many, hidden, kernel, padding=kernel // 2, padding_mode=PADDING[boundary] if kernel > 1 else "zeros")
    layers = [first, act(), *[layer for _ in range(depth - 1) for layer in (conv(hidden, hidden, 1), act())]]
    network = nn.Sequential(*layers, conv(hidden, few, 1))
    _orthogonal(network)
    return network


class MLPEnergy(nn.Module):
    """A multilayer perceptron of a state [n] or [B, n]."""

    def __init__(self, size: int, hidden: int = 200, depth: int = 2, activation: str = "tanh") -> None:
        super().__init__()
        self.network = mlp(size, 1, hidden, depth, activation)

    def forward(self, u: Tensor) -> Tensor:
        out: Tensor = self.network(u)
        return out.squeeze(-1)


class ConvEnergy(nn.Module):
    """The integral of a learned density of a field [n] or [B, n] (`ndim` 1), [n, m] or [B, n, m] (2).

    The density at a cell sees `kernel` cells an axis; the integral is the sum times dx^ndim. `channels`: of more than
    one field, [c, n] or [B, c, n]. `boundary`: what is seen beyond walls: zeros (dirichlet) or the last cell (neumann).
    """

    def __init__(
        self,
        ndim: int = 1,
        dx: float = 1.0,
        hidden: int = 200,
        kernel: int = 3,
        depth: int = 2,
        activation: str = "tanh",
        channels: int = 1,
        boundary: Boundary = "periodic",
    ) -> None:
        super().__init__()
        self.ndim, self.volume, self.channels = ndim, dx**ndim, channels
        self.network = convnet(ndim, hidden, kernel, depth, activation, (channels, 1), boundary)

    def forward(self, u: Tensor) -> Tensor:
        u = u if self.channels > 1 else u.unsqueeze(-1 - self.ndim)
        batched = u.ndim > 1 + self.ndim
        density = self.network(u if batched else u[None])
        energy: Tensor = self.volume * density.sum(list(range(1, density.ndim)))
        return energy if batched else energy.squeeze(0)


class SeparableEnergy(nn.Module):
    """V(q) + T(p) of the state (q, p) [2n] or [B, 2n]: what leapfrog steps need to be symplectic."""

    def __init__(self, potential: nn.Module, kinetic: nn.Module) -> None:
        super().__init__()
        self.potential, self.kinetic = potential, kinetic

    def forward(self, u: Tensor) -> Tensor:
        q, p = u.chunk(2, -1)
        energy: Tensor = self.potential(q) + self.kinetic(p)
        return energy


class EnergySum(nn.Module):
    """The sum of energies of the same state, as a learned correction to a known law."""

    def __init__(self, *energies: nn.Module) -> None:
        super().__init__()
        self.energies = nn.ModuleList(energies)

    def forward(self, u: Tensor) -> Tensor:
        return torch.stack([energy(u) for energy in self.energies]).sum(0)
