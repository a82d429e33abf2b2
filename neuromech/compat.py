"""Every private name of torch that neuromech uses, each with what it is for and what stands in where it is missing.

Nothing else in the package touches one (`tests/test_compat.py`), so that a new release of torch is read against this
file alone. Operators keep their names whatever they begin with (`aten._softmax`): these are torch's schema.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator as HigherOrderOperator
from torch._ops import OpOverload as OpOverload
from torch.autograd.variable import Variable
from torch.nn.utils import parametrize
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map as tree_map
from torch.utils._pytree import tree_map_only as tree_map_only

# TorchDispatchMode, HigherOrderOperator, OpOverload: what a recording of operators is made with. The developers' notes
# of torch recommend the mode, no public name exists, and nothing could replace it.
# tree_*: nested tuples, lists, dicts and registered classes of tensors. `torch.utils.pytree` is to replace them.

Packed = Sequence[Tensor]


# -- Tensors ----------------------------------------------------------------------------------------------------------


def version(t: Tensor) -> int:
    """How often code has written to `t` in place. Documented for users of autograd, and yet spelled `_version`."""
    return t._version


def storage_id(t: Tensor) -> int:
    """A number that tensors share if they share memory.

    Not `data_ptr()`: it is 0 for every tensor on the meta device, which would all look tied.
    """
    return int(t.untyped_storage()._cdata)


def local(t: Tensor) -> Tensor:
    """Of a sharded tensor (DTensor), the part that lies in this process; others are themselves, detached.

    `to_local()` is the public form: it waits for the device, and builds a node of the graph.
    """
    inside = getattr(t, "_local_tensor", None)
    return inside if isinstance(inside, Tensor) else t.detach()


def foreach_add(x: Packed, y: Packed, alpha: float) -> list[Tensor]:
    """x + alpha y, list by list, in as few kernels as torch can. Public optimizers are built on the foreach operators,
    which have no public name; a loop replaces them."""
    return list(torch._foreach_add(list(x), list(y), alpha=alpha))


def foreach_add_(x: Packed, y: Packed, alpha: float = 1.0) -> None:
    """x += alpha y, list by list."""
    torch._foreach_add_(list(x), list(y), alpha=alpha)


def foreach_mul(x: Packed, factor: float | Sequence[float]) -> list[Tensor]:
    """factor x, list by list; one factor, or one a tensor."""
    return list(torch._foreach_mul(list(x), factor if isinstance(factor, float) else list(factor)))


def foreach_mul_(x: Packed, factor: float) -> None:
    """x *= factor, list by list."""
    torch._foreach_mul_(list(x), factor)


def foreach_lerp(x: Packed, y: Packed, weight: float) -> list[Tensor]:
    """x + weight (y - x), list by list."""
    return list(torch._foreach_lerp(list(x), list(y), weight))


# -- Operators --------------------------------------------------------------------------------------------------------


def schema_of(op: Any) -> Any:
    """Name, arguments and aliases of an operator, as torch declares them. No public form."""
    return op._schema


def overload_name(op: OpOverload) -> str:
    """`Tensor` of `aten.add.Tensor`."""
    return str(op._overloadname)


def is_composite(op: object) -> bool:
    """True for an operator that torch itself writes with others, and can be asked to take apart."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return isinstance(op, OpOverload) and op.has_kernel_for_dispatch_key(key)


# Keywords of `make_fx`: tensors that the traced function reaches by itself stay the very objects.
KEEP_REAL_TENSORS: dict[str, Any] = {"_allow_non_fake_inputs": True}


# -- Modes and function transforms ------------------------------------------------------------------------------------


def is_transformed(t: Tensor) -> bool:
    """True inside `torch.func` transforms (vmap, jvp, grad), where tensors have no values to look at."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(t))


def transforms_active() -> bool:
    """True anywhere inside a transform of `torch.func`."""
    return bool(torch._C._are_functorch_transforms_active())


def dispatch_modes() -> int:
    """How many dispatch modes are on: what traces a model is one."""
    return int(torch._C._len_torch_dispatch_stack())


def saving_is_hooked() -> bool:
    """True inside `saved_tensors_hooks`, which are also what activation checkpoints are made of."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


@contextmanager
def outside_of_modes() -> Iterator[None]:
    """Outside of every dispatch mode and function transform that the caller may be in."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
    from torch.utils._python_dispatch import _disable_current_modes

    with temporarily_clear_interpreter_stack(), _disable_current_modes():
        yield


@cache
def load_forward_mode() -> None:
    """torch loads forward mode at the first jvp, with a DeprecationWarning about its own code: take it here, once.

    Where the module is gone there is nothing to load.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from torch._decomp import decompositions_for_jvp  # noqa: F401
        except ImportError:
            return


# -- Autograd ---------------------------------------------------------------------------------------------------------


def backward_id() -> int:
    """Which backward is running: a number, -1 outside of all. Hooks of one backward recognise each other by it."""
    return int(torch._C._current_graph_task_id())


def at_end_of_backward(callback: Callable[[], None]) -> None:
    """Have `callback` called when the backward that is running ends. DistributedDataParallel is built on the same."""
    engine: Any = Variable._execution_engine
    engine.queue_callback(callback)


