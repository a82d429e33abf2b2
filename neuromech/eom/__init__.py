"""The equation of motion of training: the flow that discrete steps follow, and steps that follow the gradient flow."""

from neuromech.eom.error import ErrorMeter, PathError, StepError, path_error
from neuromech.eom.flow import (
    Flow,
    descend,
    equation_of_motion,
    flow_of,
    gradient_flow,
    minibatch_flow,
    second_order_flow,
)
from neuromech.eom.lanczos import largest
from neuromech.eom.landscape import as_function
from neuromech.eom.optimizer import EoMOptimizer
from neuromech.eom.point import Point
from neuromech.eom.rule import Rule

__all__ = [
    "EoMOptimizer",
    "ErrorMeter",
    "Flow",
    "PathError",
    "Point",
    "Rule",
    "StepError",
    "as_function",
    "descend",
    "equation_of_motion",
    "flow_of",
    "gradient_flow",
    "largest",
    "minibatch_flow",
    "path_error",
    "second_order_flow",
]
