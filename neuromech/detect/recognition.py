"""What an unseen loss does not see of the model's output, read off the gradient that it sends back.

If a loss ignores a common shift of the output along an axis, its gradient sums to zero along that axis (softmax and
cross-entropy do); if it ignores the length of the output, its gradient is orthogonal to the output, sample by sample.
Both hold at rounding or not at all: the sum of n numbers g that do not cancel is of the order of |g|, and falls below
a tolerance t by a chance of about t a sample. In low precision that takes several samples to exclude.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from neuromech.detect.interpret import Invariance

_CHANCE = 1e-5  # of taking an accident for an invariance


def unseen_by(outputs: Iterable[Tensor], cotangents: Iterable[Tensor | None]) -> list[Invariance]:
    """What the loss with these gradients does not see of each output; None: an output without one, of which all is."""
    return [Invariance() if g is None else recognise(y, g) for y, g in zip(outputs, cotangents, strict=True)]


def recognise(output: Tensor, cotangent: Tensor) -> Invariance:
    """The invariances of the loss with gradient `cotangent` at `output` (same shape, samples along axis 0)."""
    g, y = cotangent.detach().double(), output.detach().double()
    if not bool(torch.isfinite(g).all() and torch.isfinite(y).all()) or not g.numel():
        return Invariance()
    eps, largest = torch.finfo(cotangent.dtype).eps, float(y.abs().max())

    def cancels(terms: Tensor, dims: tuple[int, ...]) -> bool:
        n = math.prod(terms.shape[d] for d in dims)
        # Of an entry, a few roundings, and those of its argument that an exponential blows up; of the loss, its sums.
        return _cancels(terms, dims, tolerance=eps * (8 + largest + n / 32))

    # Not the batch axis: gradients that cancel between samples would be chance, or a matter of the batch alone. An
    # output that sums to zero by itself proves nothing: the gradient may merely lie in the same plane.
    shift = tuple(d for d in range(1, g.ndim) if cancels(g, (d,)) and not cancels(y, (d,)))
    within = tuple(range(1, g.ndim))
    return Invariance(shift, bool(within) and cancels(g * y, within))


def _cancels(terms: Tensor, dims: tuple[int, ...], tolerance: float) -> bool:
    """True if the sums over `dims` are zero within a relative `tolerance`, and that is no accident."""
    terms = terms.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims)).flatten(0, -2)  # [samples, entries]
    n = terms.shape[1]
    size = terms.square().sum(1).sqrt()
    if n < 2 or not bool(size.any()):
        return False
    # Samples that are fitted perfectly have gradients of rounding errors alone.
    telling = terms[size >= size.max() / 10]
    sums = telling.sum(1).abs() / telling.square().sum(1).sqrt()
    # Entries of one size, as an absolute error has, cancel as often as signs do.
    of_one_size = bool(telling.abs().max() <= (1 + tolerance) * telling.abs().min())
    chance = math.comb(n, n // 2) / 2**n if of_one_size else tolerance
    return bool(sums.max() <= tolerance) and chance ** len(telling) <= _CHANCE


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
