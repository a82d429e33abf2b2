"""`Rounded`: numbers in float64 that know how far the same operations, in a coarser format, may have led elsewhere.

Running error analysis (Wilkinson 1963; Higham, Accuracy and Stability, sec. 3.3): an operation that gives z adds
eps |z| (twice what it rounds by: a scalar is rounded too) and `tiny` for underflow, and hands on the errors of its
operands. The bound is derived, not tuned. A `Rounded` answers to the methods of `torch.Tensor` that formulas of
optimizers use; those that end in _ give a new one too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rounded:
    """`value` and `error`, a bound on |value - what was computed|; `eps`, `tiny`: of the format of the computation."""

    value: Tensor
    error: Tensor
    eps: float
    tiny: float

    @classmethod
    def exactly(cls, value: Tensor, dtype: torch.dtype) -> Rounded:
        """What is read off memory."""
        kind = torch.finfo(dtype)
        tiny = kind.tiny * kind.eps if dtype == torch.float16 else kind.tiny  # others may be flushed to zero
        return cls(value, torch.zeros_like(value), kind.eps, tiny)

    def _made(self, value: Tensor, error: Tensor) -> Rounded:
        return Rounded(value, error + self.eps * value.abs() + self.tiny, self.eps, self.tiny)

    def _of(self, x: Rounded | float) -> Rounded:
        if isinstance(x, Rounded):
            return x
        return Rounded(torch.full_like(self.value, float(x)), torch.zeros_like(self.value), self.eps, self.tiny)

    def mul(self, x: Rounded | float) -> Rounded:
        if not isinstance(x, Rounded):
            return self._made(self.value * x, self.error * abs(x))
        error = self.error * (x.value.abs() + x.error) + self.value.abs() * x.error
        return self._made(self.value * x.value, error)

    def div(self, x: Rounded | float) -> Rounded:
        if not isinstance(x, Rounded):
            return self._made(self.value / x, self.error / abs(x))
        z = self.value / x.value
        error = self.error + torch.where(x.error > 0, z.abs() * x.error, 0.0)
        return self._made(z, torch.where(error > 0, error / (x.value.abs() - x.error).clamp(min=0.0), 0.0))

    def add(self, x: Rounded | float, alpha: float = 1.0) -> Rounded:
        x = self._of(x)
        if alpha != 1.0:
            x = x.mul(alpha)
        return self._made(self.value + x.value, self.error + x.error)

    def sub(self, x: Rounded | float) -> Rounded:
        return self.add(x, alpha=-1.0)

    def addcmul(self, x: Rounded, y: Rounded, value: float = 1.0) -> Rounded:
        return self.add(x.mul(y), alpha=value)

    def addcdiv(self, x: Rounded, y: Rounded, value: float = 1.0) -> Rounded:
        return self.add(x.div(y), alpha=value)

    def lerp(self, x: Rounded, weight: float) -> Rounded:
        """(1 - weight) self + weight x, from whichever end it is put together, or term by term."""
        near, far = self.value * (1.0 - weight), x.value * weight
        error = self.error * abs(1.0 - weight) + x.error * abs(weight)
        return self._made(near + far, error + 3.0 * self.eps * (near.abs() + far.abs()))

    def square(self) -> Rounded:
        return self.mul(self)

    def sqrt(self) -> Rounded:
        root = self.value.clamp(min=0.0).sqrt()
        return self._made(root, root - (self.value - self.error).clamp(min=0.0).sqrt())

    def abs(self) -> Rounded:
        return Rounded(self.value.abs(), self.error, self.eps, self.tiny)

    def neg(self) -> Rounded:
        return Rounded(-self.value, self.error, self.eps, self.tiny)

    def sign(self) -> Rounded:
        """Anything where rounding may have led across zero."""
        unsure = (self.value.abs() <= self.error) & (self.error > 0)
        return Rounded(self.value.sign(), torch.where(unsure, 2.0, 0.0).to(self.value), self.eps, self.tiny)

    def maximum(self, x: Rounded) -> Rounded:
        return Rounded(torch.maximum(self.value, x.value), torch.maximum(self.error, x.error), self.eps, self.tiny)

    def clamp(self, min: float | None = None, max: float | None = None) -> Rounded:
        return self._made(self.value.clamp(min=min, max=max), self.error)

    def reciprocal(self) -> Rounded:
        return self._of(1.0).div(self)

    def clone(self) -> Rounded:
        return self

    __mul__ = __rmul__ = mul_ = mul
    __truediv__ = div_ = div
    __add__ = __radd__ = add_ = add
    __sub__ = sub_ = sub
    __neg__ = neg_ = neg
    addcmul_, addcdiv_, lerp_ = addcmul, addcdiv, lerp
    square_, sqrt_, abs_, sign_, clamp_, reciprocal_ = square, sqrt, abs, sign, clamp, reciprocal
