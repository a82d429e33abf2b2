"""Runs a model in float64 whatever it says about precision, and with the eps of its norms turned down.

A model that casts to float32 on the way would leave rounding errors of 1e-7 on every claim, enough to hide a false one
and to throw away a true one. So casts to a narrower type lead to float64 instead, and tensors that are made on the way
are widened.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from neuromech.compat import OpOverload, schema_of, tree_map, tree_map_only
from neuromech.detect.experts import GROUPED, products_of_blocks

_NARROW = {torch.float32, torch.float16, torch.bfloat16}
_CASTS = {Tensor.float, Tensor.half, Tensor.bfloat16}
# They ask which tensor it is, not what it holds: a widened copy would be another one.
_IDENTITY = {"__hash__", "untyped_storage", "data_ptr"}
_NORMS = {"batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"} | {
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional"),
    *("native_layer_norm", "native_group_norm"),
}
_ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__", "clamp", "clamp_", "clamp_min", "clamp_min_", "clip"}
_SMALL = 1e-3  # as detection has it: numbers up to here that are added, or bound from below, are an eps


def widened(t: Tensor) -> Tensor:
    """A copy in float64, or in its own type if it is not a real floating-point number."""
    return t.detach().to(torch.float64 if t.is_floating_point() else t.dtype, copy=True)


class Precise(TorchFunctionMode):
    """Inside, floating-point numbers are float64, and norms add `eps_factor * eps`."""

    def __init__(self, eps_factor: float = 1.0) -> None:
        super().__init__()
        self.eps_factor = eps_factor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0]  # exported programs name the overload too
        if name in _IDENTITY:
            return func(*args, **kwargs)
        args, kwargs = tree_map(_wide, (args, kwargs))
        if func in _CASTS:
            func = Tensor.double
        if name in GROUPED:
            func = products_of_blocks
        if self.eps_factor != 1.0 and name in _NORMS:
            args, kwargs = _with_eps(func, args, kwargs, self.eps_factor)
        if self.eps_factor != 1.0 and name in _ADDITIONS:
            args, kwargs = tree_map(self._small, (args, kwargs))
        return tree_map_only(Tensor, _wide, func(*args, **kwargs))

    def _small(self, x: Any) -> Any:
        return x * self.eps_factor if type(x) is float and 0 < abs(x) <= _SMALL else x


def _wide(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.double() if x.dtype in _NARROW else x
    return torch.float64 if isinstance(x, torch.dtype) and x in _NARROW else x


def _with_eps(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], factor: float
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with `factor * eps` in place of eps, wherever that stands."""
    defaults = _defaults(func)
    given = dict(zip(defaults, args, strict=False)) | kwargs
    eps = given.get("eps", defaults["eps"])
    position = list(defaults).index("eps")
    if eps is None:  # the norm takes the eps of its type, which cannot be turned down
        return args, kwargs
    if position < len(args):
        return (*args[:position], factor * eps, *args[position + 1 :]), kwargs
    return args, kwargs | {"eps": factor * eps}


def _defaults(func: Any) -> Mapping[str, Any]:
    """The arguments of a norm by name, in order, with their defaults."""
    if isinstance(func, OpOverload):
        return {a.name: a.default_value for a in schema_of(func).arguments}
    if inspect.isbuiltin(func):
        schema = schema_of(getattr(torch.ops.aten, func.__name__).default)
        return {a.name: a.default_value for a in schema.arguments}
    return {name: p.default for name, p in inspect.signature(func).parameters.items()}
