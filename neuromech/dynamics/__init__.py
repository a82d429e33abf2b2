"""Dynamics reads symmetries: what their charges do while an optimizer steps, measured and predicted."""

from neuromech.dynamics.attribution import TERMS
from neuromech.dynamics.descent import Drift, Motion, Settings, law_of, read, regime
from neuromech.dynamics.laws import Laws, Reading
from neuromech.dynamics.updates import Moving, Update, register
from neuromech.dynamics.vectors import Computed

__all__ = [
    "TERMS",
    "Computed",
    "Drift",
    "Laws",
    "Motion",
    "Moving",
    "Reading",
    "Settings",
    "Update",
    "law_of",
    "read",
    "regime",
    "register",
]
