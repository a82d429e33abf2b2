"""Systems whose laws are known: models that conserve or dissipate by construction, and data to test them on.

Everything is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Public name -> the module of this package that holds it; "" for a module that is itself the name.
_MODULE_OF = {
    "CentralDifference": "structure",
    "ConvEnergy": "energy",
    "ConvField": "integrators",
    "Damped": "structure",
    "DiscreteGradient": "discrete",
    "DiscreteScheme": "integrators",
    "EnergyModel": "model",
    "EnergySum": "energy",
    "ExplicitScheme": "integrators",
    "GivenMatrix": "structure",
    "Laplacian": "structure",
    "LearnedMatrix": "structure",
    "LearnedStencil": "structure",
    "MLPEnergy": "energy",
    "MLPField": "integrators",
    "Pairs": "data",
    "PortHamiltonian": "structure",
    "Rollout": "stepping",
    "SeparableEnergy": "energy",
    "Solver": "stepping",
    "StateDependent": "structure",
    "Structure": "structure",
    "Symplectic": "structure",
    "Training": "training",
    "Trajectories": "data",
    "discrete_gradient": "discrete",
    "fit": "training",
    "load_pendulum": "data",
    "rollout": "stepping",
    "simulate": "data",
    "systems": "",
}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'neuromech.physics' has no attribute {name!r}")
    module = import_module(f"neuromech.physics.{_MODULE_OF[name] or name}")
    value = getattr(module, name) if _MODULE_OF[name] else module
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
