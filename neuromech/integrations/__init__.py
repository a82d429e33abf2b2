"""neuromech inside of the loops of others: Lightning, Hugging Face's Trainer, Accelerate."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
