"""Opaque modules made safe for forward mode: fused operations are replaced by the elementary ones that they consist of.

torch's forward rules of some fused operations cannot be differentiated again: that of layer norm then silently gives
wrong derivatives (third derivatives by reverse mode are wrong, too), those of SiLU and Mish have none. What is not
replaced is checked (`check_forward_rules`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from neuromech.errors import PhysicsError

TensorMap = Callable[[Tensor], Tensor]


def _layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    y = x - x.mean(axes, keepdim=True)
    y = y * torch.rsqrt(y.square().mean(axes, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    y = _layer_norm(x.reshape(len(x), num_groups, -1), (math.prod(x.shape[1:]) // num_groups,), eps=eps)
    y, shape = y.reshape(x.shape), (1, -1, *[1] * (x.ndim - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _silu(x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.sigmoid(x)


def _mish(x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.tanh(F.softplus(x))


ELEMENTARY: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.silu: _silu,
    F.mish: _mish,
}


class _Elementary(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known: Callable[..., Any] = ELEMENTARY.get(func, func)
        return known(*args, **(kwargs or {}))


def elementary(f: TensorMap) -> TensorMap:
    """The same function, by elementary operations."""

    def run(x: Tensor) -> Tensor:
        with _Elementary(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward derivatives
            return f(x)

    return run


def check_forward_rules(f: TensorMap, x: Tensor) -> None:
    """Raise `PhysicsError` if f's tangent has another derivative than its gradient: a rule of torch is then wrong."""
    x = x.detach()
    seeded = torch.Generator().manual_seed(0)
    v = torch.randn(x.shape, generator=seeded, dtype=x.dtype).to(x.device)

    def by_tangent(y: Tensor) -> Tensor:
        total: Tensor = jvp(f, (y,), (v,))[1].sum()
        return total

    def by_gradient(y: Tensor) -> Tensor:
        total: Tensor = (v * grad(lambda z: f(z).sum())(y)).sum()
        return total

    a, b = grad(by_tangent)(x), grad(by_gradient)(x)
    if not (a - b).abs().max() <= torch.finfo(x.dtype).eps ** 0.5 * (1 + b.abs().max()):
        raise PhysicsError(
            "in the potential is an operation whose forward derivative torch cannot differentiate again: the field and "
            "its gradient would be wrong. Pass scheme='nested', or write it by elementary operations"
        )
