"""The end of a chain of derivatives."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor


class Last(torch.autograd.Function):
    """A function that raises where it is differentiated. (torch's `once_differentiable` is silent on some ways.)"""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> NoReturn:
        raise RuntimeError("a third derivative is asked for of an operator that has two: it does not support it")
