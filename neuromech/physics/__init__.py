"""Systems whose laws are known: models that conserve or dissipate by construction, and data to test them on.

`energy`: discrete gradients and energy models. `fields`: divergence-free fields and conservation laws.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
