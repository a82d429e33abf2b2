"""Modules, and what wraps them. See `neuromech.compat`."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, update_wrapper
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import checkpoint

# Attributes of a module that say nothing of what it computes beside its parts, which `own_parts` gives. No public form.
BOOKKEEPING = frozenset({"_parameters", "_buffers", "_modules", "_version", "_is_full_backward_hook"})


def own_parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter that hangs at `module` itself under `name`: a look into its dictionary, as it is asked each step.

    `getattr` would run the property of a parametrized weight instead.
    """
    return module._parameters.get(name)


def keeps_parameter(module: nn.Module, name: str, p: nn.Parameter) -> bool:
    """Does `p` hang at `module` under `name`, or under another one, as masks and parametrisations rename it?"""
    return own_parameter(module, name) is p or any(q is p for q in module.parameters())


def own_parts(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The parameters, buffers and modules that hang at `module` itself, None where one is registered as such.

    `named_parameters(recurse=False)` leaves out the None, and one of two names of the same tensor.
    """
    return module._parameters, module._buffers, module._modules


def called_with(
    module: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> Any:
    """`torch.func.functional_call`, which in torch 2.13 leaves its stand-ins in a part that hangs in two places."""
    own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    stand_ins = {id(own[name]): t for name, t in tensors.items() if name in own}
    once = {
        f"{path}.{name}" if path else name: stand_ins[id(t)]
        for path, part in module.named_modules()
        for held in own_parts(part)[:2]
        for name, t in held.items()
        if id(t) in stand_ins
    }
    return torch.func.functional_call(module, once, args, kwargs, tie_weights=False)


def hooks_of_all() -> tuple[dict[int, Callable[..., Any]], ...]:
    """What runs before and after the forward of every module. No public form."""
    return nn.modules.module._global_forward_pre_hooks, nn.modules.module._global_forward_hooks


def hooks_before(module: nn.Module) -> list[Callable[..., Any]]:
    """What runs before the forward of `module` itself. No public form."""
    return list(module._forward_pre_hooks.values())


def compiled_from(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `torch.compile` was given, for a module or a function; anything else is itself."""
    inner = (uncompiled(function) if isinstance(function, nn.Module) else None) or function
    found: Callable[..., Any] = getattr(inner, "_torchdynamo_orig_callable", inner)
    return found


def is_persistent(module: nn.Module, buffer: str) -> bool:
    """True for a buffer of `module` itself that `state_dict` saves."""
    return buffer not in module._non_persistent_buffers_set


def is_hooked(module: nn.Module) -> bool:
    """True if calling `module` does more than its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def drop_hooks(module: nn.Module) -> None:
    """Take all forward hooks off `module`, but those by which torch computes a weight (`torch.nn.utils`)."""
    module._forward_hooks.clear()
    for key, hook in list(module._forward_pre_hooks.items()):
        if not type(hook).__module__.startswith("torch.nn.utils"):
            del module._forward_pre_hooks[key]


def has_stand_ins(module: nn.Module) -> bool:
    """Do other tensors stand in for its parameters while it computes? `fully_shard` and `functional_call` do that."""
    return bool(_fully_sharded(module)) or not all(isinstance(p, nn.Parameter) for p in module.parameters())


def _fully_sharded(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if vars(m).get(_state_key()) and hasattr(m, "unshard")]


def _state_key() -> str:
    contract = sys.modules.get("torch.distributed._composable.contract")  # where nothing is sharded it is not loaded
    return contract.STATE_KEY if contract else ""


def deep_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy(module, memo)`, also of what `fully_shard` has taken over and then refuses to be copied.

    The copy is of the classes that were there before. Hooks, and the state that talks to other processes, are shared.
    """
    taken, key = _fully_sharded(module), _state_key()
    for m in taken:
        kind: Any = type(m).__bases__[-1]
        memo[id(m)] = kind.__new__(kind)
        hooks = [hook for name, held in vars(m).items() if name.endswith("_hooks") for hook in held.values()]
        memo |= {id(x): x for x in [vars(m)[key], *hooks]}
    for m in taken:  # once all are known to each other
        vars(memo[id(m)]).update(copy.deepcopy(nn.Module.__getstate__(m), memo))  # without what is compiled of it
    return copy.deepcopy(module, memo)


def module_machinery() -> set[str]:
    """The attributes by which `nn.Module` works: all but its parameters, buffers and modules."""
    return vars(nn.Module()).keys() - {"_parameters", "_buffers", "_modules"}


def compiler_loaded() -> bool:
    """Whether anything can be compiled at all: importing the compiler takes seconds, and nobody compiles without."""
    return "torch._dynamo" in sys.modules


def anything_compiled() -> bool:
    """Does Dynamo hold compiled code? What was compiled for one module runs others of its class too."""
    return compiler_loaded() and bool(sys.modules["torch._dynamo"].convert_frame.input_codes.seen)


def forget_compiled(function: Any) -> None:
    """Let Dynamo trace `function` anew where it meets it next. No public form but for everything at once."""
    frames: Any = torch._C._dynamo.eval_frame
    frames.reset_code(function.__code__)


def with_own_code(function: FunctionType) -> FunctionType:
    """The same function, in Dynamo's eyes another one: it knows a function by the object that is its code."""
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    own.__kwdefaults__ = function.__kwdefaults__
    update_wrapper(own, function)
    return own


def is_compiled(module: nn.Module) -> bool:
    """Whether calling this module runs compiled code: one made by `torch.compile`, or compiled in place."""
    return uncompiled(module) is not None or getattr(module, "_compiled_call_impl", None) is not None


def hooks_on(module: nn.Module) -> list[Any]:
    """Every hook that runs in the forward or the backward of `module` itself."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [hook for kind in kinds for hook in getattr(module, kind, {}).values()]


def gradient_hooks(t: Tensor) -> int:
    """How many hooks wait for the gradient of `t`."""
    return len(t._backward_hooks or ())


def uncompiled(model: nn.Module) -> nn.Module | None:
    """The module inside `torch.compile(model)`, None if it is not compiled in this way."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def has_compiled_parts(model: nn.Module) -> bool:
    """True if some of `model` runs as compiled code."""
    return any(uncompiled(m) is not None or m._compiled_call_impl is not None for m in model.modules())


@contextmanager
def run_eagerly() -> Iterator[None]:
    """What `torch.compile` has compiled runs as it was written inside, and stays compiled for its owner."""
    if compiler_loaded():
        settings: Any = sys.modules["torch._dynamo"].config  # which also refuses to be traced by make_fx, eager or not
        with torch.compiler.set_stance("force_eager"), settings.patch(error_on_nested_fx_trace=False):
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
