"""What an operator that acts entry by entry makes of the numbers in a tensor: the same wherever it is done again, and a
number where it is done to numbers that are known."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction

import torch
from torch import Tensor

from neuromech.detect.data import Data, Number
from neuromech.detect.graph import Node, Value
from neuromech.detect.operands import exchanged
from neuromech.detect.operator import short

PROBES = (0.1, 0.7, 1.3, 3.0, 10.0, 1e3, 1e5, 1e30)  # an even or odd function is so at all of these


class Entrywise:
    """The function of entries that an operator is."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def name(self) -> tuple[str, str] | None:
        """Which function of one tensor it is; None if it may depend on anything else, as what a user's operator does
        may."""
        node = self.node
        if node.random or len(node.inputs) > 1 or not node.op.startswith("aten."):
            return None
        options = ["x" if isinstance(a, Value) else a for a in (*node.args, *node.kwargs.items())]
        return short(node.op), repr(options)

    def of_numbers(self, parts: Sequence[Data]) -> Data | None:
        """The number that it makes of numbers, where each of its tensors is known to hold one everywhere."""
        numbers = [d.number for d in parts]
        known = [float(k) for k in numbers if k is not None]
        if len(known) < len(numbers) or self.node.random or not self.node.op.startswith("aten."):
            return None
        y = self._of(*(torch.tensor(k, dtype=torch.float64, device="cpu") for k in known))
        return None if y is None or y.numel() != 1 else Data.filled(float(y), parts[0].labels)

    def of(self, data: Data, degree: Fraction | int | None = None) -> Data | None:
        """What it makes of one tensor; of `degree`, if it is homogeneous."""
        return None if (name := self.name()) is None else self._mapped(data, name, degree)

    def _mapped(self, d: Data, name: tuple[str, str], degree: Fraction | int | None) -> Data:
        if (number := self.of_numbers([d])) is not None:
            return number
        inside, outside = self._divided(d.multiple, degree)
        new = d._replace(multiple=inside, pieces=()).derived(name)
        pieces = tuple((x, self._mapped(p, name, degree)) for x, p in d.pieces)
        return new._replace(multiple=outside, pieces=pieces)

    def _divided(self, k: Number, degree: Fraction | int | None) -> tuple[Number, Number]:
        """f(k x) = outside * f(inside * x), with as much of k outside as can be."""
        outside: Number = 1
        if k < 0 and (sign := self._parity()):
            k, outside = -k, sign
        if k > 0 and degree is not None and Fraction(degree).denominator == 1:
            k, outside = 1, outside * Fraction(k) ** int(degree)
        return k, outside

    def _parity(self) -> int:
        """1 for an even function, -1 for an odd one, else 0."""
        x = torch.tensor(PROBES, dtype=torch.float64, device="cpu")
        y, z = self._of(x), self._of(-x)
        if y is None or z is None or not bool(y.isfinite().any()):
            return 0
        return next((sign for sign in (1, -1) if torch.equal(y, sign * z)), 0)

    def _of(self, *tensors: Tensor) -> Tensor | None:
        given = iter(tensors)

        def tensor(v: Value) -> Tensor:
            x = next(given)
            return x if v.dtype.is_floating_point else x.to(v.dtype)

        with suppress(Exception):
            args, kwargs = exchanged(Value, tensor, (self.node.args, self.node.kwargs))
            y = getattr(torch.ops.aten, short(self.node.op))(*args, **kwargs)
            return y.to(torch.float64) if isinstance(y, Tensor) and not y.dtype.is_complex else None
        return None
