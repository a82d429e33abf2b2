"""The discrete chain rule of every operator: its change between two states as a linear map of its inputs' changes.

    linear      y = A x                 dy = A dx: its own transpose
    bilinear    y = B(x, z)             Leibniz at the midpoint: dy = B(dx, mean z) + B(mean x, dz)
    quadratic   y = Q(x, x)             the derivative at the midpoint, exact for the same reason
    softmax     the softmax of one state and of the other, averaged (see `sweep.py`)
    secant      y_i = f(x_i)            dy_i = f[a_i, b_i] dx_i, the divided difference
    composite   written in operators that have rules; also every operator that PyTorch itself composes of such

An operator is one line. One that is in no table has no rule, and is refused by name: nothing is approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neuromech.physics.energy import secants
from neuromech.physics.energy.secants import Secant

# Linear in all their tensors together. What only chooses, moves, repeats or sums entries is.
LINEAR = frozenset(
    """add sub rsub neg positive div sum mean cumsum diff
    view reshape flatten unflatten squeeze unsqueeze expand expand_as broadcast_to repeat tile repeat_interleave
    t numpy_T mT permute transpose movedim swapaxes diagonal diag_embed roll flip
    slice select narrow split split_with_sizes chunk unbind unfold index index_select gather
    cat stack hstack pad constant_pad_nd avg_pool1d avg_pool2d adaptive_avg_pool2d
    clone contiguous to type_as tril triu where masked_fill
    fft_fft fft_ifft fft_rfft fft_irfft fft_rfft2 fft_fftshift real imag view_as_real complex""".split()
)
BILINEAR = frozenset(
    """mul matmul mm bmm mv addmm baddbmm linear linalg_cross addcmul lerp
    conv1d conv2d convolution conv_transpose1d""".split()
)
QUADRATIC = frozenset("square var mse_loss".split())
SOFTMAX = frozenset("softmax _softmax log_softmax _log_softmax logsumexp".split())

# f[a, b] by the operator's name, given its arguments after the first.
SECANTS: dict[str, Callable[..., Secant]] = {
    "tanh": lambda: secants.tanh,
    "sigmoid": lambda: secants.sigmoid,
    "exp": lambda: secants.exp,
    "expm1": lambda: secants.exp,
    "sinh": lambda: secants.sinh,
    "cosh": lambda: secants.cosh,
    "sin": lambda: secants.sin,
    "cos": lambda: secants.cos,
    "tan": lambda: secants.tan,
    "atan": lambda: secants.atan,
    "log": lambda: secants.log,
    "log1p": lambda: secants.log1p,
    "sqrt": lambda: secants.sqrt,
    "rsqrt": lambda: secants.rsqrt,
    "reciprocal": lambda: secants.reciprocal,
    "relu": lambda: secants.relu,
    "abs": lambda: secants.absolute,
    "erf": lambda: secants.erf,
    "softplus": lambda beta=1.0, threshold=20.0: secants.softplus(beta, threshold),
    "pow": lambda n: secants.power(int(n)),
}


def _pow(x: Any, p: Any) -> Any:
    if isinstance(x, Tensor) and isinstance(p, (int, float)):
        if p == int(p) and p > 0:
            return NotImplemented  # a secant
        if p == int(p):
            return torch.reciprocal(x) ** int(-p) if p else torch.ones_like(x)
        if 2 * p == int(2 * p):
            return (torch.sqrt(x) if p > 0 else torch.rsqrt(x)) ** int(abs(2 * p))
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


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    slope = slope.reshape([1, -1] + [1] * (x.ndim - 2)) if slope.numel() > 1 and x.ndim > 1 else slope
    return slope * x + (1 - slope) * torch.relu(x)


def _vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    if dtype is not None or x.is_complex() or ord not in (None, 1, 2):
        return NotImplemented
    dims = list(range(x.ndim)) if dim is None or dim == [] else dim
    return x.abs().sum(dims, keepdim) if ord == 1 else torch.sqrt((x * x).sum(dims, keepdim))


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
) -> Tensor:
    if training or mean is None:
        return NotImplemented  # it couples the samples of the batch
    channel = [1, -1] + [1] * (x.ndim - 2)
    y = (x - mean.reshape(channel)) * torch.rsqrt(var + eps).reshape(channel)
    y = y if weight is None else y * weight.reshape(channel)
    return y if bias is None else y + bias.reshape(channel)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Any = None, dropout: float = 0.0, causal: bool = False, *,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if mask is not None or dropout or causal or enable_gqa:
        return NotImplemented
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return torch.softmax(q @ k.transpose(-2, -1) * factor, -1) @ v


def _dropout(x: Tensor, p: float, train: bool) -> Tensor:
    return NotImplemented if train and p else x.clone()


def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Circular padding as slices and `cat`: PyTorch's own writes in place."""
    if mode != "circular":
        return NotImplemented
    for k in range(0, len(pad), 2):
        dim = x.ndim - 1 - k // 2
        left, right, n = pad[k], pad[k + 1], x.shape[dim]
        x = torch.cat([x.narrow(dim, n - left, left), x, x.narrow(dim, 0, right)], dim)
    return x


COMPOSITES: dict[str, Callable[..., Any]] = {
    "pow": _pow,
    "div": _div,
    "true_divide": _div,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min),
    "clamp_max": lambda x, max: _clamp(x, None, max),
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
}