def function_of(node: Any) -> type[torch.autograd.Function] | None:
    """The custom function that a node of the graph belongs to; None for torch's own."""
    return cast("type[torch.autograd.Function] | None", getattr(node, "_forward_cls", None))


def running_function() -> str:
    """The name of the custom autograd function whose forward is running, "" if there is none.

    Its forward runs without gradient, and yet a gradient flows through it, one of its own making. To torch's modes it
    is like any other call, so the frames of Python are asked: `Function.apply` is one where it is written in Python.
    Where it is not, the forward itself is looked for among all custom functions that there are.
    """
    forwards = _forwards() if _APPLY is None else {}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _APPLY:
            return str(frame.f_locals["cls"].__name__)
        if frame.f_code in forwards:
            return forwards[frame.f_code]
        frame = frame.f_back
    return ""


def _code(function: Any) -> Any:
    """The code object of a Python function, below decorators and bound methods; None for what is written in C."""
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        function = inner
    return getattr(getattr(function, "__func__", function), "__code__", None)


_APPLY = _code(torch.autograd.Function.apply)


def _forwards() -> dict[Any, str]:
    """Of every custom function that was ever defined: the code of its forward, and its name."""
    return {_code(f.forward): f.__name__ for f in _below(torch.autograd.Function) if "forward" in vars(f)}


def _below(cls: type[Any]) -> Iterator[type[Any]]:
    for inner in cls.__subclasses__():
        yield inner
        yield from _below(inner)


# -- Modules ----------------------------------------------------------------------------------------------------------


def own_parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter that hangs at `module` itself under `name`: a look into its dictionary, as it is asked each step.

    `getattr` would run the property of a parametrized weight instead.
    """
    return module._parameters.get(name)


def is_persistent(module: nn.Module, buffer: str) -> bool:
    """True for a buffer of `module` itself that `state_dict` saves."""
    return buffer not in module._non_persistent_buffers_set


def is_hooked(module: nn.Module) -> bool:
    """True if calling `module` does more than its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def module_machinery() -> set[str]:
    """The attributes by which `nn.Module` works: all but its parameters, buffers and modules."""
    return vars(nn.Module()).keys() - {"_parameters", "_buffers", "_modules"}


def uncompiled(model: nn.Module) -> nn.Module | None:
    """The module inside `torch.compile(model)`, None if it is not compiled in this way."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


@contextmanager
def run_eagerly() -> Iterator[None]:
    """What `torch.compile` has compiled runs as it was written inside, and stays compiled for its owner."""
    if "torch._dynamo" in sys.modules:  # importing it takes seconds, and nobody compiles without
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


@contextmanager
def run_checkpoints_once(ours: Callable[[], bool]) -> Iterator[None]:
    """Checkpointed parts run once, like any other: there is no backward for which they would have to be run again.

    Where `ours()` is false, in other threads, which may be training, checkpoints stay what they are. torch has no
    public switch for it; where a generator has another name its checkpoints run twice, which is slower, not wrong.
    """
    module: Any = checkpoint
    generators = [name for name in vars(module) if name.startswith("_checkpoint_without_reentrant_generator")]
    before = {name: getattr(module, name) for name in ("CheckpointFunction", *generators)}
    module.CheckpointFunction = _Direct(module.CheckpointFunction, ours)
    for name in generators:  # from torch 2.14 on there are two, one in the other
        setattr(module, name, partial(_nothing_saved, before[name], ours))
    try:
        yield
    finally:
        for name, door in before.items():
            setattr(module, name, door)


class _Direct:
    """In place of torch's `CheckpointFunction`."""

    def __init__(self, function: Any, ours: Callable[[], bool]) -> None:
        self._function, self._ours = function, ours

    def apply(self, run: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return run(*args) if self._ours() else self._function.apply(run, preserve, *args)


def _nothing_saved(
    generator: Callable[..., Iterator[None]], ours: Callable[[], bool], *args: Any, **kwargs: Any
) -> Iterator[None]:
    if ours():
        yield
    else:
        yield from generator(*args, **kwargs)


@contextmanager
def without_parametrization_cache() -> Iterator[None]:
    """Inside `parametrize.cached()` a parametrized weight would be the one of an earlier call."""
    module: Any = parametrize
    before = getattr(module, "_cache_enabled", 0)
    module._cache_enabled = 0
    try:
        yield
    finally:
        module._cache_enabled = before


# -- Optimizers -------------------------------------------------------------------------------------------------------


def muon_rate(lr: float, adjust: str | None, shape: torch.Size) -> float:
    """The learning rate that `torch.optim.Muon` uses for a weight of this shape."""
    from torch.optim import _muon

    return float(_muon._adjust_lr(lr, adjust, shape))


def muon_direction(update: Tensor, coefficients: Iterable[float], steps: int, eps: float) -> Tensor:
    """The orthogonalized update of `torch.optim.Muon`: torch's own function, so that it is the same to the last bit."""
    from torch.optim import _muon

    return _muon._zeropower_via_newtonschulz(update, cast("tuple[float, float, float]", coefficients), steps, eps)
