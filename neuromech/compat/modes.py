"""Modes, transforms of functions, profilers and the compiler. See `neuromech.compat`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor


def is_transformed(t: Tensor) -> bool:
    """True inside `torch.func` transforms (vmap, jvp, grad), where tensors have no values to look at."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(t))


@contextmanager
def traced_quietly() -> Iterator[None]:
    """A trace that fails raises; torch prints a traceback beside, also where another way is tried and found."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def untransformed(t: Tensor) -> Tensor:
    """What a tensor of a transform holds; of what `vmap` maps over, the first. To be called outside of transforms."""
    if not is_transformed(t):
        return t
    inner, mapped = untransformed(torch._C._functorch.get_unwrapped(t)), torch._C._functorch.maybe_get_bdim(t)
    return inner if mapped < 0 else inner.select(mapped, 0)


def transforms_active() -> bool:
    """True anywhere inside a transform of `torch.func`."""
    return bool(torch._C._are_functorch_transforms_active())


def dispatch_modes() -> int:
    """How many dispatch modes are on: what traces a model is one."""
    return int(torch._C._len_torch_dispatch_stack())


def saving_is_hooked() -> bool:
    """True inside `saved_tensors_hooks`, which are also what activation checkpoints are made of.

    And wherever torch cannot tell (before 2.7): whoever asks then leaves saving to torch.
    """
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top is None or top(True) is not None


@contextmanager
def outside_of_modes() -> Iterator[None]:
    """Outside of every dispatch mode and function transform that the caller may be in."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
    from torch.utils._python_dispatch import _disable_current_modes

    with temporarily_clear_interpreter_stack(), _disable_current_modes():
        yield


@contextmanager
def unobserved() -> Iterator[None]:
    """Outside of every mode, of dispatch and of functions: what others watch or count is not touched."""
    from torch.utils._python_dispatch import _disable_current_modes

    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


@contextmanager
def unprofiled() -> Iterator[None]:
    """What is done inside is not an event to a profiler."""
    if _quiet.get() or not torch._C._autograd._profiler_enabled():
        yield
        return
    before = _quiet.set(True)
    torch._C._autograd._enable_record_function(False)
    try:
        yield
    finally:
        torch._C._autograd._enable_record_function(True)
        _quiet.reset(before)


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


def innermost_function_mode() -> Any:
    """The torch function mode that sees calls first; None if there is none."""
    depth = torch._C._len_torch_function_stack()
    return torch._C._get_function_stack_at(depth - 1) if depth else None


# Both are decorators of torch.compiler, spelled as what these set: importing Dynamo takes seconds.


def left_uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compiler.disable`: runs as it is, at a break of the graph, and so does what it calls."""
    frames: Any = torch._C._dynamo.eval_frame

    @wraps(function)
    def left(*args: Any) -> Any:
        before = frames.set_eval_frame(None)
        try:
            return function(*args)
        finally:
            frames.set_eval_frame(before)

    left._torchdynamo_disable = True  # type: ignore[attr-defined]
    return left


def constant_when_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compiler.assume_constant_result`: called once, while a graph is traced, and no part of it."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@cache
def load_forward_mode() -> None:
    """torch loads forward mode at the first jvp, with a warning about its own code (a FutureWarning from 2.14 on).

    Take it here, once. Where the module is gone there is nothing to load.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            from torch._decomp import decompositions_for_jvp  # noqa: F401
        except ImportError:
            return
