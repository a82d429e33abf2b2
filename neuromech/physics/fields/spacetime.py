"""Density and flux as one divergence-free field of space-time, with walls, mass and start built in.

    (rho, flux) = base(t, x) + sum_j d_j (gate_ij A_ij)        over the coordinates (t, x_1, ..., x_d)

The base satisfies the continuity equation and carries the mass, the start and the mean flow; the rest is
divergence-free whatever the gates are. Gates that vanish on the walls make them impermeable and fix the mass; gates
that vanish at t = 0 make the initial condition exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics.fields.construction import Construction, DensityFlux
from neuromech.physics.fields.divergence_free import DivergenceFree
from neuromech.physics.fields.domain import FreeSpace, Torus, check_domain, check_periodic, inspecting
from neuromech.physics.fields.elementary import TensorMap
from neuromech.physics.fields.taylor import jacobian


class SpaceTimeField(Construction):
    """The matrix form in n = 1 + d dimensions, over a torus, a box or a ball.

    `potential`: [B, 1 + d] -> [B, d(d+1)/2], smooth; on a torus it must have the torus's period (see `mlp(periods=)`).
    `mass`: of the uniform density that it starts around, if there is no `density`.
    `density`, `flux`: initial condition, functions [B, d] -> [B] and [B, d] -> [B, d], held exactly at t = 0; a flux
        must not cross the walls. `total_mass` is then nan: measure it, `law.mass`.
    `duration`: the time scale of the gates.
    The density is not kept positive: use `MovingMixture` or `Subharmonic` for that.
    """

    def __init__(
        self,
        potential: nn.Module,
        domain: FreeSpace,
        mass: float = 1.0,
        density: TensorMap | None = None,
        flux: TensorMap | None = None,
        duration: float = 1.0,
    ) -> None:
        super().__init__()
        check_domain(domain)
        if type(domain) is FreeSpace:
            raise PhysicsError(
                "in free space a potential conserves mass only locally (it can bring some in from infinity): use "
                "MovingMixture or Subharmonic there, or a Torus, Box or Ball"
            )
        if flux is not None and density is None:
            raise PhysicsError("an initial flux needs the initial density that it moves: pass density= too")
        if not duration > 0:
            raise PhysicsError(f"duration={duration}: expected a positive time")
        self.field = DivergenceFree(potential, domain.d + 1)
        self.domain, self.duration = domain, duration
        self._checked = False
        self.total_mass = mass if density is None else float("nan")
        self._density, self._flux = density, flux
        drifts = isinstance(domain, Torus) and flux is None
        self.drift = nn.Parameter(torch.zeros(domain.d)) if drifts else None

    def forward(self, t: Tensor, x: Tensor) -> DensityFlux:
        if not self._checked and inspecting(x):
            check_periodic(self.field.potential, self.domain, x, t.unsqueeze(-1))
            self._check_start(x)
            self._checked = True
        density, flux = self._base(t, x)
        value, derivative = self.field.derivatives(torch.cat([t.unsqueeze(-1), x], -1))
        gate, slope = self._gate(t, x)
        v = (gate * derivative + slope * value).sum(-1)
        return DensityFlux(density + v[:, 0], flux + v[:, 1:])

    def _check_start(self, x: Tensor) -> None:
        """Raise `PhysicsError` if the start has wrong shapes, or a flux that crosses the walls."""
        for name, f, shape in (("density", self._density, (len(x),)), ("flux", self._flux, tuple(x.shape))):
            if f is not None and (found := tuple(f(x).shape)) != shape:
                raise PhysicsError(f"the initial {name} maps points {tuple(x.shape)} to {found}, expected {shape}")
        if self._flux is None or not self.domain.walls:
            return
        edge = self.domain.to_wall(x.detach())
        steep = self.domain.wall(edge)[1]
        flux = self._flux(edge).detach()
        crossing = (flux * steep).sum(-1).abs() / steep.norm(dim=-1).clamp_min(torch.finfo(x.dtype).tiny)
        crossing = torch.where(steep.norm(dim=-1) > 0, crossing, 0.0)  # an edge of a box has no normal
        if bool((crossing > 1e3 * torch.finfo(x.dtype).eps * (1 + flux.norm(dim=-1))).any()):
            raise PhysicsError(
                f"the initial flux crosses the wall of {self.domain}, by up to {float(crossing.max()):.2g}: the mass "
                "would not be constant. Make its component along the normal vanish there"
            )

    def _base(self, t: Tensor, x: Tensor) -> DensityFlux:
        if self._density is None:
            density, flux = torch.full_like(t, self.total_mass / self.domain.volume), torch.zeros_like(x)
        elif self._flux is None:
            density, flux = self._density(x), torch.zeros_like(x)
        else:
            flux = self._flux(x)
            density = self._density(x) - t * divergence(self._flux, x)
        return DensityFlux(density, flux if self.drift is None else flux + self.drift)

    def _gate(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """gate_ij and d_j gate_ij: [B, 1+d, 1+d], symmetric; the row and column of time have their own power of t."""
        n, pinned = 1 + self.domain.d, (self._density is not None) + (self._flux is not None)
        time = torch.zeros(n, n, dtype=torch.bool, device=x.device)
        time[0, :] = time[:, 0] = True
        wall, steep = self.domain.gates(x, before=1)
        s = t / self.duration

        def power(k: int) -> tuple[Tensor, Tensor]:
            return s**k, (k * s ** (k - 1) if k else torch.zeros_like(s)) / self.duration

        (a, da), (b, _) = power(pinned), power(max(pinned - 1, 0))
        of_time = torch.where(time, a[:, None, None], b[:, None, None])
        gate = of_time * wall
        by_space = of_time[..., 1:] * steep[..., 1:]
        by_time = da[:, None, None] * wall[..., :1]  # only entries (i, 0) are derived by time
        return gate, torch.cat([by_time, by_space], -1)


def divergence(f: TensorMap, x: Tensor) -> Tensor:
    """div f at points [B, d], of a function of each point by itself: [B]."""
    return jacobian(f, x).diagonal(dim1=1, dim2=2).sum(-1)
