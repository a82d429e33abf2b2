"""Fields whose divergence vanishes by construction: conservation laws, transport, Hodge decompositions."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
