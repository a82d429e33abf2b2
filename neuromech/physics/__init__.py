"""Systems whose laws are known: networks that obey them by construction.

Everything is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "Ball": "domain",
    "BoundedMixture": "bounded",
    "Box": "domain",
    "DivergenceFree": "divergence_free",
    "FreeSpace": "domain",
    "HodgeDecomposition": "hodge",
    "Mixture": "mixture",
    "MovingMixture": "mixture",
    "NeuralConservationLaw": "conservation",
    "Periodic": "layers",
    "Sin": "layers",
    "SpaceTimeField": "spacetime",
    "Subharmonic": "subharmonic",
    "Torus": "domain",
    "couple": "transport",
    "gaussian": "mixture",
    "gaussian_cost": "transport",
    "gaussian_map": "transport",
    "kinetic_energy": "transport",
    "gaussian_mixture": "mixture",
    "mlp": "layers",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'neuromech.physics' has no attribute {name!r}")
    value = getattr(import_module(f"neuromech.physics.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return list(__all__)
