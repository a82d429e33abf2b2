"""Systems whose energy and structure are known, with initial states as the papers draw them and exact trajectories.

A system's `energy` and `structure` are modules like those that are learned: they fit `discrete_gradient`, `EnergyModel`
and `rollout`. Shapes: states [B, size] or fields [B, n], [B, n, m]; time and length in the units of the equation.

Sources: Greydanus et al. (NeurIPS 2019) for the mechanical systems, Matsubara et al. (NeurIPS 2020) for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics.energy.model import EnergyModel, gradient
from neuromech.physics.energy.structure import CentralDifference, Damped, Laplacian, Structure, Symplectic

Initial = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class System:
    """du/dt = structure(grad energy); `initial(count, generator)`: states [count, ...] in float64 to start from.

    `dt`, `steps`: how the papers sample it. `shape`: of one state.
    """

    name: str
    shape: tuple[int, ...]
    energy: nn.Module
    structure: Structure
    initial: Initial
    dt: float
    steps: int

    def velocity(self, u: Tensor) -> Tensor:
        """du/dt of states [B, ...]."""
        velocity: Tensor = self.structure(gradient(self.energy, u), u)
        return velocity

    @property
    def model(self) -> EnergyModel:
        """The system in discrete time: its own energy, conserved or dissipated exactly."""
        return EnergyModel(self.energy, self.structure)


class Hamiltonian(nn.Module):
    """An energy given as a function of (q, p), each [..., n]."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, u: Tensor) -> Tensor:
        return self.function(*u.chunk(2, -1))


def mass_spring() -> System:
    """H = q^2 + p^2, energies from 0.2 to 1 (radius sqrt(H)); the exact motion turns by 2t."""
    return System(
        "mass-spring", (2,), Hamiltonian(_spring_energy), Symplectic(), _on_circles(math.sqrt(0.2), 1.0), 20 / 99, 99
    )


def pendulum() -> System:
    """H = 3 (1 - cos q) + p^2, from states of radius 1.3 to 2.3."""
    return System("pendulum", (2,), Hamiltonian(_pendulum_energy), Symplectic(), _on_circles(1.3, 2.3), 20 / 99, 99)


def damped_pendulum(friction: float = 0.1) -> System:
    """The pendulum with dp/dt = ... - friction dH/dp."""
    structure = Damped(2, friction).double().requires_grad_(False)
    return System("damped pendulum", (2,), Hamiltonian(_pendulum_energy), structure, _on_circles(1.3, 2.3), 20 / 99, 99)


def two_body() -> System:
    """Two unit masses in the plane, gravity -1/r: nearly circular orbits; the state is (x1, y1, x2, y2, momenta)."""
    return System("2-body", (8,), Hamiltonian(_gravity(2)), Symplectic(), _orbits(2), 25 / 499, 499)


def three_body() -> System:
    """Three unit masses in the plane around their centre, the circular motion perturbed by a tenth: chaotic."""
    return System("3-body", (12,), Hamiltonian(_gravity(3)), Symplectic(), _orbits(3), 5 / 499, 499)


def kdv(
    n: int = 50,
    length: float = 10.0,
    alpha: float = -6.0,
    beta: float = 1.0,
    wavenumbers: tuple[float, float] = (0.5, 2.0),
) -> System:
    """u_t = -alpha u u_x + beta u_xxx on a periodic grid: H = integral of -alpha u^3/6 - beta u_x^2/2, G = d/dx.

    Two solitons -12/alpha (k / cosh k x)^2, k between the `wavenumbers`, at random places. The motion is the grid's:
    central differences in G and forward ones in H.
    """
    dx = length / n
    low, high = wavenumbers

    def initial(count: int, generator: torch.Generator) -> Tensor:
        x = torch.arange(n, dtype=torch.float64) * dx
        u = torch.zeros(count, n, dtype=torch.float64)
        for _ in range(2):
            k = low + (high - low) * torch.rand(count, 1, generator=generator, dtype=torch.float64)
            at = length * torch.rand(count, 1, generator=generator, dtype=torch.float64)
            distance = (x - at + length / 2).remainder(length) - length / 2
            u += -12 / alpha * (k / torch.cosh(k * distance)) ** 2
        return u

    return System("KdV", (n,), _KdVEnergy(dx, alpha, beta), CentralDifference(dx), initial, 1e-3, 500)


def cahn_hilliard(n: int = 50, length: float = 1.0, gamma: float = 5e-4, ndim: int = 1) -> System:
    """u_t = Laplacian(u^3 - u - gamma Laplacian u), phases that separate: H falls, the total of u is kept.

    H = integral of (u^2 - 1)^2/4 + gamma |grad u|^2/2, on `ndim` axes, from small uniform noise.
    """
    dx = length / n

    def initial(count: int, generator: torch.Generator) -> Tensor:
        return 0.1 * torch.rand(count, *[n] * ndim, generator=generator, dtype=torch.float64) - 0.05

    energy = _CahnHilliardEnergy(dx, gamma, ndim)
    return System(f"Cahn-Hilliard {ndim}-D", (n,) * ndim, energy, Laplacian(dx, ndim), initial, 1e-4, 500)


