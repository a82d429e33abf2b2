"""`EnergyModel`: du/dt = G(u) grad H(u), learned and predicted in discrete time, where its law holds exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neuromech.compat import is_transformed
from neuromech.errors import PhysicsError
from neuromech.physics.energy.discrete import DiscreteGradient, GradientForm
from neuromech.physics.energy.laws import probe_law
from neuromech.physics.energy.states import check_finite, hides_values
from neuromech.physics.energy.structure import Structure


class EnergyModel(nn.Module):
    """The discrete-time model (u1 - u0)/dt = G((u0 + u1)/2) DH(u1, u0) (Matsubara et al. 2020, eq. 6).

    From <DH, u1 - u0> = H(u1) - H(u0) the energy is conserved, or dissipated, by whatever `structure` promises, for
    every step size and all values of the parameters. `energy` is any module of states [B, ...] to [B].

        model(u0, u1)                     the velocity between two states: what training compares with (u1 - u0)/dt
        model.velocity(u)                 G(u) grad H(u), in continuous time
        neuromech.physics.rollout(model)  prediction, solves for u1

    `inputs` [B, k]: of a `PortHamiltonian` structure. `condition` [B, ...]: what the energy takes beside the state,
    `energy(u, condition)`: the time, parameters of the system, a mask. It does not change within a step.
    """

    def __init__(
        self, energy: nn.Module, structure: Structure, form: GradientForm = "chain", *, nodes: int = 4
    ) -> None:
        super().__init__()
        self._discrete = DiscreteGradient(energy, form, nodes=nodes)
        self.energy, self.structure = energy, structure

    def __setattr__(self, name: str, value: Any) -> None:
        """`energy` and `structure` may be exchanged; the discrete gradient is always that of the energy."""
        if name == "energy":
            _check_module(value)
        elif name == "structure":
            _check_structure(value)
            probe_law(value)
            self.__dict__["_probed"] = None
        elif name == "discrete_gradient":
            raise PhysicsError("the discrete gradient of a model is that of its energy: assign `model.energy`")
        super().__setattr__(name, value)

    @property
    def discrete_gradient(self) -> DiscreteGradient:
        """That of `energy`, whatever energy the model has by now."""
        return self._discrete.following(self.energy)

    def check(self, u: Tensor, inputs: Tensor | None = None, condition: Tensor | None = None) -> None:
        """Raise `PhysicsError` unless `u` is a batch of states [B, ...] that the model can work with."""
        self.check_states(u)
        self.structure.check(u, inputs)
        self._probe(u)
        if condition is not None and (condition.ndim and len(condition) != len(u)):
            raise PhysicsError(
                f"the condition has shape {tuple(condition.shape)}; expected one row for each of {len(u)} samples"
            )

    def check_states(self, u: Tensor) -> None:
        """The part of `check` that asks for no inputs."""
        if not isinstance(u, Tensor) or not u.is_floating_point():
            found = str(u.dtype) if isinstance(u, Tensor) else type(u).__name__
            raise PhysicsError(f"the states are {found}; expected a tensor of real floating-point numbers")
        if u.ndim < 2 or not u.numel():
            raise PhysicsError(f"states are [B, ...], at least one, not of shape {tuple(u.shape)}: u[None] is a batch")
        parameter = next(self.parameters(), u)
        if (parameter.dtype, parameter.device) != (u.dtype, u.device):
            raise PhysicsError(
                f"the states are {u.dtype} on {u.device}, the parameters {parameter.dtype} on {parameter.device}: "
                "move both with .to(...)"
            )

    def _probe(self, u: Tensor) -> None:
        """Does the structure keep its law, in the shape of these states? Once for each shape."""
        if self._probed != u.shape[1:] and not hides_values(u):
            probe_law(self.structure, u)
            self.__dict__["_probed"] = u.shape[1:]

    def forward(self, u0: Tensor, u1: Tensor, inputs: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        self.structure.check(u0, inputs)
        self._probe(u0)
        velocity: Tensor = self.structure(self.discrete_gradient.guarded(u1, u0, condition), (u0 + u1) / 2, inputs)
        return velocity

    def between(self, u0: Tensor, u1: Tensor, inputs: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """The same, without a look at energy and states: what a solver calls many times within a step."""
        velocity: Tensor = self.structure(self.discrete_gradient.unchecked(u1, u0, condition), (u0 + u1) / 2, inputs)
        return velocity

    def starting(
        self, u0: Tensor, inputs: Tensor | None = None, condition: Tensor | None = None
    ) -> Callable[[Tensor], Tensor]:
        """u1 -> the velocity between u0 and u1, for many u1 and without gradients by parameters."""
        gradient_to = self.discrete_gradient.starting(u0, condition)

        def velocity(u1: Tensor) -> Tensor:
            out: Tensor = self.structure(gradient_to(u1), (u0 + u1) / 2, inputs)
            return out

        return velocity

    def velocity(self, u: Tensor, inputs: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """G(u) grad H(u)."""
        self.structure.check(u, inputs)
        energy = self.energy if condition is None else lambda w: self.energy(w, condition)
        velocity: Tensor = self.structure(gradient(energy, u), u, inputs)
        return velocity


def _check_module(energy: object) -> None:
    if not isinstance(energy, nn.Module) or isinstance(energy, Structure):
        raise PhysicsError(f"the energy is {type(energy).__name__}; expected an nn.Module of states [B, ...] to [B]")


def _check_structure(structure: object) -> None:
    if not isinstance(structure, Structure):
        raise PhysicsError(
            f"the structure is {type(structure).__name__}; expected a Structure, which vouches for the law "
            "that its G obeys (GivenMatrix holds a matrix of your own)"
        )


def gradient(energy: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """grad H at every state of a batch, which can be trained through."""
    if is_transformed(u):
        g: Tensor = torch.func.grad(lambda w: energy(w).sum())(u)
        return g
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        point = u if u.requires_grad else u.detach().requires_grad_()
        (out,) = torch.autograd.grad(energy(point).sum(), point, create_graph=create)
    return out


def slope(u0: Tensor, u1: Tensor, dt: float | Tensor) -> Tensor:
    """(u1 - u0)/dt; `dt` a number or one a sample [B]. Raises `PhysicsError` for bad steps and states."""
    if u0.shape != u1.shape:
        raise PhysicsError(f"the states before and after differ in shape: {tuple(u0.shape)} and {tuple(u1.shape)}")
    check_finite(u0, "the state before the step")
    check_finite(u1, "the state after the step")
    return (u1 - u0) / step_size(dt, u0)


def step_size(dt: float | Tensor, u: Tensor) -> Tensor:
    """`dt` as a tensor that broadcasts over states `u`; raises `PhysicsError` where it is 0 or not finite."""
    steps = torch.as_tensor(dt, dtype=u.dtype, device=u.device)
    if steps.ndim > 1 or (steps.ndim == 1 and (u.ndim < 2 or len(steps) != len(u))):
        raise PhysicsError(f"dt has shape {tuple(steps.shape)}; expected a number, or one for each of {len(u)} samples")
    if not torch.isfinite(steps).all() or (steps == 0).any():
        where = torch.nonzero(~torch.isfinite(steps) | (steps == 0)).reshape(-1).tolist()
        at = f" for samples {where[:5]}" if steps.ndim else ""
        raise PhysicsError(f"dt is 0 or not finite{at}: two states at one time say nothing about the motion; drop them")
    return steps.reshape([-1] + [1] * (u.ndim - 1)) if steps.ndim else steps
