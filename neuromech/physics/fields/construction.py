"""What every construction of a conserved density offers: a density and a flux with d rho/dt + div flux = 0, exactly."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics.fields.domain import FreeSpace, inspecting


class DensityFlux(NamedTuple):
    """Density [B] and flux [B, d] at points of space-time."""

    density: Tensor
    flux: Tensor


class Construction(nn.Module):
    """A module whose `forward(t [B], x [B, d])` is a `DensityFlux` that satisfies the continuity equation.

    `total_mass`: the integral of the density over the domain, the same at all times.
    """

    domain: FreeSpace
    total_mass: float

    def forward(self, t: Tensor, x: Tensor) -> DensityFlux:
        raise NotImplementedError

    def log_density(self, t: Tensor, x: Tensor) -> Tensor:
        """log rho: [B]. Raises `PhysicsError` where the density is not positive."""
        density = self(t, x).density
        if inspecting(density) and not bool((density > 0).all()):
            bad = int((~(density > 0)).sum())
            raise PhysicsError(
                f"the density is not positive at {bad} of {len(density)} points, or too small for {density.dtype}: "
                "MovingMixture has its logarithm everywhere"
            )
        log: Tensor = density.log()
        return log

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """flux / density, [B, d]. Raises `PhysicsError` where the density is not positive."""
        density, flux = self(t, x)
        if inspecting(density) and not bool((density > 0).all()):
            bad, least = int((~(density > 0)).sum()), float(density.detach().min())
            raise PhysicsError(
                f"the density is not positive at {bad} of {len(density)} points (least: {least:.3g}): there is no "
                "velocity there. Use the flux, or a construction that is positive: MovingMixture, BoundedMixture, "
                "Subharmonic"
            )
        velocity: Tensor = flux / density.unsqueeze(-1)
        return velocity


def check_positive(**numbers: float) -> None:
    """Raise `PhysicsError` unless all of them are above 0."""
    if not all(value > 0 for value in numbers.values()):
        found = ", ".join(f"{name}={value!r}" for name, value in numbers.items())
        raise PhysicsError(f"{found}: expected all positive")
