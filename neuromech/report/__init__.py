"""Records -> tables, figures and one self-contained HTML page that anyone can read."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
