"""Operators in their mathematical form, where torch's own have no second derivative, or a third one that is wrong.

Fused attention has no second derivative. The second derivatives that torch has for batch, instance and layer norm
treat the saved mean and variance as constants, so that third derivatives come out wrong, without a word (measured: by
20 to 70 %). Where two derivatives are enough, some operators are put in a form that makes them cheap, see
`double_backward`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.backends import cuda
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from neuromech.compat import run_eagerly
from neuromech.eom import double_backward
from neuromech.eom.norm_calls import NormCall, batch_norms, instance_norms

# Operators as torch has them (right in forward mode), in a cheap form for two reverse derivatives, or norms by
# elementary operators.
OperatorForm = Literal["torch", "twice", "open"]


@contextmanager
def mathematical(form: OperatorForm) -> Iterator[None]:
    """Attention by elementary operators, and others in `form`: beyond second derivatives it has to be "open".

    What is compiled runs as it was written: compiled code has no second derivative.
    """
    # What sdpa_kernel does, which takes as long as a layer to do it.
    fused = [enable for enabled, enable in FUSED if enabled()]
    plain = cuda.math_sdp_enabled()
    for enable in fused:
        enable(False)
    cuda.enable_math_sdp(True)
    try:
        with run_eagerly(), nullcontext() if form == "torch" else _Forms(form):
            yield
    finally:
        for enable in fused:
            enable(True)
        cuda.enable_math_sdp(plain)


FUSED: tuple[tuple[Callable[[], bool], Callable[[bool], None]], ...] = (
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
)


class _Forms(TorchFunctionMode):
    def __init__(self, form: OperatorForm) -> None:
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


def batch_norm(call: NormCall) -> Tensor | None:
    return _normalised(call, [0, *range(2, call.input.ndim)])


def instance_norm(call: NormCall) -> Tensor | None:
    return _normalised(call, list(range(2, call.input.ndim)))


def _normalised(call: NormCall, axes: list[int]) -> Tensor | None:
    if not call.batch:
        return None
    out, mean, variance = _standardised(call.input, axes, call.eps)
    _remember(call, axes, mean, variance)
    return _gained(out, call.weight, call.bias, [1, -1, *[1] * (call.input.ndim - 2)])


@torch.no_grad()
def _remember(call: NormCall, axes: list[int], mean: Tensor, variance: Tensor) -> None:
    """Running averages as torch keeps them: of the unbiased variance, over the batch for instance norm."""
    if call.running_mean is None or call.running_var is None:
        return
    count = math.prod(call.input.shape[a] for a in axes)

    def channels(t: Tensor) -> Tensor:
        return t.detach().mean([a for a in range(t.ndim) if a != 1])

    call.running_mean.lerp_(channels(mean).to(call.running_mean), call.momentum)
    call.running_var.lerp_(channels(variance * (count / max(count - 1, 1))).to(call.running_var), call.momentum)


FORMS: dict[Any, Callable[..., Tensor]] = {
    functional.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    **batch_norms(batch_norm),
    **instance_norms(instance_norm),
}
