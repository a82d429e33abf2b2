"""Names of torch itself that have no public home.

`TorchDispatchMode`, `HigherOrderOperator`, `OpOverload`: what a recording of operators is made with. The developers'
notes of torch recommend the mode, no public name exists, and nothing could replace it. `tree_*`: nested tuples, lists,
dicts and registered classes of tensors; `torch.utils.pytree` is to replace them. `PyTorchFileReader`: what `torch.load`
and `torch.export.load` read archives with; what is to be checked has to be read by the same.
"""

from torch._C import PyTorchFileReader as PyTorchFileReader
from torch._ops import HigherOrderOperator as HigherOrderOperator
from torch._ops import OpOverload as OpOverload
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map as tree_map
from torch.utils._pytree import tree_map_only as tree_map_only
