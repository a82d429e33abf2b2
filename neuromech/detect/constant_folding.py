"""What constants hold on the meta device, where tensors have no numbers: computed beside, on the CPU.

Models ask constants for their content (positions that start at zero, a mask that hides nothing) and steer by it. On the
meta device such a question fails, and what the constant is made of (`arange`, comparisons) is cheap to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from neuromech.compat import TorchDispatchMode, tree_leaves, tree_map
from neuromech.detect.shapes import RememberedShapes

_LARGEST = 1 << 16  # elements


class UnknownContent(Exception):
    """The operator works on something whose content nobody knows."""


def compute(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    content: Callable[[Tensor], Tensor | None],
) -> Any:
    """What an operator makes of constants, given their `content`, on the CPU.

    Raises `UnknownContent` if the content of one of its tensors is.
    """

    def real(x: Any) -> Any:
        if isinstance(x, Tensor):
            known = content(x)
            if known is None or known.is_meta:
                raise UnknownContent
            return known
        return torch.device("cpu") if isinstance(x, torch.device) else x

    return func(*tree_map(real, args), **tree_map(real, dict(kwargs)))


def tensors(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    content: Callable[[Tensor], Tensor | None],
    made: Sequence[Tensor],
) -> Sequence[Tensor | None]:
    """The content of the tensors that an operator `made`: themselves, or on the meta device what stands for them."""
    if not any(t.is_meta for t in made):
        return made
    if all(t.numel() <= _LARGEST for t in made):
        with suppress(UnknownContent):
            return [t for t in tree_leaves(compute(func, args, kwargs, content)) if isinstance(t, Tensor)]
    return [None] * len(made)


class Replay(TorchDispatchMode):
    """Gives the answers that were given before, in the same order, to questions about tensors on the meta device; and
    those that were `turned` round, by how many numbers were asked for before."""

    def __init__(self, answers: Sequence[Any], turned: Mapping[int, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._answers, self._turned, self._asked = iter(answers), turned, 0
        self._shapes = RememberedShapes()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self._asked += 1
            if self._asked - 1 in self._turned:
                return self._turned[self._asked - 1]
            if args[0].is_meta:
                return next(self._answers)
        return self._shapes.call(func, args, kwargs or {})
