"""The conductor: watches a training loop, measures and predicts at every step, and keeps the records."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
