"""Holonomic constraints c(q) = 0: pendula by their positions, molecules with rigid bonds, robots with closed chains.

    dq/dt = H_p,   dp/dt = -H_q - c_q^T l,   c(q) = 0

A step with multipliers l [B, k] that keeps c and the energy exactly (Gonzalez 1999): with Dc the discrete gradient of
each constraint, <Dc, q1 - q0> = c(q1) - c(q0) = 0, so the forces of constraint do no work,

    (q1 - q0)/dt = DH_p,   (p1 - p0)/dt = -DH_q - Dc^T l,   c(q1) = 0
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuromech.errors import ConvergenceError, PhysicsError
from neuromech.physics.energy.discrete import DiscreteGradient
from neuromech.physics.energy.prediction import Rollout

Constraint = Callable[[Tensor], Tensor]


class Constrained(nn.Module):
    """A Hamiltonian of states (q, p) [B, 2n] under constraints of positions, [B, n] to [B, k]; p is the momentum.

    The energy is a module of states [B, 2n] to [B]. `velocity` and training are those of the states that obey the
    constraints: (u1 - u0)/dt is compared along them, so multipliers need not be known.
    """

    def __init__(self, energy: nn.Module, constraint: Constraint, count: int, iterations: int = 30) -> None:
        super().__init__()
        if count < 1:
            raise PhysicsError(f"there are {count} constraints; expected 1 or more, else use EnergyModel")
        self.energy, self.constraint, self.count, self.iterations = energy, constraint, count, iterations
        self._of_energy = DiscreteGradient(energy)
        self._entries = [_Entry(constraint, k) for k in range(count)]
        self._of_entries = [DiscreteGradient(entry) for entry in self._entries]

    @property
    def of_energy(self) -> DiscreteGradient:
        """The discrete gradient of `energy`, whatever it is by now."""
        return self._of_energy.following(self.energy)

    @property
    def of_constraints(self) -> list[DiscreteGradient]:
        """Those of the entries of `constraint`."""
        if any(entry.constraint is not self.constraint for entry in self._entries):
            self._entries = [_Entry(self.constraint, k) for k in range(self.count)]
        return [dc.following(entry) for dc, entry in zip(self._of_entries, self._entries, strict=True)]

    def forces(self, q0: Tensor, q1: Tensor) -> Tensor:
        """Dc, the discrete gradients of the constraints: [B, k, n]."""
        return torch.stack([dc.unchecked(q1, q0) for dc in self.of_constraints], 1)

    def forward(self, u0: Tensor, u1: Tensor) -> Tensor:
        """The velocity between two states, with the multipliers that explain (u1 - u0) best: [B, 2n]."""
        self._guard(u0)
        dh_q, dh_p = self.of_energy.guarded(u1, u0).chunk(2, -1)
        dc = self.forces(u0.chunk(2, -1)[0], u1.chunk(2, -1)[0])
        return torch.cat([dh_p, _off(dc, -dh_q)], -1)

    def rollout(self, u0: Tensor, dt: float, steps: int) -> Rollout:
        """States [steps + 1, B, 2n] from states that obey the constraints; energy and constraints are kept."""
        self._guard(u0)
        for dg, x in ((self.of_energy, u0), *((dc, u0.chunk(2, -1)[0]) for dc in self.of_constraints)):
            dg.look(x)
        c = self.constraint(u0.chunk(2, -1)[0])
        if c.shape != (len(u0), self.count):
            raise PhysicsError(
                f"the constraints of {len(u0)} states have shape {tuple(c.shape)}, not [B, {self.count}]"
            )
        if not float(c.abs().max()) <= 1e-6 * (1 + float(u0.abs().max())):
            raise PhysicsError(f"the states to start from break the constraints by {float(c.abs().max()):.2g}")
        states = [u0]
        multipliers = u0.new_zeros(len(u0), self.count)
        with torch.no_grad():
            for k in range(steps):
                try:
                    u, multipliers = self._step(states[-1], dt, multipliers)
                except ConvergenceError as error:
                    error.states = torch.stack(states)
                    error.add_note(f"in step {k + 1} of {steps}; the states before it are in the error's `states`")
                    raise
                states.append(u)
        return Rollout(dt * torch.arange(steps + 1, dtype=u0.dtype, device=u0.device), torch.stack(states))

    def _step(self, u0: Tensor, dt: float, multipliers: Tensor) -> tuple[Tensor, Tensor]:
        """Newton's method for u1 and l together, of every sample."""
        n2, eps = u0.shape[1], torch.finfo(u0.dtype).eps

        def residual(z: Tensor, u0: Tensor) -> Tensor:
            u1, multipliers = z[:, :n2], z[:, n2:]
            q0, q1 = u0[:, : n2 // 2], u1[:, : n2 // 2]
            dh_q, dh_p = self.of_energy.unchecked(u1, u0).chunk(2, -1)
            force = (self.forces(q0, q1).mT @ multipliers.unsqueeze(-1)).squeeze(-1)
            flow = torch.cat([dh_p, -dh_q - force], -1)
            return torch.cat([u1 - u0 - dt * flow, self.constraint(q1) / dt], -1)

        z = torch.cat([u0, multipliers], -1)
        f = residual(z, u0)
        size = f.abs().amax()
        for _ in range(self.iterations):
            jacobian = torch.func.vmap(torch.func.jacfwd(lambda a, b: residual(a.unsqueeze(0), b.unsqueeze(0))[0]))(
                z, u0
            )
            z = z - torch.linalg.solve(jacobian, f)
            f, before = residual(z, u0), size
            size = f.abs().amax()
            if not torch.isfinite(size):
                break
            if size <= 1e4 * eps * (1 + z.abs().amax()) and size >= before / 4:  # both may be 0
                return z[:, :n2], z[:, n2:]
        raise ConvergenceError(
            f"a step under constraints was not solved in {self.iterations} iterations: the residual is "
            f"{float(size):.2g}. Take smaller steps; are the constraints independent?"
        )

    def _guard(self, u: Tensor) -> None:
        if u.ndim != 2 or u.shape[1] % 2:
            raise PhysicsError(f"states (q, p) are [B, 2n], not {tuple(u.shape)}")
        self.of_energy.guard(u)
        for dc in self.of_constraints:
            dc.guard(u.chunk(2, -1)[0])


class _Entry(nn.Module):
    """One of several constraints."""

    def __init__(self, constraint: Constraint, k: int) -> None:
        super().__init__()
        self.constraint, self.k = constraint, k

    def forward(self, q: Tensor) -> Tensor:
        return self.constraint(q)[..., self.k]


def _off(rows: Tensor, x: Tensor) -> Tensor:
    """x [B, n] without what lies in the span of `rows` [B, k, n]."""
    along = torch.linalg.pinv(rows @ rows.mT, hermitian=True) @ (rows @ x.unsqueeze(-1))
    rest: Tensor = x - (rows.mT @ along).squeeze(-1)
    return rest