def wave(n: int = 50, length: float = 1.0, speed: float = 1.0) -> System:
    """q_tt = speed^2 q_xx on a periodic string [q, p = q_t]: H = integral of p^2/2 + speed^2 q_x^2/2; smooth bumps."""
    dx = length / n

    def initial(count: int, generator: torch.Generator) -> Tensor:
        x = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
        waves = torch.arange(1, 5, dtype=torch.float64)
        amplitude = torch.randn(count, 4, 1, generator=generator, dtype=torch.float64) / waves[:, None]
        phase = 2 * math.pi * torch.rand(count, 4, 1, generator=generator, dtype=torch.float64)
        q = (amplitude * torch.cos(waves[:, None] * x + phase)).sum(1)
        return torch.cat([q, torch.zeros_like(q)], -1)

    return System("wave", (2 * n,), _WaveEnergy(dx, speed), Symplectic(dx), initial, length / speed / 100, 100)


SYSTEMS: dict[str, Callable[[], System]] = {
    "mass-spring": mass_spring,
    "pendulum": pendulum,
    "damped-pendulum": damped_pendulum,
    "2-body": two_body,
    "3-body": three_body,
    "kdv": kdv,
    "cahn-hilliard": cahn_hilliard,
    "cahn-hilliard-2d": lambda: cahn_hilliard(ndim=2),
    "wave": wave,
}


def make(name: str) -> System:
    """A system of `SYSTEMS` by name; raises `PhysicsError` for one that is not there."""
    if name not in SYSTEMS:
        raise PhysicsError(f"there is no system {name!r}; there are {', '.join(SYSTEMS)}")
    return SYSTEMS[name]()


# -- energies ---------------------------------------------------------------------------------------------------------


def _spring_energy(q: Tensor, p: Tensor) -> Tensor:
    return (q**2 + p**2).sum(-1)


def _pendulum_energy(q: Tensor, p: Tensor) -> Tensor:
    return (3 * (1 - torch.cos(q)) + p**2).sum(-1)


def _gravity(bodies: int) -> Callable[[Tensor, Tensor], Tensor]:
    first, second = torch.triu_indices(bodies, bodies, 1)

    def energy(q: Tensor, p: Tensor) -> Tensor:
        x = q.reshape(*q.shape[:-1], bodies, 2)
        separation = x.index_select(-2, first) - x.index_select(-2, second)
        return (p**2).sum(-1) / 2 - torch.rsqrt((separation**2).sum(-1)).sum(-1)

    return energy


class _KdVEnergy(nn.Module):
    def __init__(self, dx: float, alpha: float, beta: float) -> None:
        super().__init__()
        self.dx, self.alpha, self.beta = dx, alpha, beta

    def forward(self, u: Tensor) -> Tensor:
        gradient = (u.roll(-1, -1) - u) / self.dx
        return self.dx * (-self.alpha / 6 * u**3 - self.beta / 2 * gradient**2).sum(-1)


class _CahnHilliardEnergy(nn.Module):
    def __init__(self, dx: float, gamma: float, ndim: int) -> None:
        super().__init__()
        self.dx, self.gamma, self.axes = dx, gamma, list(range(-ndim, 0))

    def forward(self, u: Tensor) -> Tensor:
        density = (u**2 - 1) ** 2 / 4
        for axis in self.axes:
            density = density + self.gamma / 2 * ((u.roll(-1, axis) - u) / self.dx) ** 2
        return self.dx ** len(self.axes) * density.sum(self.axes)


class _WaveEnergy(nn.Module):
    def __init__(self, dx: float, speed: float) -> None:
        super().__init__()
        self.dx, self.speed = dx, speed

    def forward(self, u: Tensor) -> Tensor:
        q, p = u.chunk(2, -1)
        slope = (q.roll(-1, -1) - q) / self.dx
        return self.dx * (p**2 / 2 + self.speed**2 / 2 * slope**2).sum(-1)


# -- initial states ---------------------------------------------------------------------------------------------------


def _on_circles(smallest: float, largest: float) -> Initial:
    """(q, p) at random angles, of radius uniform between the two."""

    def initial(count: int, generator: torch.Generator) -> Tensor:
        radius, turn = torch.rand(2, count, generator=generator, dtype=torch.float64)
        radius = smallest + (largest - smallest) * radius
        angle = 2 * math.pi * turn
        return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1)

    return initial


def _orbits(bodies: int) -> Initial:
    """Unit masses on a regular polygon around the origin, their circular speeds perturbed by up to 10 %."""

    def initial(count: int, generator: torch.Generator) -> Tensor:
        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

        radius = uniform(0.5 if bodies == 2 else 0.9, 1.5 if bodies == 2 else 1.2, count, 1)
        angle = uniform(0, 2 * math.pi, count, 1) + 2 * math.pi * torch.arange(bodies) / bodies
        # On a polygon of radius r each of n unit masses is drawn inwards by sum_k 1/(4 r^2 sin(pi k / n)).
        pull = sum(1 / (4 * math.sin(math.pi * k / bodies)) for k in range(1, bodies))
        speed = torch.sqrt(pull / radius) * (1 + 0.1 * uniform(-1, 1, count, bodies))
        q = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1)
        p = torch.stack([-speed * torch.sin(angle), speed * torch.cos(angle)], -1)
        p = p - p.mean(1, keepdim=True)
        return torch.cat([q.flatten(1), p.flatten(1)], -1)

    return initial
