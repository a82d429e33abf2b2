"""Every private name of torch that neuromech uses, each with what it is for and what stands in where it is missing.

Nothing else in the package touches one (`tests/test_compat.py`), so that a new release of torch is read against this
package alone. Operators keep their names whatever they begin with (`aten._softmax`): these are torch's schema.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
