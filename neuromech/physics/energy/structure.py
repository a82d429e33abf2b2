"""Structure matrices: the G of du/dt = G(u) grad H(u), which decides by its form what becomes of the energy.

    skew                      dH/dt = <grad H, G grad H>  = 0
    negative semi-definite                               <= 0
    zero column sums          the total of the state never changes

Each structure has its form for every value of its parameters. Fields: the energy is an integral, so grad H is the
variational derivative times the volume of a cell, and the structures of fields divide by that volume.

Shapes: a gradient g [..., n] (or a field [..., n], [..., n, m]) to G(u) g of the same shape; u is the state at which G
is taken, the midpoint of a step.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuromech.errors import PhysicsError
from neuromech.physics.energy.grids import Boundary, check_boundary, neighbours

EnergyLaw = Literal["conserves", "dissipates", "open"]


class Structure(nn.Module):
    """G(u) g. `law` says what the form of G makes of the energy; `open`: it exchanges energy with its inputs."""

    law: EnergyLaw = "conserves"
    size: int | None = None  # of the last axis of a state, where it must be one
    ndim: int = 1  # axes of a state
    inputs: int = 0  # ports

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def check(self, u: Tensor, inputs: Tensor | None = None) -> None:
        """Raise `PhysicsError` unless G acts on states such as `u` [B, ...] with these inputs [B, k]."""
        name = type(self).__name__
        if u.ndim <= self.ndim or (self.size is not None and u.shape[-1] != self.size):
            wanted = ["B", *["n"] * (self.ndim - 1), "n" if self.size is None else str(self.size)]
            raise PhysicsError(
                f"{name} acts on states [{', '.join(wanted)}], not on states of shape {tuple(u.shape)}: make it for "
                "them, and give every batch its first axis"
            )
        if inputs is None and self.inputs:
            raise PhysicsError(
                f"{name} has {self.inputs} ports and no inputs were given: pass inputs=, shape "
                f"{(u.shape[0], self.inputs)}; zeros, if nothing acts"
            )
        if inputs is not None and inputs.shape != (u.shape[0], self.inputs):
            ports = f"{self.inputs} a sample, shape {(u.shape[0], self.inputs)}" if self.inputs else "none"
            raise PhysicsError(f"inputs of shape {tuple(inputs.shape)} were given; {name} takes {ports}")
        if inputs is not None and (inputs.dtype, inputs.device) != (u.dtype, u.device):
            raise PhysicsError(
                f"the inputs are {inputs.dtype} on {inputs.device}, the states {u.dtype} on {u.device}: move them"
            )

    def matrix(self, u: Tensor) -> Tensor:
        """G(u) at one state u [...], as a dense matrix over its n entries: [n, n]."""
        basis = torch.eye(u.numel(), dtype=u.dtype, device=u.device).reshape(-1, *u.shape)
        columns: Tensor = self(basis, u.expand(basis.shape))
        return columns.reshape(u.numel(), u.numel()).T


class Symplectic(Structure):
    """[[0, I], [-I, 0]] on the state (q, p); `volume`: of a cell, where q and p are fields (dx for a string).

    `dim`: the axis that q and p are the halves of; 1 for fields [B, 2c, n] whose channels they are.
    """

    def __init__(self, volume: float = 1.0, dim: int = -1) -> None:
        super().__init__()
        self.volume, self.dim = _spacing(volume), dim

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        if g.shape[self.dim] % 2:
            raise PhysicsError(f"a state (q, p) has an even number of entries, not {g.shape[self.dim]}")
        q, p = (g if self.volume == 1 else g / self.volume).chunk(2, self.dim)
        return torch.cat([p, -q], self.dim)


class Damped(Structure):
    """S - diag(0, r) on the state (q, p): Hamilton's equations with friction r [n/2], learned and never negative."""

    law: EnergyLaw = "dissipates"

    def __init__(self, size: int, friction: float = 0.1) -> None:
        super().__init__()
        if size % 2 or not friction > 0:
            raise PhysicsError(f"friction starts positive, and the state is even; found {friction} and size {size}")
        self.size = size
        start = torch.full((size // 2,), float(friction))
        self.log_friction = nn.Parameter(torch.log(torch.expm1(start)))

    @property
    def friction(self) -> Tensor:
        return F.softplus(self.log_friction)

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        q, p = g.chunk(2, -1)
        return torch.cat([p, -q - self.friction * p], -1)


class CentralDifference(Structure):
    """d/dx on a grid [..., n] by central differences: skew (the first structure of KdV).

    `boundary`: periodic, with zero sums; or dirichlet, where g vanishes beyond the walls. With zero slope at a wall no
    difference is skew.
    """

    def __init__(self, dx: float, boundary: Literal["periodic", "dirichlet"] = "periodic") -> None:
        super().__init__()
        check_boundary(boundary, ("periodic", "dirichlet"))
        self.dx, self.boundary = _spacing(dx), boundary

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        ahead, behind = neighbours(g / self.dx, -1, self.boundary, outside=0.0)
        return (ahead - behind) / (2 * self.dx)


class Laplacian(Structure):
    """The Laplacian on a grid with `ndim` axes, the last ones: negative semi-definite (Cahn-Hilliard, heat).

    `boundary`: periodic; neumann, walls that nothing flows through; dirichlet, walls where g is 0. The first two have
    zero sums. Several fields are channels before the axes, [B, c, n], each by itself.
    """

    law: EnergyLaw = "dissipates"

    def __init__(self, dx: float, ndim: int = 1, boundary: Boundary = "periodic") -> None:
        super().__init__()
        check_boundary(boundary)
        self.dx, self.ndim, self.boundary = _spacing(dx), ndim, boundary

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        potential = g / self.dx**self.ndim
        total = -2 * self.ndim * potential
        for axis in range(-self.ndim, 0):
            ahead, behind = neighbours(potential, axis, self.boundary)
            total = total + ahead + behind
        return total / self.dx**2


class GivenMatrix(Structure):
    """A fixed G [n, n] on states [..., n]. Raises `PhysicsError` unless it is skew or negative semi-definite."""

    matrix_: Tensor

    def __init__(self, matrix: Tensor, law: Literal["conserves", "dissipates"] = "conserves") -> None:
        super().__init__()
        if law not in ("conserves", "dissipates"):
            raise PhysicsError(f"a given matrix conserves or dissipates; {law!r} is neither")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise PhysicsError(f"a structure is a square matrix, not of shape {tuple(matrix.shape)}")
        symmetric = (matrix + matrix.T) / 2
        slack = 1e2 * torch.finfo(matrix.dtype).eps * float(matrix.abs().max())
        largest = float(torch.linalg.eigvalsh(symmetric)[-1]) if law == "dissipates" else float(symmetric.abs().max())
        if not largest <= slack:
            found = f"an eigenvalue {largest:.3g} > 0" if law == "dissipates" else f"an entry {largest:.3g}"
            wanted = "none is positive, so energy would grow" if law == "dissipates" else "it is 0 for a skew matrix"
            raise PhysicsError(
                f"the symmetric part of G has {found}; where energy {law}, {wanted}. Take G - G^T, -L L^T or their sum"
            )
        self.law, self.size = law, len(matrix)
        self.register_buffer("matrix_", matrix)

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        return g @ self.matrix_.T


class LearnedMatrix(Structure):
    """(A - A^T) - L L^T on states [..., n], A and L learned; without L it conserves, with it dissipates.

    `keep_total`: the columns (and rows) sum to zero, so that the sum of the state is kept too.
    """

    def __init__(self, size: int, dissipative: bool = False, skew: bool = True, keep_total: bool = False) -> None:
        super().__init__()
        if not (skew or dissipative):
            raise PhysicsError("a learned structure is skew, dissipative or both; neither leaves nothing to learn")
        self.law = "dissipates" if dissipative else "conserves"
        self.size, self.keep_total = size, keep_total
        scale = size**-0.5
        self.skew = nn.Parameter(scale * torch.randn(size, size)) if skew else None
        self.root = nn.Parameter(scale * torch.randn(size, size)) if dissipative else None

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        return _centred(_skew_minus_square(_centred(g, self.keep_total), self.skew, self.root), self.keep_total)


class StateDependent(Structure):
    """`LearnedMatrix` with A(u) and L(u) from a network of the state [..., n] to [..., n^2] (or twice that)."""

    def __init__(
        self, network: nn.Module, dissipative: bool = False, skew: bool = True, keep_total: bool = False
    ) -> None:
        super().__init__()
        self.law = "dissipates" if dissipative else "conserves"
        self.network, self.parts, self.keep_total = network, (skew, dissipative), keep_total

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        n, count = g.shape[-1], sum(self.parts)
        entries: Tensor = self.network(u)
        if entries.shape[-1] != count * n * n:
            raise PhysicsError(
                f"the network of the structure gives {entries.shape[-1]} numbers a state; {count} of {n} x {n} "
                f"need {count * n * n}"
            )
        matrices = list(entries.reshape(*entries.shape[:-1], count, n, n).unbind(-3))
        skew = matrices.pop(0) if self.parts[0] else None
        root = matrices.pop(0) if self.parts[1] else None
        return _centred(_skew_minus_square(_centred(g, self.keep_total), skew, root), self.keep_total)


class LearnedStencil(Structure):
    """Convolution with a learned kernel on a periodic grid with `ndim` axes: symmetric, sum zero, never raising energy.

        G g(x) = sum_s w_s (g(x + s) + g(x - s) - 2 g(x)),    w_s >= 0

    over half of the offsets s within `radius`: a graph Laplacian, whose symbol -4 w_s sin^2(k s / 2) is never positive.
    `rotation`: offsets that a quarter turn or a reflection maps onto one another share their w. `skew` takes
    w_s (g(x + s) - g(x - s)) instead, w of any sign, which conserves (with `rotation`, only 1-D has such a kernel).
    """

    orbit: Tensor

    def __init__(
        self, ndim: int = 1, radius: int = 1, dx: float = 1.0, rotation: bool = True, skew: bool = False
    ) -> None:
        super().__init__()
        if ndim > 1 and skew and rotation:
            raise PhysicsError("no skew kernel is unchanged by quarter turns; pass rotation=False")
        offsets = [s for s in itertools.product(range(-radius, radius + 1), repeat=ndim) if s > (0,) * ndim]
        orbits = [tuple(sorted(map(abs, s))) if rotation else s for s in offsets]
        names = list(dict.fromkeys(orbits))
        self.law = "conserves" if skew else "dissipates"
        self.ndim, self.dx, self.skew, self.offsets = ndim, _spacing(dx), skew, offsets
        self.register_buffer("orbit", torch.tensor([names.index(o) for o in orbits]))
        self.weight = nn.Parameter(torch.randn(len(names)) if skew else torch.zeros(len(names)))

    @property
    def weights(self) -> Tensor:
        """w_s of every offset, in the order of `offsets`."""
        return (self.weight if self.skew else F.softplus(self.weight))[self.orbit]

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        g = g / self.dx**self.ndim
        axes = list(range(-self.ndim, 0))
        total = torch.zeros_like(g)
        for w, s in zip(self.weights, self.offsets, strict=True):
            ahead, behind = g.roll([-k for k in s], axes), g.roll(list(s), axes)
            total = total + w * (ahead - behind if self.skew else ahead + behind - 2 * g)
        return total / (2 * self.dx if self.skew else self.dx**2)

    def kernel(self) -> Tensor:
        """The kernel over the offsets -radius .. radius of each axis, in units of 1/dx^2 (skew: 1/(2 dx))."""
        radius = max(max(s) for s in self.offsets)
        weights = self.weights.detach()
        kernel = torch.zeros([2 * radius + 1] * self.ndim, dtype=weights.dtype, device=weights.device)
        for w, s in zip(weights, self.offsets, strict=True):
            kernel[tuple(radius + k for k in s)] = w
            kernel[tuple(radius - k for k in s)] = -w if self.skew else w
        if not self.skew:
            kernel[(radius,) * self.ndim] = -2 * weights.sum()
        return kernel


class PortHamiltonian(Structure):
    """G(u) g + B f: a structure with ports through which the inputs f [..., k] act, B [n, k] learned.

    The energy changes by what the structure dissipates and by the power <B^T grad H, f> that enters.
    """

    law: EnergyLaw = "open"

    def __init__(self, structure: Structure, size: int, inputs: int) -> None:
        super().__init__()
        self.structure, self.size, self.ndim, self.inputs = structure, size, structure.ndim, inputs
        self.port = nn.Linear(inputs, size, bias=False)

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        flow: Tensor = self.structure(g, u)
        return flow if inputs is None else flow + self.port(inputs)


def _spacing(dx: float) -> float:
    if not 0 < dx < float("inf"):
        raise PhysicsError(f"the grid's spacing dx is {dx}; it is positive")
    return float(dx)


def _centred(g: Tensor, on: bool) -> Tensor:
    return g - g.mean(-1, keepdim=True) if on else g


def _skew_minus_square(g: Tensor, skew: Tensor | None, root: Tensor | None) -> Tensor:
    """(A - A^T) g - L L^T g for g [..., n], as products of matrices with vectors."""

    def times(matrix: Tensor, x: Tensor) -> Tensor:
        return (matrix @ x.unsqueeze(-1)).squeeze(-1)

    if root is None:
        assert skew is not None
        return times(skew - skew.mT, g)
    dissipated = times(root, times(root.mT, g))
    return -dissipated if skew is None else times(skew - skew.mT, g) - dissipated
