"""Small architectures and the symmetries that they must be found to have: factories -> expected families."""

from zoo import convolutions, movement, norms, parameters, perceptrons, stops, streams  # noqa: F401 (they register)
from zoo.base import CASES, LOSSES, Case, Net, build

__all__ = ["CASES", "LOSSES", "Case", "Net", "build"]
