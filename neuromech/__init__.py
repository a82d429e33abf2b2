"""neuromech: the physics of training neural networks.

`instrument(model)` turns a model into an instrumented physical system; `find_symmetries(model, example)` is detection
alone. Everything is imported when it is first asked for, so that `import neuromech` costs no more than `import torch`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from neuromech.detect import Findings, find_symmetries
    from neuromech.eom import EoMOptimizer
    from neuromech.errors import (
        CaptureError,
        ConvergenceError,
        DetectionError,
        EoMError,
        FaultError,
        FaultWarning,
        InstrumentError,
        NeuromechError,
        NeuromechWarning,
        PhysicsError,
        RecordError,
        SymmetryError,
    )
    from neuromech.gauge import Balanced, balance, transform
    from neuromech.monitor import Fault
    from neuromech.probe import Probe, instrument
    from neuromech.symmetry import Part, Symmetry, SymmetrySet, Term

_HOME = {
    "neuromech.detect": ("Findings", "find_symmetries"),
    "neuromech.eom": ("EoMOptimizer",),
    "neuromech.errors": (
        "CaptureError",
        "ConvergenceError",
        "DetectionError",
        "EoMError",
        "FaultError",
        "FaultWarning",
        "InstrumentError",
        "NeuromechError",
        "NeuromechWarning",
        "PhysicsError",
        "RecordError",
        "SymmetryError",
    ),
    "neuromech.gauge": ("Balanced", "balance", "transform"),
    "neuromech.monitor": ("Fault",),
    "neuromech.probe": ("Probe", "instrument"),
    "neuromech.symmetry": ("Part", "Symmetry", "SymmetrySet", "Term"),
}
_PACKAGES = ("physics",)  # so that `neuromech.physics.rollout` needs no import of its own
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Balanced",
    "CaptureError",
    "ConvergenceError",
    "DetectionError",
    "EoMError",
    "EoMOptimizer",
    "Fault",
    "FaultError",
    "FaultWarning",
    "Findings",
    "InstrumentError",
    "NeuromechError",
    "NeuromechWarning",
    "Part",
    "PhysicsError",
    "Probe",
    "RecordError",
    "Symmetry",
    "SymmetryError",
    "SymmetrySet",
    "Term",
    "__version__",
    "balance",
    "find_symmetries",
    "instrument",
    "transform",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"neuromech.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'neuromech' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])
