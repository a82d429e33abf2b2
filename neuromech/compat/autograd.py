"""The engine of autograd, and the functions that users write for it. See `neuromech.compat`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, cast

import torch
from torch.autograd.variable import Variable


def backward_id() -> int:
    """Which backward is running: a number, -1 outside of all. Hooks of one backward recognise each other by it."""
    return int(torch._C._current_graph_task_id())


def at_end_of_backward(callback: Callable[[], None]) -> None:
    """Have `callback` called when the backward that is running ends. DistributedDataParallel is built on the same."""
    engine: Any = Variable._execution_engine
    engine.queue_callback(callback)


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply(*args)`, which torch has not annotated."""
    return function.apply(*args)


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


def code_of(function: Any) -> Any:
    """The code object of a Python function, below decorators and bound methods; None for what is written in C."""
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        function = inner
    return getattr(getattr(function, "__func__", function), "__code__", None)


_APPLY = code_of(torch.autograd.Function.apply)


def _forwards() -> dict[Any, str]:
    """Of every custom function that was ever defined: the code of its forward, and its name."""
    return {code_of(f.forward): f.__name__ for f in _below(torch.autograd.Function) if "forward" in vars(f)}


def _below(cls: type[Any]) -> Iterator[type[Any]]:
    for inner in cls.__subclasses__():
        yield inner
        yield from _below(inner)
