"""Systems whose laws are known: models that conserve or dissipate by construction, and data to test them on.

Everything is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Public name -> the module of this package that holds it; "" for a module that is itself the name.
_MODULE_OF = {
    "Ball": "domain",
    "BoundedMixture": "bounded",
    "Box": "domain",
    "CentralDifference": "structure",
    "ConvEnergy": "energy",
    "ConvField": "integrators",
    "Damped": "structure",
    "DiscreteGradient": "discrete",
    "DiscreteScheme": "integrators",
    "DivergenceFree": "divergence_free",
    "EnergyModel": "model",
    "EnergySum": "energy",
    "ExplicitScheme": "integrators",
    "FreeSpace": "domain",
    "GivenMatrix": "structure",
    "HodgeDecomposition": "hodge",
    "Laplacian": "structure",
    "LearnedMatrix": "structure",
    "LearnedStencil": "structure",
    "MLPEnergy": "energy",
    "MLPField": "integrators",
    "Mixture": "mixture",
    "MovingMixture": "mixture",
    "NeuralConservationLaw": "conservation",
    "Pairs": "data",
    "Periodic": "layers",
    "PortHamiltonian": "structure",
    "Rollout": "stepping",
    "SeparableEnergy": "energy",
    "Sin": "layers",
    "Solver": "stepping",
    "SpaceTimeField": "spacetime",
    "StateDependent": "structure",
    "Structure": "structure",
    "Subharmonic": "subharmonic",
    "Symplectic": "structure",
    "Torus": "domain",
    "Training": "training",
    "Trajectories": "data",
    "couple": "transport",
    "discrete_gradient": "discrete",
    "fit": "training",
    "gaussian": "mixture",
    "gaussian_cost": "transport",
    "gaussian_map": "transport",
    "gaussian_mixture": "mixture",
    "kinetic_energy": "transport",
    "load_pendulum": "data",
    "mlp": "layers",
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
