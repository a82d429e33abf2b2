"""What is read off a torch optimizer, in one place: settings as numbers, whose step it takes, and from which gradient.

Note [GradScaler]. A fused optimizer under `torch.amp.GradScaler` unscales inside of its step: the scaler hands it
`grad_scale`, by which it divides the gradients, and `found_inf`, which makes it skip the step. Every other optimizer
finds gradients that are unscaled already, and its step is not called at all when it is to be skipped.
"""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

ParamGroup = Mapping[str, Any]
"""A param group: settings by name, as torch keeps them or with numbers for values."""

NOT_SETTINGS = frozenset({"params", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "param_names"})
"""Entries of a param group that say what it holds, or belong to a scheduler."""


def number(x: float | Tensor) -> float:
    return float(x.detach()) if isinstance(x, Tensor) else float(x)


def plain(group: ParamGroup, wait: bool = True) -> dict[str, Any]:
    """The settings of a param group, with numbers for tensors; without `wait` words for those that are not at hand."""

    def told(x: Any) -> Any:
        if isinstance(x, (tuple, list)):
            return tuple(map(told, x))
        if isinstance(x, Tensor) and x.numel() == 1 and (wait or x.device.type == "cpu"):
            return x.item()
        return f"a tensor on {x.device}" if isinstance(x, Tensor) and not wait else x

    return {key: told(x) for key, x in group.items() if key not in NOT_SETTINGS}


def takes_step_of(optimizer: Optimizer, cls: type) -> bool:
    """True if the `step` of an optimizer is that of `cls`.

    torch wraps `step` on classes (hooks) and on instances (schedulers); both keep `__wrapped__`, which is followed.
    """
    return inspect.unwrap(optimizer.step) is inspect.unwrap(cls.step)  # type: ignore[attr-defined]


def skips(optimizer: Optimizer) -> bool:
    """True if a fused optimizer will not take this step: see Note [GradScaler]."""
    return bool(number(getattr(optimizer, "found_inf", None) or 0.0))


def grad_scale(optimizer: Optimizer) -> Tensor | None:
    """What the step divides gradients by: see Note [GradScaler]; None: nothing."""
    return getattr(optimizer, "grad_scale", None)


def followed(group: ParamGroup, scale: Tensor | float | None) -> Callable[[Tensor], Tensor]:
    """Turns a gradient in `.grad`, or a piece of it, into the one that the step follows: unscaled, perhaps flipped."""
    sign = -1.0 if group.get("maximize") else 1.0
    if scale is None and sign > 0:
        return lambda g: g
    factor: float | Tensor = sign if scale is None else sign / scale
    return lambda g: g * factor


def decay_factor(group: ParamGroup, dtype: torch.dtype) -> float:
    """1 - lr * weight_decay in the precision in which torch multiplies weights of `dtype` by it."""
    factor = 1.0 - number(group["lr"]) * number(group["weight_decay"])
    return factor if dtype == torch.float64 else ctypes.c_float(factor).value
