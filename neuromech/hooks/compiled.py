"""Hooks under `torch.compile`: they are traced into nothing, and leave neither a graph break nor a recompilation.

While Dynamo traces a forward it runs our hooks too. What they do there would become part of the compiled code; instead
they ask Dynamo to call `hear` once, at once, as something whose result is constant. It is called with the real inputs,
which is all that there is to know. Steps of a compiled optimizer break the graph anyhow: there hooks run as they are.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from neuromech.compat import constant_when_compiled, with_own_code

Told = Callable[[tuple[Any, ...], dict[str, Any]], None]

_listeners: weakref.WeakValueDictionary[int, Listener] = weakref.WeakValueDictionary()
_apart: Counter[FunctionType] = Counter()  # how many models with this forward were set apart
MOST_APART = 4
_UNKNOWN = "neuromech: an argument that is neither a tensor nor plain"


class Listener:
    """Hears of the inputs with which a hooked forward is compiled. `hear`: what its hook calls while Dynamo traces.

    A function of its own for each: a number that told them apart would be a dynamic shape to Dynamo.
    """

    def __init__(self, told: Told) -> None:
        self.told = told
        key = id(self)
        _listeners[key] = self

        def hear(template: Any, *leaves: Any) -> int:
            listener = _listeners.get(key)
            if listener is not None:
                try:
                    args, kwargs = _unpacked(template, leaves)
                except LookupError:
                    return 0
                listener.told(args, kwargs)
            return 0

        constant_when_compiled(hear)
        self.hear = hear


def set_apart(model: nn.Module) -> Callable[[], None]:
    """Let Dynamo compile `model` for itself, if it has compiled anything before; returns what undoes it.

    It would run what it compiled for another model of the class, without a look at hooks: ours would never be traced.
    It does look for a `forward` of a module's own, and at its code: the same one, as another object. But what is called
    around the model may be compiled a few times only (torch.compiler.config.recompile_limit): some are left to others.
    """
    forward = getattr(type(model), "forward", None)
    if not isinstance(forward, FunctionType) or "forward" in vars(model) or _apart[forward] >= MOST_APART:
        return lambda: None
    _apart[forward] += 1
    mine = vars(model)["forward"] = MethodType(with_own_code(forward), model)

    def undo() -> None:
        if vars(model).get("forward") is mine:
            del vars(model)["forward"]

    return undo


def tell(hear: Callable[..., int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Called while Dynamo traces: hands the real arguments to a listener."""
    leaves: list[Any] = []
    template = _packed((args, kwargs), leaves)
    hear(template, *leaves)


def _packed(x: Any, leaves: list[Any]) -> Any:
    """`x` as nested tuples of strings and numbers, its tensors and plain values in `leaves`."""
    if isinstance(x, torch.Tensor) or x is None or isinstance(x, (bool, int, float, str)):
        leaves.append(x)
        return ("leaf", len(leaves) - 1)
    if isinstance(x, dict):
        return ("dict", tuple([(key, _packed(value, leaves)) for key, value in x.items()]))
    if isinstance(x, (tuple, list)):
        return ("tuple" if isinstance(x, tuple) else "list", tuple([_packed(value, leaves) for value in x]))
    return (_UNKNOWN, 0)


def _unpacked(template: Any, leaves: tuple[Any, ...]) -> Any:
    kind, what = template
    if kind == "leaf":
        return leaves[what]
    if kind == "dict":
        return {key: _unpacked(value, leaves) for key, value in what}
    if kind in ("tuple", "list"):
        return (tuple if kind == "tuple" else list)(_unpacked(value, leaves) for value in what)
    raise LookupError(kind)
