"""What an energy reads besides its tensors, as a tree of facts: two trees differ where a traced graph has gone stale.

A trace freezes every Python value that the energy reads. `facts` goes the ways that its code can go: what closures and
default arguments hold, the globals and modules that the code names, attributes, slots, classes with their methods and
metaclasses, containers, arrays, sub-modules with their modes and hooks. They are compared by value where they have one,
else by identity (the object is kept, so that no other can take its address). Parameters and buffers of an energy that
is a module are handed to the graph at every call, and tensors that it reaches otherwise are read by it, so of them the
content counts only for an energy that takes numbers out of tensors.

What cannot be read (files, the clock, the inside of what C code keeps) is left to a look at what the energy does.
"""

from __future__ import annotations

import array
import dis
import functools
import os
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuromech.compat import BOOKKEEPING, hooks_of_all, own_parts, version

# Code whose own globals and closures nobody changes while an energy is in use.
LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "scipy", "torch_geometric", "neuromech"} - {"__main__"}
VALUES = {str, bytes, type(None), torch.dtype, torch.device, torch.Size, slice, range}  # as they are
TYPED = {bool, int, complex}  # 1 and True are equal and traced differently
MOST = 20_000  # objects; an energy that reaches more is guarded by what it does alone
# In code that does not say what it reads.
BY_NAME = {"globals", "getattr", "vars", "__dict__", "eval", "exec", "attrgetter"}
UNREAD = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__slots__"}
DEVICES = ("cpu", "cuda", "mps", "xpu")

Fact = Any  # a value, an object that is compared by identity, or a tuple of facts
Mask = dict[int, "Mask"] | bool  # of what to pass over: all of a fact, or of these of its parts something


def facts(energy: Callable[..., Any], contents: bool = False) -> Fact:
    """Everything besides live tensors that `energy` may read, as a tree; None if that is too much.

    `contents`: also what stands in the tensors that are not handed to the graph.
    """
    state = [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in DEVICES]
    try:
        return torch.get_default_dtype(), state, *map(_Reader(energy, contents), (energy, *hooks_of_all()))
    except (_TooMuch, RecursionError):
        return None


def same(a: Fact, b: Fact, but: Mask = False) -> bool:
    """Are two trees equal, but for what is masked?"""
    if isinstance(but, bool):
        return but or a == b
    if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
        return False
    return all(same(x, y, but.get(k, False)) for k, (x, y) in enumerate(zip(a, b, strict=True)))


def difference(a: Fact, b: Fact) -> Mask:
    """The mask of where two trees differ, as far down as these are of the same objects."""
    if a == b:
        return False
    if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
        return True
    if not isinstance(a[0], tuple) and a[0] != b[0]:  # what a fact is about stands first
        return True
    return {k: found for k, (x, y) in enumerate(zip(a, b, strict=True)) if (found := difference(x, y))}


class Same:
    """An object that is compared by identity, and kept alive for it."""

    __slots__ = ("object",)

    def __init__(self, of: object) -> None:
        self.object = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.object is other.object

    __hash__ = None  # type: ignore[assignment]


class _TooMuch(Exception):
    pass


class _Reader:
    """Called with an object, it gives the facts of it; what was met before is told by identity alone."""

    def __init__(self, energy: Callable[..., Any], contents: bool) -> None:
        self.live: dict[int, int] = {}  # of tensors that the graph is handed, their places
        if isinstance(energy, nn.Module):
            self.live = {id(t): k for k, t in enumerate((*energy.parameters(), *energy.buffers()))}
        self.seen: dict[Any, Any] = {}  # with the object itself: a temporary one must not give its id away
        self.contents = contents

    def __call__(self, x: Any) -> Fact:
        kind = type(x)
        if kind in VALUES:
            return x
        if kind in TYPED:
            return kind, x
        if kind is float:
            return x.hex()  # nan equals itself, and -0.0 is not 0.0
        if id(x) in self.seen:
            return _itself(x)
        self.seen[id(x)] = x
        if len(self.seen) > MOST:
            raise _TooMuch
        return _parts.dispatch(kind)(x, self)

    def named(self, pairs: Iterable[tuple[str, Any]]) -> tuple[Fact, ...]:
        return tuple([part for name, x in pairs for part in (name, self(x))])

    def reached(self, x: Any, names: frozenset[str]) -> Fact:
        """By code that uses these names: of a module, what it calls so."""
        if not issubclass(type(x), types.ModuleType):  # its `__class__` may be the user's
            return self(x)
        if (key := (id(x), names)) in self.seen:
            return x
        self.seen[key] = x
        inside, is_library = vars(x), _is_library(x.__name__)
        wanted = [n for n in names if n in inside]
        if not is_library and names & BY_NAME:
            wanted += [n for n, v in inside.items() if not callable(v) and not isinstance(v, types.ModuleType)]
        if not is_library and "__getattr__" in inside:
            wanted.append("__getattr__")
        read = self.of_library if is_library else self.reached
        return x, *[part for n in sorted(wanted) for part in (n, read(inside[n], names))]

    def of_library(self, x: Any, names: frozenset[str]) -> Fact:
        if isinstance(x, types.ModuleType):
            return self.reached(x, names)
        if x is os.environ or x is os.getenv:
            return self(dict(os.environ))
        return self(x) if type(x) in VALUES | TYPED | {float} else _itself(x)


