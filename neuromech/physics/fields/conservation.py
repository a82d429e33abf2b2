"""`NeuralConservationLaw`: a density and a flux that satisfy the continuity equation, whatever the parameters are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from neuromech.errors import PhysicsError
from neuromech.physics.fields.construction import Construction, DensityFlux
from neuromech.physics.fields.domain import FreeSpace, check_dtype, check_inside, check_points, inspecting
from neuromech.physics.fields.mixture import MovingMixture
from neuromech.physics.fields.spacetime import SpaceTimeField


class Paths(NamedTuple):
    """Particles followed through the flow: times [T], positions [T, B, d], density [T, B], velocity [T, B, d]."""

    times: Tensor
    positions: Tensor
    density: Tensor
    velocity: Tensor


class NeuralConservationLaw(nn.Module):
    """d rho/dt + div flux = 0 by construction (Richter-Powell, Lipman, Chen, NeurIPS 2022).

    `source`: a construction that is positive (`MovingMixture`, `Subharmonic` in free space, `BoundedMixture` on a
        torus or in a box), or any potential [B, 1 + d] -> [B, d(d+1)/2], made a `SpaceTimeField` over `domain` with
        `mass`, `density`, `flux` and `duration`: see there.
    Called with times t (a number, or [B]) and points x [B, d] it returns `DensityFlux(density [B], flux [B, d])`.

    Raises `PhysicsError` for wrong shapes, points outside the domain, and velocities where the density is not positive.
    """

    def __init__(
        self,
        source: nn.Module,
        domain: FreeSpace | None = None,
        mass: float = 1.0,
        density: Callable[[Tensor], Tensor] | None = None,
        flux: Callable[[Tensor], Tensor] | None = None,
        duration: float = 1.0,
    ) -> None:
        super().__init__()
        if isinstance(source, Construction):
            if domain not in (None, source.domain) or density is not None or flux is not None:
                raise PhysicsError(
                    f"{type(source).__name__} has its own domain ({source.domain}) and start: pass it alone"
                )
        elif domain is None:
            raise PhysicsError("a potential needs a domain to live on: pass domain=Torus(d), Box(d) or Ball(d)")
        else:
            source = SpaceTimeField(source, domain, mass, density, flux, duration)
        self.source: Construction = source

    @property
    def domain(self) -> FreeSpace:
        return self.source.domain

    @property
    def total_mass(self) -> float:
        """The integral of the density, at all times; nan if it is that of a given initial density."""
        return self.source.total_mass

    def forward(self, t: float | Tensor, x: Tensor) -> DensityFlux:
        found: DensityFlux = self.source(*self._points(t, x))
        return found

    def density(self, t: float | Tensor, x: Tensor) -> Tensor:
        """rho: [B]."""
        density: Tensor = self(t, x).density
        return density

    def log_density(self, t: float | Tensor, x: Tensor) -> Tensor:
        """log rho: [B]. Of a `MovingMixture` it is finite, and has a gradient, however far x is."""
        return self.source.log_density(*self._points(t, x))

    def sample(self, t: float | Tensor, count: int | None = None) -> Tensor:
        """`count` points of the density at the time t, or one at each of the times t [B]: [B, d]; of a `MovingMixture`.

        Differentiable in the motion.
        """
        if not isinstance(self.source, MovingMixture):
            raise PhysicsError(f"points are drawn from a MovingMixture; {type(self.source).__name__} has no way to")
        times = torch.as_tensor(t, dtype=self.source.means.dtype, device=self.source.means.device)
        if (times.ndim == 0) != (count is not None) or times.ndim > 1 or (count is not None and count < 1):
            raise PhysicsError(
                f"times of shape {tuple(times.shape)} and {count=}: expected one time and a count, or [B]"
            )
        return self.source.sample(times if count is None else times.expand(count))

    def flux(self, t: float | Tensor, x: Tensor) -> Tensor:
        """rho u: [B, d]."""
        flux: Tensor = self(t, x).flux
        return flux

    def velocity(self, t: float | Tensor, x: Tensor) -> Tensor:
        """u = flux / rho: [B, d]."""
        return self.source.velocity(*self._points(t, x))

    def residual(self, t: float | Tensor, x: Tensor) -> Tensor:
        """d rho/dt + div flux by autodiff, over the root mean square of its terms: [B]. Rounding, if all is well."""
        t, x = self._points(t, x)

        def pair(y: Tensor) -> Tensor:
            density, flux = self.source(y[:1], y[1:].unsqueeze(0))
            return torch.cat([density, flux[0]])

        terms = vmap(jacrev(pair))(torch.cat([t.unsqueeze(-1), x], -1)).diagonal(dim1=1, dim2=2)
        size = terms.detach().abs().sum(-1).square().mean().sqrt()
        share: Tensor = terms.sum(-1) / size.clamp_min(torch.finfo(x.dtype).tiny)
        return share

    def mass(self, t: float | Tensor, count: int = 100_000) -> Tensor:
        """The integral of the density at time t over a bounded domain, by drawing `count` uniform points."""
        like = next(self.parameters())
        x = self.domain.sample(count, dtype=like.dtype, device=like.device)
        return self.density(t, x).mean() * self.domain.volume

    def paths(self, x: Tensor, times: Sequence[float] | Tensor, substeps: int = 8) -> Paths:
        """Particles that start at x [B, d] at the first of `times` [T], moved by u with classical Runge-Kutta steps.

        The error falls as substeps^-4. Particles do not cross impermeable walls except by the error of a step: they are
        checked, and a `PhysicsError` asks for more substeps.
        """
        ts = torch.as_tensor(times, dtype=x.dtype, device=x.device)
        if ts.ndim != 1 or len(ts) < 2 or substeps < 1:
            raise PhysicsError(
                f"times have shape {list(ts.shape)}, substeps={substeps}: expected [T] with T >= 2, and 1 or more"
            )
        check_points(x, self.domain.d, "paths")
        check_inside(self.domain, x, "paths")
        places = [x]
        for a, b in pairwise(ts):
            dt = (b - a) / substeps
            for k in range(substeps):
                x = _runge_kutta(lambda t, y: self.source.velocity(t.expand(len(y)), y), a + k * dt, x, dt)
            check_inside(self.domain, x, f"paths, at time {float(b):.3g} with {substeps} substeps (try more)")
            places.append(x)
        states = [self(t, y) for t, y in zip(ts, places, strict=True)]
        velocity = torch.stack([self.velocity(t, y) for t, y in zip(ts, places, strict=True)])
        return Paths(ts, torch.stack(places), torch.stack([s.density for s in states]), velocity)

    def _points(self, t: float | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        check_points(x, self.domain.d, "NeuralConservationLaw")
        if not isinstance(t, Tensor | float | int):
            raise PhysicsError(f"t={t!r}: expected a number or a tensor of times")
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        if t.ndim == 2 and t.shape == (len(x), 1):
            t = t.squeeze(1)
        if t.shape not in ((), (1,), (len(x),)):
            raise PhysicsError(f"times have shape {list(t.shape)}: expected one number, or [{len(x)}], one a point")
        check_inside(self.domain, x, "NeuralConservationLaw")
        check_dtype(self, x, "NeuralConservationLaw")
        if inspecting(t) and not bool(torch.isfinite(t).all()):
            raise PhysicsError("a time is not finite")
        return t.expand(len(x)), x


def _runge_kutta(f: Callable[[Tensor, Tensor], Tensor], t: Tensor, x: Tensor, dt: Tensor) -> Tensor:
    k1 = f(t, x)
    k2 = f(t + dt / 2, x + dt / 2 * k1)
    k3 = f(t + dt / 2, x + dt / 2 * k2)
    k4 = f(t + dt, x + dt * k3)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
