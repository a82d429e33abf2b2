"""Detection: which transformations of a model's parameters leave its loss alone, and why."""

from neuromech.detect.find import find_symmetries
from neuromech.detect.findings import Findings

__all__ = ["Findings", "find_symmetries"]
