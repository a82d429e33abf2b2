"""`odeint`: predictions of every kind of model by the call that solvers of differential equations have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics.energy.integrators import DiscreteScheme, ExplicitScheme
from neuromech.physics.energy.model import EnergyModel
from neuromech.physics.energy.prediction import Acting
from neuromech.physics.energy.states import check_tensors

JoinedState = Tensor | tuple[Tensor, ...]


def asks_for_time(function: Callable[..., object]) -> bool:
    """Must it be called with more than one argument?"""
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    except (TypeError, ValueError):  # of code in C
        return False
    needed = [p for p in parameters.values() if p.default is p.empty]
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in needed) > 1


class _Field(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.velocity = function


def odeint(
    model: nn.Module | Callable[[Tensor], Tensor],
    u0: JoinedState,
    t: Sequence[float] | Tensor,
    *,
    method: str = "rk4",
    tolerance: float = 1e-6,
    inputs: Acting | None = None,
    condition: Acting | None = None,
) -> JoinedState:
    """States at the times `t` [T] (the first is that of u0): [T, B, ...], a step between each two.

    `model`: an `EnergyModel` or a scheme, stepped its own way; a module with velocity(u), or a function u -> du/dt, by
    `method`, one of ExplicitScheme's, the adaptive ones to this `tolerance`. `u0` [B, ...], or a tuple as (q, p),
    joined along the last axis and given back in its parts.
    """
    for k, x in enumerate(u0 if isinstance(u0, tuple) else [u0]):
        check_tensors(**{f"u0[{k}]" if isinstance(u0, tuple) else "u0": x})
    if isinstance(u0, tuple) and len({x.shape[:-1] for x in u0}) != 1:
        raise PhysicsError(
            f"the parts of a state have shapes {[tuple(x.shape) for x in u0]}; all but the last are equal"
        )
    parts = [x.shape[-1] for x in u0] if isinstance(u0, tuple) else None
    start = torch.cat(u0, -1) if isinstance(u0, tuple) else u0
    scheme = model
    if isinstance(model, EnergyModel):
        scheme = DiscreteScheme(model)
    elif not isinstance(model, DiscreteScheme | ExplicitScheme):
        if not callable(model) and not hasattr(model, "velocity"):
            raise PhysicsError(
                f"{type(model).__name__} is not a motion: give a model, a scheme, or a function u -> du/dt"
            )
        if not hasattr(model, "velocity") and asks_for_time(model):
            raise PhysicsError(
                "a motion is a function of the state alone, u -> du/dt; this one asks for more, as f(t, u)"
            )
        field = model if isinstance(model, nn.Module) and hasattr(model, "velocity") else _Field(model)
        scheme = ExplicitScheme(field, method, tolerance)
    assert isinstance(scheme, DiscreteScheme | ExplicitScheme)
    u = scheme.predict(start, t=t, inputs=inputs, condition=condition).u
    return tuple(u.split(parts, -1)) if parts else u
