"""Operators written in operators that have rules: the table `COMPOSITES`.

Each takes what its operator takes. One that meets a case that it does not cover gives NotImplemented: the operator then
stays what it is, and has a rule or is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neuromech.physics.energy import losses, reductions
from neuromech.physics.energy.reductions import reduced


def _pow(x: Any, p: Any) -> Any:
    if isinstance(x, Tensor) and isinstance(p, (int, float)):
        if p == int(p) and p > 0:
            return NotImplemented  # a secant
        if p == int(p):
            return torch.reciprocal(x) ** int(-p) if p else torch.ones_like(x)
        if 2 * p == int(2 * p):
            return (torch.sqrt(x) if p > 0 else torch.rsqrt(x)) ** int(abs(2 * p))
    if isinstance(x, Tensor) and isinstance(p, Tensor):  # of a negative number, as far as p is whole
        negative = (1 - torch.sign(x)) / 2
        return (1 - negative * (1 - torch.cos(math.pi * p))) * torch.exp(p * torch.log(torch.abs(x)))
    return torch.exp(p * (torch.log(x) if isinstance(x, Tensor) else math.log(x)))


def _div(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    return x * torch.reciprocal(y) if isinstance(y, Tensor) and rounding_mode is None else NotImplemented


def _clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    x = x if min is None else min + torch.relu(x - min)
    return x if max is None else max - torch.relu(max - x)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return x * (0.5 + 0.5 * torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * (0.5 + 0.5 * torch.erf(x * math.sqrt(0.5)))


def _elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    return scale * (torch.relu(x) + alpha * torch.expm1(-input_scale * torch.relu(-x)))


def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    out = torch.einsum("...i,oij,...j->...o", x, weight, y)
    return out if bias is None else out + bias


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    slope = slope.reshape([1, -1] + [1] * (x.ndim - 2)) if slope.numel() > 1 and x.ndim > 1 else slope
    return slope * x + (1 - slope) * torch.relu(x)


def _vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if dtype is not None or x.is_complex() or ord in (0, -math.inf):
        return NotImplemented
    dims = list(range(x.ndim)) if dim is None or dim == [] else dim
    if ord in (None, 2):
        return torch.sqrt((x * x).sum(dims, keepdim))
    if ord == math.inf:
        return reduced(torch.maximum, x.abs(), dims, keepdim)
    return x.abs().sum(dims, keepdim) if ord == 1 else (x.abs() ** ord).sum(dims, keepdim) ** (1 / ord)


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    dims = list(range(x.ndim - len(shape), x.ndim))
    x = x - x.mean(dims, keepdim=True)
    x = x * torch.rsqrt((x * x).mean(dims, keepdim=True) + eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Tensor:
    y = x.reshape(x.shape[0], groups, -1)
    y = _layer_norm(y, y.shape[-1:], eps=eps).reshape(x.shape)
    channel = [1, -1] + [1] * (x.ndim - 2)
    y = y if weight is None else y * weight.reshape(channel)
    return y if bias is None else y + bias.reshape(channel)


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float, *_: Any
) -> Any:
    if training or mean is None:
        return NotImplemented  # it couples the samples of the batch
    channel = [1, -1] + [1] * (x.ndim - 2)
    y = (x - mean.reshape(channel)) * torch.rsqrt(var + eps).reshape(channel)
    y = y if weight is None else y * weight.reshape(channel)
    return y if bias is None else y + bias.reshape(channel)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Any = None, dropout: float = 0.0, causal: bool = False, *,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    if dropout:
        return NotImplemented
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    score = q @ k.transpose(-2, -1) * factor
    if causal:
        mask = torch.ones(score.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        score = score.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else score + mask
    return torch.softmax(score, -1) @ v


def _dropout(x: Tensor, p: float, train: bool) -> Any:
    return NotImplemented if train and p else x.clone()


def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Circular padding as slices and `cat`: PyTorch's own writes in place."""
    if mode != "circular":
        return NotImplemented
    for k in range(0, len(pad), 2):
        dim = x.ndim - 1 - k // 2
        left, right, n = pad[k], pad[k + 1], x.shape[dim]
        x = torch.cat([x.narrow(dim, n - left, left), x, x.narrow(dim, 0, right)], dim)
    return x


