"""The monitor's mind: exact checks of one training step, and what it means if one of them fails. Pure functions."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