_BY_IDENTITY: Any = object.__eq__


def _itself(x: Any) -> Fact:
    return x if type(x).__eq__ is _BY_IDENTITY else Same(x)


@functools.cache
def _is_library(module: str) -> bool:
    return module.split(".")[0] in LIBRARIES


def _from_library(x: Any) -> bool:
    return isinstance(name := getattr(x, "__module__", None), str) and _is_library(name)


# -- the parts of an object, by its type -------------------------------------------------------------------------------

_code, _underlying = attrgetter("__code__"), attrgetter("__func__")  # Python's own, of functions and methods


@functools.singledispatch
def _parts(x: Any, read: _Reader) -> Fact:
    """Of C code and the standard library what they pickle, if they do; of others their state, whatever they pickle."""
    kind = type(x)
    if not _from_library(kind) or kind.__module__.startswith(("torch", "neuromech")):
        return _itself(x), _state(x, read), read(kind)
    try:
        _, *rest = x.__reduce_ex__(2)
    except Exception:
        return _itself(x)
    return kind, *[read(tuple(r) if hasattr(r, "__next__") else r) for r in rest]


def _state(x: Any, read: _Reader) -> Fact:
    try:
        return read(object.__getstate__(x))  # type: ignore[attr-defined, unused-ignore]
    except Exception as error:  # the user's own way to give attributes; the class tells of it
        if isinstance(error, _TooMuch | RecursionError):
            raise
        return None


def _more(x: Any, read: _Reader, *builtin: type) -> tuple[Fact, ...]:
    """What an object of a class derived from a builtin has beside."""
    return () if type(x) in builtin or _from_library(type(x)) else (_state(x, read), read(type(x)))


@_parts.register(Mapping)
def _(x: Any, read: _Reader) -> Fact:
    if not isinstance(x, dict) and not _from_library(type(x)):
        return _itself(x), _state(x, read), read(type(x))
    items = [part for k, v in list(x.items()) for part in (k if type(k) is str else read(k), read(v))]
    return type(x), *items, *_more(x, read, dict)


@_parts.register(list)
@_parts.register(tuple)
@_parts.register(deque)
@_parts.register(set)
@_parts.register(frozenset)
def _(x: Any, read: _Reader) -> Fact:
    return type(x), *[read(e) for e in list(x)], *_more(x, read, list, tuple)


@_parts.register(Tensor)
def _(x: Tensor, read: _Reader) -> Fact:
    is_plain = type(x) in (Tensor, nn.Parameter) or not _from_library(type(x))
    more = read(vars(x)) if is_plain and vars(x) else None
    if (place := read.live.get(id(x))) is not None:
        return place, x.requires_grad, _content(x) if read.contents and not x.requires_grad else None, more
    content = _content(x) if read.contents and not x.requires_grad else None
    return Same(x), x.shape, x.dtype, x.device, x.requires_grad, content, more


def _content(x: Tensor) -> Fact:
    try:
        return x.detach().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()
    except Exception:  # not of plain memory, or inside of a transform
        return version(x)


@_parts.register(np.ndarray)
def _(x: Any, read: _Reader) -> Fact:
    content = x.tobytes() if x.dtype != object else read(x.ravel().tolist())
    return type(x), x.shape, x.dtype.str, content, None if type(x) is np.ndarray else read(vars(x))


