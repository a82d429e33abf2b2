"""What an energy reads besides its tensors, as a list of facts: two lists differ where a traced graph has gone stale.

A trace freezes every Python value that the energy reads: attributes, sub-modules and their modes, hooks, what closures
and default arguments hold, globals that the code names, class attributes, arrays. Each of them is a fact, compared by
value where it has one, else by identity (the object is kept, so that no other can take its address). Parameters and
buffers of an energy that is a module are handed to the graph at every call, so of them the names count alone.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuromech.compat import BOOKKEEPING, own_parts

# Code whose own globals and closures nobody changes while an energy is in use.
LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "scipy", "torch_geometric"} - {"__main__"}
VALUES = (bool, int, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size, slice, range)
MOST = 100_000  # facts; an energy that reaches more is guarded by what it does alone


class Same:
    """An object that is compared by identity, and kept alive for it."""

    __slots__ = ("object",)

    def __init__(self, of: object) -> None:
        self.object = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.object is other.object

    __hash__ = None  # type: ignore[assignment]


_code, _underlying = attrgetter("__code__"), attrgetter("__func__")  # Python's own, of functions and methods
Facts = list[Any]
LivePlaces = dict[int, int]  # id of a tensor that the graph is handed, its place
Seen = dict[int, tuple[int, Any]]  # id, place and the object itself: a temporary one must not give its id away


def facts(energy: Callable[..., Any]) -> Facts:
    """Everything besides live tensors that `energy` may read, in an order that does not change by itself."""
    live: LivePlaces = {}
    if isinstance(energy, nn.Module):
        live = {id(t): k for k, t in enumerate((*energy.parameters(), *energy.buffers()))}
    found: Facts = []
    for fact in _walk(energy, live, {}):
        found.append(fact)
        if len(found) > MOST:
            break
    return found


def _walk(x: Any, live: LivePlaces, seen: Seen) -> Iterator[Any]:
    if isinstance(x, float):
        yield x.hex()  # nan equals itself, and -0.0 is not 0.0
        return
    if isinstance(x, VALUES):
        yield type(x), x
        return
    if id(x) in seen:
        yield "again", seen[id(x)][0]
        return
    seen[id(x)] = (len(seen), x)
    if isinstance(x, Tensor):
        if id(x) in live:
            yield "live", live[id(x)]
        else:
            yield Same(x), x.shape, x.dtype, x.device
    elif isinstance(x, np.ndarray):
        yield x.shape, x.dtype.str, x.tobytes() if x.dtype != object else Same(x)
    elif isinstance(x, np.generic | bytearray):
        yield from (type(x), bytes(x))
    elif isinstance(x, torch.jit.ScriptModule):
        yield Same(x)
        yield x.training
    elif isinstance(x, nn.Module):
        yield from _module(x, live, seen)
    elif isinstance(x, Mapping):
        yield from (type(x), len(x))
        for key, value in list(x.items()):
            yield from _walk(key, live, seen)
            yield from _walk(value, live, seen)
    elif isinstance(x, set | frozenset):
        yield from (type(x), x if all(isinstance(e, VALUES) for e in x) else Same(x))
    elif isinstance(x, list | tuple) or type(x).__name__ == "deque":
        yield from (type(x), len(x))
        for value in list(x):
            yield from _walk(value, live, seen)
    elif isinstance(x, FunctionType):
        yield from _function(x, live, seen)
    elif isinstance(x, MethodType):
        yield from _walk(_underlying(x), live, seen)
        yield from _walk(x.__self__, live, seen)
    elif isinstance(x, functools.partial):
        yield from _walk((x.func, x.args, x.keywords), live, seen)
    elif isinstance(x, ModuleType) or _library(x):
        yield Same(x)
        if _has_plain_state(x):
            yield from _walk(vars(x), live, seen)
    elif isinstance(x, type):
        yield from _class(x, live, seen)
    else:
        yield from _object(x, live, seen)


def _library(x: Any) -> bool:
    name = getattr(x, "__module__", None) or type(x).__module__
    return isinstance(name, str) and name.split(".")[0] in LIBRARIES


def _has_plain_state(x: Any) -> bool:
    """Namespaces of the standard library, which people keep their settings in."""
    return type(x).__name__ in ("SimpleNamespace", "Namespace") and hasattr(x, "__dict__")


def _module(m: nn.Module, live: LivePlaces, seen: Seen) -> Iterator[Any]:
    parameters, buffers, children = own_parts(m)
    yield from (Same(m), m.training, tuple(parameters), tuple(buffers))
    for tensor in (*parameters.values(), *buffers.values()):
        if tensor is not None and id(tensor) not in live:
            yield from _walk(tensor, live, seen)
    for name, value in list(vars(m).items()):
        without_hooks = isinstance(value, dict) and not value and name.endswith(("hooks", "hooks_with_kwargs"))
        if name in BOOKKEEPING or without_hooks:
            continue
        yield name
        yield from _walk(value, live, seen)
    yield from _class(type(m), live, seen)
    for name, child in list(children.items()):
        yield name
        yield from _walk(child, live, seen)


def _object(x: Any, live: LivePlaces, seen: Seen) -> Iterator[Any]:
    yield Same(x)
    yield from _walk(getattr(x, "__dict__", None), live, seen)
    for cls in type(x).__mro__:
        for slot in getattr(cls, "__slots__", ()):
            yield from _walk(getattr(x, slot, None), live, seen)
    yield from _class(type(x), live, seen)


def _class(cls: type, live: LivePlaces, seen: Seen) -> Iterator[Any]:
    """Attributes and methods of a class and of those that it inherits from, as far as they are the user's."""
    for base in cls.__mro__:
        if _library(base) or base.__module__.split(".")[0] == "neuromech":
            yield Same(base)
            if issubclass(base, nn.Module):
                yield Same(base.__dict__.get("forward"))
        elif id(base) not in seen:
            seen[id(base)] = (len(seen), base)
            yield Same(base)
            for name, value in list(vars(base).items()):
                if isinstance(value, property):
                    value = (value.fget,)
                elif isinstance(value, classmethod | staticmethod):
                    value = _underlying(value)
                if not name.startswith("__") or name == "__call__":
                    yield name
                    yield from _walk(value, live, seen)


def _function(f: FunctionType, live: LivePlaces, seen: Seen) -> Iterator[Any]:
    yield Same(_code(f))
    yield from _walk((f.__defaults__, f.__kwdefaults__), live, seen)
    if _library(f):
        return
    for cell in f.__closure__ or ():
        try:
            yield from _walk(cell.cell_contents, live, seen)
        except ValueError:
            yield "empty"
    if f.__module__ is not None and f.__module__.split(".")[0] == "neuromech":
        return
    names = list(_names(_code(f)))
    for name in names:
        if name in f.__globals__:
            value = f.__globals__[name]
            yield name
            yield from _walk(value, live, seen)
            if isinstance(value, ModuleType) and value.__name__.split(".")[0] not in LIBRARIES | {"neuromech"}:
                for attribute in names:
                    yield from _walk(getattr(value, attribute, None), live, seen)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def volatile(before: Facts, after: Facts) -> set[int] | None:
    """Places of facts that an evaluation of the energy itself changes; None if it changes how many there are."""
    if len(before) != len(after):
        return None
    return {k for k, (a, b) in enumerate(zip(before, after, strict=True)) if a is not b and a != b}
