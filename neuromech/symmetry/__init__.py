"""The waist of neuromech. Detection makes symmetries, dynamics reads them, neither knows the other."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
