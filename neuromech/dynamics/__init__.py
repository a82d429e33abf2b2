"""Dynamics reads symmetries: what their charges do while an optimizer steps, measured and predicted."""

from neuromech.dynamics.descent import Motion, Settings, has_exact_law, read, regime
from neuromech.dynamics.laws import Laws, Reading

__all__ = ["Laws", "Motion", "Reading", "Settings", "has_exact_law", "read", "regime"]
