"""Operators in their mathematical form, where torch's own have no second derivative, or a third one that is wrong.

Fused attention has no second derivative. The second derivatives that torch has for batch, instance and layer norm
treat the saved mean and variance as constants, so that third derivatives come out wrong, without a word (measured: by
20 to 70 %). Where two derivatives are enough, some operators are put in a form that makes them cheap, see
`double_backward`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.backends import cuda
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from neuromech.eom import double_backward

# Operators as torch has them (right in forward mode), in a cheap form for two reverse derivatives, or norms by
# elementary operators.
Form = Literal["torch", "twice", "open"]


@contextmanager
def mathematical(form: Form) -> Iterator[None]:
    """Attention by elementary operators, and others in `form`: beyond second derivatives it has to be "open"."""
    # What sdpa_kernel does, which takes as long as a layer to do it.
    fused = [enable for enabled, enable in FUSED if enabled()]
    plain = cuda.math_sdp_enabled()
    for enable in fused:
        enable(False)
    cuda.enable_math_sdp(True)
    try:
        if form == "torch":
            yield
        else:
            with _Forms(form):
                yield
    finally:
        for enable in fused:
            enable(True)
        cuda.enable_math_sdp(plain)


FUSED = (
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
)


class _Forms(TorchFunctionMode):
    def __init__(self, form: Form) -> None:
        super().__init__()
        self._open = form == "open"

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        form = (FORMS if self._open else double_backward.FORMS).get(function)
        if form is None or not (self._open or double_backward.applies()):
            form = function
        return form(*args, **(kwargs or {}))


def _standardised(x: Tensor, axes: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    variance = (centred * centred).mean(axes, keepdim=True)
    return centred * (variance + eps).rsqrt(), mean, variance


def _gained(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    out, _, _ = _standardised(input, list(range(-len(normalized_shape), 0)), eps)
    return _gained(out, weight, bias, list(normalized_shape))


def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    if not training:
        return torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn_enabled)
    axes = [0, *range(2, input.ndim)]
    out, mean, variance = _standardised(input, axes, eps)
    _remember(input, axes, mean, variance, running_mean, running_var, momentum)
    return _gained(out, weight, bias, [1, -1, *[1] * (input.ndim - 2)])


def instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    if not use_input_stats:
        return torch.instance_norm(
            input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn_enabled
        )
    axes = list(range(2, input.ndim))
    out, mean, variance = _standardised(input, axes, eps)
    _remember(input, axes, mean, variance, running_mean, running_var, momentum)
    return _gained(out, weight, bias, [1, -1, *[1] * (input.ndim - 2)])


@torch.no_grad()
def _remember(
    x: Tensor,
    axes: list[int],
    mean: Tensor,
    variance: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
) -> None:
    """Running averages as torch keeps them: of the unbiased variance, over the batch for instance norm."""
    if running_mean is None or running_var is None:
        return
    count = math.prod(x.shape[a] for a in axes)

    def channels(t: Tensor) -> Tensor:
        return t.detach().mean([a for a in range(t.ndim) if a != 1])

    running_mean.lerp_(channels(mean).to(running_mean), momentum)
    running_var.lerp_(channels(variance * (count / max(count - 1, 1))).to(running_var), momentum)


def _functional_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    return batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, True)


def _functional_instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    return instance_norm(input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, True)


# torch asks a mode about the outermost function only, so both layers of its interface are named.
FORMS: dict[Any, Callable[..., Tensor]] = {
    functional.batch_norm: _functional_batch_norm,
    functional.instance_norm: _functional_instance_norm,
    functional.layer_norm: layer_norm,
    torch.batch_norm: batch_norm,
    torch.instance_norm: instance_norm,
    torch.layer_norm: layer_norm,
}
