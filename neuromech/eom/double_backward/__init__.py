"""Operators whose first two reverse derivatives are right and cheap, in place of torch's; a third one raises.

torch's second derivatives are composed of many passes over memory: that of batch norm costs ten of its gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from neuromech.compat import dispatch_modes, saving_is_hooked, transforms_active
from neuromech.eom.double_backward import batch_norm, convolution
from neuromech.eom.double_backward.relu import relu
from neuromech.eom.norm_calls import batch_norms


def _functional_relu(input: Tensor, inplace: bool = False) -> Tensor:
    return functional.relu(input, True) if inplace else relu(input)


def _convolution(of: Callable[..., Tensor], axes: int) -> Callable[..., Tensor]:
    def convolve(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: int | str | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or not convolution.applies(input, weight, bias):
            return of(input, weight, bias, stride, padding, dilation, groups)

        def sizes(x: int | tuple[int, ...]) -> tuple[int, ...]:
            each = (x,) if isinstance(x, int) else tuple(x)
            return each * axes if len(each) == 1 else each

        return convolution.convolution(input, weight, bias, sizes(stride), sizes(padding), sizes(dilation), groups)

    return convolve


def applies() -> bool:
    """Not where torch's own operators are expected: functorch's transforms, dispatch modes (what traces a model).

    Nor under hooks on what is saved.
    Checkpoints are such hooks: they evaluate operators again during backward, where nothing puts them in another form.
    """
    return not (transforms_active() or dispatch_modes() or saving_is_hooked())


FORMS: dict[Any, Callable[..., Tensor]] = {
    **batch_norms(batch_norm.form),
    functional.relu: _functional_relu,
    torch.relu: relu,
    Tensor.relu: relu,
    **{of: _convolution(of, axes) for axes, of in enumerate((torch.conv1d, torch.conv2d, torch.conv3d), 1)},
}
