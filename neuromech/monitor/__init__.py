"""The monitor's mind: exact checks of one training step, and what it means if one of them fails. Pure functions."""

from neuromech.monitor.causes import CAUSES, Cause
from neuromech.monitor.diagnose import Suspect, diagnose
from neuromech.monitor.evidence import Evidence
from neuromech.monitor.fault import Fault

__all__ = ["CAUSES", "Cause", "Evidence", "Fault", "Suspect", "diagnose"]
