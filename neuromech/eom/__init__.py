"""The equation of motion of training: the flow that discrete steps follow, and steps that follow the gradient flow."""

from neuromech.eom.landscape import as_function
from neuromech.eom.optimizer import EoMOptimizer
from neuromech.eom.point import Point
from neuromech.eom.rule import Rule

__all__ = ["EoMOptimizer", "Point", "Rule", "as_function"]
