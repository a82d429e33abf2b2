"""neuromech: the physics of training neural networks.

`instrument(model)` turns a model into an instrumented physical system; `find_symmetries(model, example)` is detection
alone. Everything is imported when it is first asked for, so that `import neuromech` costs no more than `import torch`.
Names and types stand in `__init__.pyi`.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
