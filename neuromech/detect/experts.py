"""Products of blocks of rows with a matrix each, as mixtures of experts compute them, in any precision.

PyTorch's kernel (`grouped_mm`) knows narrow types only; here is the same in terms of ordinary products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

GROUPED = {"_grouped_mm", "grouped_mm"}
KERNEL = getattr(getattr(torch.ops.aten, "_grouped_mm", None), "default", None)  # there since torch 2.8


def products_of_blocks(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Tensor:
    """Block by block a @ b: of rows of a, of columns of b, or of what both are summed over; blocks end at `offs`.

    Shapes: [n, k] and [e, k, m] to [n, m]; [e, n, k] and [k, m] to [n, m]; [n, k] and [k, m] to [e, n, m]; without
    `offs` a batch of products. What lies beyond the last block is zero.
    """
    if offs is None:
        out = a @ b
    else:
        ends = offs.tolist()
        blocks = list(zip([0, *ends], ends, strict=False))
        if a.ndim == 2 and b.ndim == 3:
            parts = [a[i:j] @ b[e] for e, (i, j) in enumerate(blocks)]
            out = torch.cat([*parts, a.new_zeros(len(a) - ends[-1], b.shape[-1])])
        elif a.ndim == 3 and b.ndim == 2:
            parts = [a[e] @ b[:, i:j] for e, (i, j) in enumerate(blocks)]
            out = torch.cat([*parts, b.new_zeros(a.shape[1], b.shape[1] - ends[-1])], dim=1)
        else:
            out = torch.stack([a[:, i:j] @ b[i:j] for i, j in blocks])
    out = out if bias is None else out + bias
    return out if out_dtype is None else out.to(out_dtype)


class InAnyPrecision(TorchFunctionMode):
    """Inside, products of blocks of numbers in float64 are computed as ordinary ones."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in GROUPED and args[0].dtype is torch.float64:
            func = products_of_blocks
        return func(*args, **(kwargs or {}))
