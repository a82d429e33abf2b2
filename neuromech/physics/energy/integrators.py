"""Models of motion under one interface, so that one training loop and one evaluation serve them all.

scheme(u0, u1, dt)           what is compared with (u1 - u0)/dt in training
scheme.predict(u0, dt, n)    states at n further steps

DiscreteScheme   the discrete gradient: nothing is solved in training, prediction is implicit
ExplicitScheme   a velocity field and an explicit integrator, trained through the integrator: a neural ODE (`field`),
                 or a Hamiltonian network G grad H (an `EnergyModel`); `leapfrog` for energies T(p) + V(q)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuromech.errors import ConvergenceError, PhysicsError
from neuromech.physics.energy.discrete import check_finite
from neuromech.physics.energy.energy import MLPEnergy, SeparableEnergy, convnet, mlp
from neuromech.physics.energy.model import EnergyModel, step_size
from neuromech.physics.energy.stepping import Rollout, Solver, rollout
from neuromech.physics.energy.structure import Symplectic

# Gradient (or field) evaluations of one step; dopri5 takes as many steps as its tolerance asks for.
METHODS = {"euler": 1, "midpoint": 2, "rk4": 4, "leapfrog": 3, "dopri5": None}


class MLPField(nn.Module):
    """A neural ODE du/dt = network(u) of states [B, n]."""

    def __init__(self, size: int, hidden: int = 200, depth: int = 2, activation: str = "tanh") -> None:
        super().__init__()
        self.network = mlp(size, size, hidden, depth, activation)

    def velocity(self, u: Tensor) -> Tensor:
        out: Tensor = self.network(u)
        return out


class ConvField(nn.Module):
    """A neural ODE of periodic fields [B, n] or [B, n, m]; a cell's rate sees `kernel` cells an axis."""

    def __init__(
        self, ndim: int = 1, hidden: int = 200, kernel: int = 5, depth: int = 2, activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.network = convnet(ndim, hidden, kernel, depth, activation)

    def velocity(self, u: Tensor) -> Tensor:
        out: Tensor = self.network(u.unsqueeze(1))
        return out.squeeze(1)


class DiscreteScheme(nn.Module):
    """The discrete-gradient model as a scheme: exact laws at every step size."""

    def __init__(self, model: EnergyModel, solver: Solver | None = None) -> None:
        super().__init__()
        self.model, self.solver = model, solver

    def forward(self, u0: Tensor, u1: Tensor, dt: float | Tensor) -> Tensor:
        velocity: Tensor = self.model(u0, u1)
        return velocity

    def predict(self, u0: Tensor, dt: float, steps: int) -> Rollout:
        with torch.no_grad():
            return rollout(self.model, u0, dt, steps, solver=self.solver)


class ExplicitScheme(nn.Module):
    """A module with `velocity(u)`, stepped by `method`, one of METHODS; `tolerance`: of dopri5, relative, absolute."""

    def __init__(self, field: nn.Module, method: str = "rk4", tolerance: float = 1e-6) -> None:
        super().__init__()
        if method not in METHODS:
            raise PhysicsError(f"method {method!r} is not one of {', '.join(METHODS)}")
        if not hasattr(field, "velocity"):
            raise PhysicsError(f"{type(field).__name__} has no velocity(u): pass a field, or an EnergyModel")
        if method == "leapfrog" and not (
            isinstance(field, EnergyModel)
            and isinstance(field.energy, SeparableEnergy)
            and isinstance(field.structure, Symplectic)
        ):
            raise PhysicsError("leapfrog is symplectic for energies T(p) + V(q) alone: use SeparableEnergy, Symplectic")
        self.field, self.method, self.tolerance = field, method, tolerance

    def forward(self, u0: Tensor, u1: Tensor, dt: float | Tensor) -> Tensor:
        steps = step_size(dt, u0)
        return (self.step(u0, steps) - u0) / steps

    def step(self, u: Tensor, dt: Tensor) -> Tensor:
        """The state [B, ...] after a step `dt`, a number or one a sample, shaped to broadcast."""
        if self.method == "leapfrog":
            assert isinstance(self.field, EnergyModel)
            return leapfrog(self.field.velocity, u, dt)
        from torchdiffeq import odeint

        velocity: Callable[[Tensor], Tensor] = self.field.velocity  # type: ignore[assignment]
        accuracy = {"rtol": self.tolerance, "atol": self.tolerance} if self.method == "dopri5" else {}
        span = torch.tensor([0.0, 1.0], dtype=u.dtype, device=u.device)
        try:
            path: Tensor = odeint(lambda _, w: dt * velocity(w), u, span, method=self.method, **accuracy)
        except AssertionError as error:  # torchdiffeq's way to say so
            raise ConvergenceError(f"{self.method} gave up ({error}): the learned motion diverges") from error
        return path[-1]

    def predict(self, u0: Tensor, dt: float, steps: int) -> Rollout:
        check_finite(u0, "the state to start from")
        size = step_size(dt, u0)
        states = [u0]
        with torch.no_grad():
            for k in range(steps):
                try:
                    states.append(self.step(states[-1], size))
                    if not torch.isfinite(states[-1]).all():
                        raise ConvergenceError("the learned motion diverges")
                except ConvergenceError as error:
                    error.states = torch.stack(states[: k + 1])
                    error.add_note(f"in step {k + 1} of {steps}; the states before it are in the error's `states`")
                    raise
        t = torch.arange(steps + 1, dtype=u0.dtype, device=u0.device) * dt
        return Rollout(t, torch.stack(states))


MotionScheme = DiscreteScheme | ExplicitScheme


def leapfrog(velocity: Callable[[Tensor], Tensor], u: Tensor, dt: Tensor) -> Tensor:
    """Half a kick of p, a drift of q, half a kick (Stormer-Verlet): symplectic and of order 2 where H = T(p) + V(q)."""
    q, p = u.chunk(2, -1)

    def rates(q: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        return velocity(torch.cat([q, p], -1)).chunk(2, -1)

    p = p + dt / 2 * rates(q, p)[1]
    q = q + dt * rates(q, p)[0]
    p = p + dt / 2 * rates(q, p)[1]
    return torch.cat([q, p], -1)


def separable(size: int, hidden: int = 200) -> SeparableEnergy:
    """A learned V(q) + T(p) of a state (q, p) of `size` entries: the symplectic Hamiltonian network."""

    return SeparableEnergy(MLPEnergy(size // 2, hidden), MLPEnergy(size // 2, hidden))
