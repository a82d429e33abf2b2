"""Things that go wrong in real training, one function each: what they do to a loop, and the cause that is to be named.

Every function makes the loop and plans the fault for step `at`; all choices are drawn from the seed. `INJECTIONS` is
the catalogue, in the order of the modules below; `clean` are runs with nothing wrong in them.
"""

from experiments.faults import model, loss, gradients, memory, optimizer, checkpoints  # noqa: F401, I001
from experiments.faults.injection import INJECTIONS as INJECTIONS
from experiments.faults.injection import Injection as Injection
