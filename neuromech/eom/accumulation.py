"""Micro-batches as one batch: the loss whose gradient and Hessian are those of their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from neuromech.eom.landscape import check_loss
from neuromech.errors import EoMError

Closure = Callable[[], Any]


class Accumulated:
    """A closure that evaluates several: sum of weight * loss.

    `apart`: each gradient is taken at once, and memory holds the graph of one. Closures may run backward themselves,
    all of them or none; their gradients are weighted too.
    """

    def __init__(self, parts: Sequence[tuple[float, Closure]], parameters: Iterable[Tensor], apart: bool) -> None:
        self._parts, self._parameters, self._apart = list(parts), list(parameters), apart

    def __call__(self) -> Tensor:
        total: Tensor | None = None
        sums: list[Tensor | None] = [None] * len(self._parameters)
        own = set[bool]()
        for weight, closure in self._parts:
            loss = closure()
            own.add(any(p.grad is not None for p in self._parameters))
            if own == {True, False}:
                raise EoMError("some of the accumulated closures run backward and others do not: all have to be alike")
            if own == {False}:
                check_loss(loss)
                if self._apart:
                    loss.backward()
            sums = [_added(s, p, weight) for s, p in zip(sums, self._parameters, strict=True)]
            value = torch.as_tensor(float("nan") if loss is None else loss) * weight
            value = value.detach() if self._apart or own == {True} else value
            total = value if total is None else total + value
        for p, gradient in zip(self._parameters, sums, strict=True):
            p.grad = gradient
        assert total is not None
        return total


def _added(total: Tensor | None, p: Tensor, weight: float) -> Tensor | None:
    """`total` and the weighted gradient of `p`, which is taken away from it."""
    gradient, p.grad = p.grad, None
    if gradient is None:
        return total
    return gradient.mul_(weight) if total is None else total.add_(gradient, alpha=weight)


class Pending:
    """Closures that wait for the next step, each with its weight or None for a part equal to the others'."""

    def __init__(self) -> None:
        self._parts: list[tuple[float | None, Closure]] = []

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, closures: Closure | Iterable[Closure], weights: float | Sequence[float] | None) -> None:
        """Raises `EoMError` for what is not a closure, or weights that do not belong to them."""
        many = [closures] if callable(closures) else list(closures)
        if not many or not all(map(callable, many)):
            raise EoMError("accumulate() takes functions that return the loss of a micro-batch each, at least one")
        shares: list[float | None] = [None] * len(many)
        if weights is not None:
            shares = [float(w) for w in ([weights] if isinstance(weights, (int, float)) else weights)]
        if len(shares) != len(many):
            raise EoMError(f"{len(many)} closures, but {len(shares)} weights: one is needed for each")
        if not all(w is None or 0.0 < w < float("inf") for w in shares):
            raise EoMError(f"weights are {shares}: they have to be positive and finite")
        self._parts += zip(shares, many, strict=True)

    def take(self, parameters: Iterable[Tensor], last: Closure | None, apart: bool) -> Accumulated:
        """All of them as one closure, and `last` with them; none is left.

        Without weights the mean; with weights the sum, to which `last` is added as it is. Raises `EoMError` if only
        some have one.
        """
        parts = list(self._parts)
        self._parts.clear()
        without = sum(weight is None for weight, _ in parts)
        if last is not None:
            parts.append((None if without else 1.0, last))
            without += bool(without)
        if 0 < without < len(parts):
            raise EoMError("some of the accumulated closures have a weight and others do not: give one to all or none")
        return Accumulated([(1.0 / len(parts) if w is None else w, f) for w, f in parts], parameters, apart)
