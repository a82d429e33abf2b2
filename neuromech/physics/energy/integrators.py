"""Models of motion under one interface, so that one training loop and one evaluation serve them all.

scheme(u0, u1, dt)           what is compared with (u1 - u0)/dt in training
scheme.predict(u0, dt, n)    states at n further steps

DiscreteScheme   the discrete gradient: nothing is solved in training, prediction is implicit
ExplicitScheme   a velocity field and an explicit integrator, trained through the integrator: a neural ODE (`field`),
                 or a Hamiltonian network G grad H (an `EnergyModel`); `leapfrog` for energies T(p) + V(q)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from neuromech.errors import ConvergenceError, PhysicsError
from neuromech.physics.energy.energy import MLPEnergy, SeparableEnergy, convnet, mlp
from neuromech.physics.energy.grids import Boundary
from neuromech.physics.energy.model import EnergyModel, step_size
from neuromech.physics.energy.prediction import Acting, Rollout, StepSizes, rollout, schedule
from neuromech.physics.energy.states import check_finite, check_tensors
from neuromech.physics.energy.stepping import Solver
from neuromech.physics.energy.structure import Symplectic

# Gradient (or field) evaluations of one step; the adaptive ones take as many as their tolerance asks for. All but
# leapfrog are torchdiffeq's, without those that need the steps before: here every step begins anew.
METHODS: dict[str, int | None] = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4, "leapfrog": 3}
METHODS |= dict.fromkeys(("adaptive_heun", "bosh3", "dopri5", "dopri8"))


class MLPField(nn.Module):
    """A neural ODE du/dt = network(u) of states [B, n]."""

    def __init__(self, size: int, hidden: int = 200, depth: int = 2, activation: str = "tanh") -> None:
        super().__init__()
        self.network = mlp(size, size, hidden, depth, activation)

    def velocity(self, u: Tensor) -> Tensor:
        out: Tensor = self.network(u)
        return out


class ConvField(nn.Module):
    """A neural ODE of fields [B, n] or [B, n, m]; a cell's rate sees `kernel` cells an axis. See `ConvEnergy`."""

    def __init__(
        self,
        ndim: int = 1,
        hidden: int = 200,
        kernel: int = 5,
        depth: int = 2,
        activation: str = "tanh",
        channels: int = 1,
        boundary: Boundary = "periodic",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.network = convnet(ndim, hidden, kernel, depth, activation, (channels, channels), boundary)

    def velocity(self, u: Tensor) -> Tensor:
        out: Tensor = self.network(u if self.channels > 1 else u.unsqueeze(1))
        return out if self.channels > 1 else out.squeeze(1)


class DiscreteScheme(nn.Module):
    """The discrete-gradient model as a scheme: exact laws at every step size."""

    def __init__(self, model: EnergyModel, solver: Solver | None = None) -> None:
        super().__init__()
        self.model, self.solver = model, solver

    def forward(
        self,
        u0: Tensor,
        u1: Tensor,
        dt: float | Tensor,
        inputs: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        velocity: Tensor = self.model(u0, u1, inputs, condition)
        return velocity

    def predict(
        self,
        u0: Tensor,
        dt: StepSizes | None = None,
        steps: int | None = None,
        *,
        t: Sequence[float] | Tensor | None = None,
        inputs: Acting | None = None,
        condition: Acting | None = None,
    ) -> Rollout:
        """See `rollout`."""
        with torch.no_grad():
            return rollout(self.model, u0, dt, steps, t=t, inputs=inputs, condition=condition, solver=self.solver)


class ExplicitScheme(nn.Module):
    """A module with `velocity(u)`, stepped by `method`, one of METHODS; `tolerance`: of adaptive ones."""

    def __init__(self, field: nn.Module, method: str = "rk4", tolerance: float = 1e-6) -> None:
        super().__init__()
        if method not in METHODS:
            raise PhysicsError(f"method {method!r} is not one of {', '.join(METHODS)}")
        if not tolerance > 0:
            raise PhysicsError(f"the tolerance is {tolerance}; it is positive")
        if not hasattr(field, "velocity"):
            raise PhysicsError(f"{type(field).__name__} has no velocity(u): pass a field, or an EnergyModel")
        if method == "leapfrog" and not (
            isinstance(field, EnergyModel)
            and isinstance(field.energy, SeparableEnergy)
            and isinstance(field.structure, Symplectic)
        ):
            raise PhysicsError("leapfrog is symplectic for energies T(p) + V(q) alone: use SeparableEnergy, Symplectic")
        self.field, self.method, self.tolerance = field, method, tolerance

    def forward(
        self,
        u0: Tensor,
        u1: Tensor,
        dt: float | Tensor,
        inputs: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        steps = step_size(dt, u0)
        return (self.step(u0, steps, inputs, condition) - u0) / steps

    def step(self, u: Tensor, dt: Tensor, inputs: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """The state [B, ...] after a step `dt`, a number or one a sample, shaped to broadcast.

        `inputs` and `condition` stay what they are over the step; the field takes them by these names.
        """
        given = {k: v for k, v in (("inputs", inputs), ("condition", condition)) if v is not None}
        velocity: Callable[[Tensor], Tensor] = partial(self.field.velocity, **given)  # type: ignore[operator, arg-type, misc]
        if self.method == "leapfrog":
            return leapfrog(velocity, u, dt)
        from torchdiffeq import odeint

        span = torch.tensor([0.0, 1.0], dtype=u.dtype, device=u.device)
        accuracy: dict[str, object] = {}
        if METHODS[self.method] is None:  # and end on the time: between two steps torchdiffeq interpolates, to order 3
            accuracy = {"rtol": self.tolerance, "atol": self.tolerance, "options": {"step_t": span[1:]}}
        try:
            path: Tensor = odeint(lambda _, w: dt * velocity(w), u, span, method=self.method, **accuracy)
        except AssertionError as error:  # torchdiffeq's way to say so
            raise ConvergenceError(f"{self.method} gave up ({error}): the learned motion diverges") from error
        return path[-1]

    def predict(
        self,
        u0: Tensor,
        dt: StepSizes | None = None,
        steps: int | None = None,
        *,
        t: Sequence[float] | Tensor | None = None,
        inputs: Acting | None = None,
        condition: Acting | None = None,
    ) -> Rollout:
        """As `rollout` takes them."""
        check_tensors(u0=u0)
        own = next(self.parameters(), u0)
        if own.dtype != u0.dtype or own.device != u0.device:
            raise PhysicsError(f"the states are {u0.dtype} on {u0.device}, the parameters {own.dtype} on {own.device}")
        check_finite(u0, "the state to start from")
        plan = schedule(u0, dt, steps, t, inputs, condition)
        states, steps = [u0], len(plan.sizes)
        with torch.no_grad():
            for k, size in enumerate(plan.sizes):
                try:
                    states.append(self.step(states[-1], step_size(size, u0), **plan.acting(k)))
                    if not torch.isfinite(states[-1]).all():
                        raise ConvergenceError("the learned motion diverges")
                except ConvergenceError as error:
                    error.states = torch.stack(states[: k + 1])
                    error.add_note(f"in step {k + 1} of {steps}; the states before it are in the error's `states`")
                    raise
        return Rollout(torch.stack(plan.times), torch.stack(states))


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