@_parts.register(np.generic)
@_parts.register(bytearray)
@_parts.register(memoryview)
@_parts.register(array.array)
def _(x: Any, read: _Reader) -> Fact:
    return type(x), getattr(x, "dtype", None), bytes(x) if isinstance(x, bytearray) else x.tobytes()


@_parts.register(nn.Module)
def _(m: nn.Module, read: _Reader) -> Fact:
    if isinstance(m, torch.jit.ScriptModule):
        return m, m.training
    parameters, buffers, children = own_parts(m)
    others = [
        part
        for name, x in list(vars(m).items())
        if name not in BOOKKEEPING and not (isinstance(x, dict) and not x and "hooks" in name)
        for part in (name, read(x))
    ]
    tensors = read.named(parameters.items()) + read.named(buffers.items())
    return _itself(m), tensors, tuple(others), read.named(list(children.items())), read(type(m))


@_parts.register(type)
def _(cls: type, read: _Reader) -> Fact:
    bases = tuple([read(b) for b in cls.__bases__ if b is not object])
    if _from_library(cls):  # where its forward has been replaced, that is followed
        return cls, vars(cls).get("forward"), bases if issubclass(cls, nn.Module) else ()
    own = read.named((name, x) for name, x in list(vars(cls).items()) if name not in UNREAD)
    return cls, own, bases, None if type(cls) is type else read(type(cls))


@_parts.register(types.FunctionType)
def _(f: Any, read: _Reader) -> Fact:
    code = _code(f)
    fixed = code, read(f.__defaults__), read(f.__kwdefaults__), read(f.__dict__) if f.__dict__ else None
    names = _names(code)
    held = [read.reached(_inside(cell), names) for cell in f.__closure__ or ()]
    if _from_library(f):
        return fixed, *held
    inside, package = f.__globals__, f.__globals__.get("__package__")
    for name in _roots(code):
        if name in inside:
            held += name, read.reached(inside[name], names)
        elif module := sys.modules.get(name) or sys.modules.get(f"{package}.{name}"):
            held += name, read.reached(module, names)
    if "globals" in names:
        held += read.named((k, x) for k, x in list(inside.items()) if not callable(x) and k[:2] != "__")
    return fixed, *held


def _inside(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code and those of the functions inside of it."""
    yield code
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            yield from _codes(c)


@functools.lru_cache(4096)
def _names(code: types.CodeType) -> frozenset[str]:
    """All that a code names: globals, attributes, imports."""
    return frozenset(name for c in _codes(code) for name in c.co_names)


@functools.lru_cache(4096)
def _roots(code: types.CodeType) -> list[str]:
    """The names at which it begins to read: globals and imports."""
    where = {"LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME", "IMPORT_FROM"}
    return sorted({i.argval for c in _codes(code) for i in dis.get_instructions(c) if i.opname in where})


@_parts.register(types.MethodType)
def _(x: Any, read: _Reader) -> Fact:
    return read(_underlying(x)), read(x.__self__)


@_parts.register(types.BuiltinMethodType)
def _(x: Any, read: _Reader) -> Fact:
    return x.__name__, None if isinstance(x.__self__, types.ModuleType) else read(x.__self__), Same(x)


@_parts.register(property)
@_parts.register(functools.cached_property)
@_parts.register(classmethod)
@_parts.register(staticmethod)
@_parts.register(types.CellType)
@_parts.register(weakref.ReferenceType)
@_parts.register(ContextVar)
def _(x: Any, read: _Reader) -> Fact:
    """What wraps one object."""
    ways: dict[type, Callable[[Any], Any]] = {property: attrgetter("fget"), types.CellType: _inside}
    ways |= {functools.cached_property: attrgetter("func"), classmethod: _underlying, staticmethod: _underlying}
    ways |= {weakref.ReferenceType: lambda x: x(), ContextVar: lambda x: x.get(None)}
    return type(x), read(next(way(x) for kind, way in ways.items() if isinstance(x, kind)))


@_parts.register(weakref.ProxyType)
@_parts.register(weakref.CallableProxyType)
def _(x: Any, read: _Reader) -> Fact:
    return read(x.__repr__.__self__)


@_parts.register(types.ModuleType)
def _(x: Any, read: _Reader) -> Fact:
    return read.reached(x, frozenset(() if _is_library(x.__name__) else vars(x)))