def _abs(x: Tensor) -> Any:
    return torch.sqrt(x.real * x.real + x.imag * x.imag) if x.is_complex() else NotImplemented


def _solve(a: Tensor, b: Tensor, *, left: bool = True) -> Any:
    inverse = torch.linalg.inv(a)
    if not left:
        return b @ inverse
    is_vector = b.ndim == 1 or (a.ndim - 1 == b.ndim and b.shape == a.shape[:-1])
    return (inverse @ b.unsqueeze(-1)).squeeze(-1) if is_vector else inverse @ b


def _solve_triangular(a: Tensor, b: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    if unitriangular:
        return NotImplemented
    inverse = torch.linalg.inv(torch.triu(a) if upper else torch.tril(a))
    return inverse @ b if left else b @ inverse


def _cholesky_solve(b: Tensor, factor: Tensor, upper: bool = False) -> Any:
    return torch.linalg.inv(factor.mT @ factor if upper else factor @ factor.mT) @ b


def _slogdet(a: Tensor) -> Any:
    d = torch.linalg.det(a)
    return torch.sign(d), torch.log(torch.abs(d))


def _distance(d: Tensor, p: float) -> Tensor:
    """|d|_p over the last axis; at d = 0 its slope is 0, as autograd has it."""
    if p == 2:
        return torch.sqrt((d * d).sum(-1))
    return d.abs().sum(-1) if p == 1 else _vector_norm(d, p, [-1])


def _cdist(x: Tensor, y: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    return _distance(x.unsqueeze(-2) - y.unsqueeze(-3), p)


def _pdist(x: Tensor, p: float = 2.0) -> Tensor:
    first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return _distance(x.index_select(0, first) - x.index_select(0, second), p)


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    a, b = x.chunk(2, dim)
    return a * torch.sigmoid(b)


def _hardshrink(x: Tensor, at: float = 0.5) -> Tensor:
    return torch.where(x.abs() > at, x, torch.zeros_like(x))


def _atan2(y: Tensor, x: Tensor) -> Tensor:
    """By the half angle: of y / (r + |x|), which loses no digits on either side."""
    half = torch.atan(y / (torch.sqrt(x * x + y * y) + x.abs()).clamp_min(torch.finfo(x.dtype).tiny))
    return torch.where(x >= 0, 2 * half, torch.where(y >= 0, math.pi, -math.pi) - 2 * half)


def _logit(x: Tensor, eps: Any = None) -> Tensor:
    x = x if eps is None else _clamp(x, eps, 1 - eps)
    return torch.log(x) - torch.log1p(-x)


def _remainder(x: Any, y: Any) -> Any:
    return x - y * torch.floor(x / y) if isinstance(x, Tensor) and not isinstance(y, Tensor) else NotImplemented


def _instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, use_input: bool, momentum: float, eps: float, *_: Any
) -> Any:
    if not use_input:
        return _batch_norm(x, weight, bias, mean, var, False, momentum, eps)
    return _group_norm(x, x.shape[1], weight, bias, eps)


COMPOSITES: dict[str, Callable[..., Any]] = {
    "pow": _pow,
    "div": _div,
    "true_divide": _div,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min),
    "clamp_max": lambda x, max: _clamp(x, None, max),
    "bilinear": _bilinear,
    "hardtanh": lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    "relu6": lambda x: _clamp(x, 0.0, 6.0),
    "hardsigmoid": lambda x: _clamp(x / 6 + 0.5, 0.0, 1.0),
    "hardswish": lambda x: x * _clamp(x / 6 + 0.5, 0.0, 1.0),
    "leaky_relu": lambda x, slope=0.01: slope * x + (1 - slope) * torch.relu(x),
    "prelu": _prelu,
    "threshold": lambda x, at, value: torch.relu(x) if at == value == 0 else NotImplemented,
    "maximum": lambda x, y: y + torch.relu(x - y),
    "minimum": lambda x, y: y - torch.relu(y - x),
    "elu": _elu,
    "selu": lambda x: _elu(x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946),
    "celu": lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1 / alpha),
    "silu": lambda x: x * torch.sigmoid(x),
    "mish": lambda x: x * torch.tanh(torch.nn.functional.softplus(x, 1.0, 40.0)),
    "gelu": _gelu,
    "log_sigmoid": lambda x: torch.log(torch.sigmoid(x)),
    "erfc": lambda x: 1 - torch.erf(x),
    "exp2": lambda x: torch.exp(x * math.log(2)),
    "log2": lambda x: torch.log(x) * (1 / math.log(2)),
    "log10": lambda x: torch.log(x) * (1 / math.log(10)),
    "atanh": lambda x: 0.5 * (torch.log1p(x) - torch.log1p(-x)),
    "logaddexp": lambda x, y: y + torch.nn.functional.softplus(x - y, 1.0, 40.0),
    "addcdiv": lambda x, y, z, *, value=1: x + value * y * torch.reciprocal(z),
    "std": lambda x, *args, **kwargs: torch.sqrt(torch.var(x, *args, **kwargs)),
    "linalg_vector_norm": _vector_norm,
    "norm": _vector_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "scaled_dot_product_attention": _attention,
    "dropout": _dropout,
    "pad": _pad,
    "abs": _abs,
    "prod": reductions.prod,
    "cumprod": reductions.cumprod,
    "amax": lambda x, *args, **kwargs: reduced(torch.maximum, x, *args, **kwargs),
    "amin": lambda x, *args, **kwargs: reduced(torch.minimum, x, *args, **kwargs),
    "max": reductions.extremum(torch.maximum, torch.argmax),
    "min": reductions.extremum(torch.minimum, torch.argmin),
    "linalg_solve": _solve,
    "linalg_solve_triangular": _solve_triangular,
    "cholesky_solve": _cholesky_solve,
    "linalg_slogdet": _slogdet,
    "slogdet": _slogdet,
    "logdet": lambda a: torch.log(torch.linalg.det(a)),
    "cdist": _cdist,
    "pdist": _pdist,
    "huber_loss": losses.huber,
    "smooth_l1_loss": losses.smooth_l1,
    "cross_entropy_loss": losses.cross_entropy,
    "nll_loss_forward": losses.nll,
    "nll_loss2d_forward": losses.nll,
    "binary_cross_entropy": losses.binary_cross_entropy,
    "binary_cross_entropy_with_logits": losses.binary_cross_entropy_with_logits,
    "soft_margin_loss": losses.soft_margin,
    "multi_margin_loss": losses.multi_margin,
    "glu": _glu,
    "softshrink": lambda x, at=0.5: x - _clamp(x, -at, at),
    "hardshrink": _hardshrink,
    "remainder": _remainder,
    "frac": lambda x: x - torch.trunc(x),
    "instance_norm": _instance_norm,
    "asin": lambda x: torch.atan(x * torch.rsqrt((1 - x) * (1 + x))),
    "acos": lambda x: math.pi / 2 - torch.atan(x * torch.rsqrt((1 - x) * (1 + x))),
    "acosh": lambda x: torch.log1p((x - 1) + torch.sqrt((x - 1) * (x + 1))),
    "hypot": lambda x, y: torch.sqrt(x * x + y * y),
    "logit": _logit,
    "atan2": _atan2,
    "logcumsumexp": reductions.logcumsumexp,
    "scatter_reduce": reductions.scatter_reduce,
    "index_reduce": reductions.index_reduce,
    **{f"max_pool{n}d": reductions.max_pool(n) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": reductions.max_pool(n, True) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": reductions.adaptive_max_pool for n in (1, 2, 3)},
}
