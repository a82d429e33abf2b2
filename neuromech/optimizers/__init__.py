"""The book of optimizers: what each one's step does, written once, read by laws, monitor, flows and report."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
