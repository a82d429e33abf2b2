"""Detection: which transformations of a model's parameters leave its loss alone, and why."""

from neuromech.detect.find import Findings, find_symmetries

__all__ = ["Findings", "find_symmetries"]
