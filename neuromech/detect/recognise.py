"""What an unseen loss does not see of the model's output, read off the gradient that it sends back.

If a loss ignores a common shift of the output along an axis, its gradient sums to zero along that axis (softmax and
cross-entropy do); if it ignores the length of the output, its gradient is orthogonal to the output, sample by sample.
Both hold at rounding or not at all, so one backward pass decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuromech.detect.interpret import Invariance


def recognise(output: Tensor, cotangent: Tensor) -> Invariance:
    """The invariances of the loss with gradient `cotangent` at `output` (same shape)."""
    g, y = cotangent.detach().double(), output.detach().double()
    tolerance = 64 * torch.finfo(cotangent.dtype).eps
    if not bool(torch.isfinite(g).all()) or not bool(g.any()):
        return Invariance()

    def cancels(terms: Tensor, dims: tuple[int, ...]) -> bool:
        # Against the largest sample: a sample that is fitted perfectly has a gradient of rounding errors alone.
        return bool(terms.sum(dims).abs().max() <= tolerance * terms.abs().sum(dims).max())

    # Not the batch axis: gradients that cancel between samples would be chance, or a matter of the batch alone.
    shift = tuple(d for d in range(1, g.ndim) if g.shape[d] > 1 and cancels(g, (d,)))
    within = tuple(range(1, g.ndim))
    scale = bool(within) and bool(y.any()) and cancels(g * y, within)
    return Invariance(shift, scale)


def seen_of(output: Tensor, free: Invariance) -> Tensor:
    """The output with what the loss does not see taken away: centred along the shifts, brought to unit length."""
    for d in free.shift:
        output = output - output.mean(d, keepdim=True)
    if free.scale:
        output = output / torch.linalg.vector_norm(output, dim=tuple(range(1, output.ndim)), keepdim=True)
    return output


def in_words(free: Invariance) -> str:
    """One sentence about the loss, for reports."""
    what = []
    if free.shift:
        what.append(f"a common shift of the output along axis {', '.join(map(str, free.shift))}, as softmax ignores it")
    if free.scale:
        what.append("the length of the output")
    if not what:
        return "recognised from the first gradient: it sees the whole output"
    return f"recognised from the first gradient: it ignores {' and '.join(what)}"
