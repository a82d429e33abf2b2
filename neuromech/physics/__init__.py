"""Systems whose laws are known: models that conserve or dissipate by construction, and data to test them on.

Everything is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuromech.physics.discrete import DiscreteGradient as DiscreteGradient
    from neuromech.physics.discrete import discrete_gradient as discrete_gradient

# Public name -> the module of this package that holds it.
_HOME = {
    "DiscreteGradient": "discrete",
    "discrete_gradient": "discrete",
}

__all__ = [*_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'neuromech.physics' has no attribute {name!r}")
    value = getattr(import_module(f"neuromech.physics.{_HOME[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
