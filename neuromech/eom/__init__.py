"""The equation of motion of training: the flow that discrete steps follow, and steps that follow the gradient flow."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
