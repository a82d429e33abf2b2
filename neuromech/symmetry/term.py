"""`Term`: which elements of one parameter a symmetry moves, and with what weight.

A family is a vector over its members; `gather` and `spread` are the two adjoint maps between that vector and the
elements of one parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from neuromech.errors import SymmetryError


@dataclass(frozen=True)
class Part:
    """A finer view of a parameter: `shape` splits its axes, `select` fixes some axes of that view to one index.

    `fc.weight` (10, 64*16) read as (10, 64, 16) lets a family run over the 64 channels that were flattened with 16
    pixels each; a fused projection (3*d, d) read as (3, d, d) with `select=((0, 1),)` is its second block of rows.

    With `strides` it is a block of the parameter: element (i, j ..) of `shape` stands at `start` + i * strides[0] + ...
    of its elements in row-major order. `words` says so to people: "[0:64]".
    """

    shape: tuple[int, ...]
    select: tuple[tuple[int, int], ...] = ()
    strides: tuple[int, ...] | None = None
    start: int = 0
    words: str = field(default="", compare=False)

    def of(self, x: Tensor) -> Tensor:
        """The part of `x`; a view, if `x` is contiguous."""
        if self.strides is None:
            return x.reshape(self.shape)
        x = x.contiguous()
        return x.as_strided(self.shape, self.strides, x.storage_offset() + self.start)


@dataclass(frozen=True)
class Term:
    """What one symmetry moves in one parameter.

    `axis` is the axis (or axes) over which the family runs: member i moves the slice with index i. None: the whole
    parameter moves with the one member there is. With a `part`, `axis` counts the axes of the part's view. `along`, in
    matrix symmetries only, is the axis whose entries a matrix mixes; `axis` then runs over independent matrices.
    """

    parameter: str
    axis: int | tuple[int, ...] | None
    weight: Fraction
    part: Part | None = None
    along: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", Fraction(self.weight))
        if self.weight == 0:
            raise SymmetryError(f"a term of {self.parameter!r} has weight 0: leave it out")

    @property
    def axes(self) -> tuple[int, ...]:
        if self.axis is None:
            return ()
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)

    def view(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape as which a parameter of `shape` is read. Raises `SymmetryError` if it does not fit."""
        view = tuple(self.part.shape) if self.part else tuple(shape)
        fixed = {axis for axis, _ in self.part.select} if self.part else set()
        used = self.axes if self.along is None else (*self.axes, self.along)
        if self.part and self.part.strides is not None:
            last = self.part.start + sum((n - 1) * k for n, k in zip(view, self.part.strides, strict=True))
            if last >= math.prod(shape):
                raise SymmetryError(f"{self.parameter}: a block that ends at element {last} of a shape {tuple(shape)}")
        elif math.prod(view) != math.prod(shape):
            raise SymmetryError(f"{self.parameter}: shape {tuple(shape)} cannot be viewed as {view}")
        if any(not 0 <= a < len(view) or a in fixed for a in used) or len(set(used)) != len(used):
            which = used[0] if len(used) == 1 else used
            raise SymmetryError(f"{self.parameter}: axis {which} does not fit a parameter of shape {view}")
        return view

    def size(self, shape: Sequence[int]) -> int:
        """Number of slices that this term tells apart in a parameter of `shape`."""
        view = self.view(shape)
        return math.prod(view[a] for a in self.axes)

    def slices(self, x: Tensor) -> Tensor:
        """The moved elements of `x` (the parameter's shape), slice by slice: [size, rest]."""
        x = self._arranged(x, self.axes)
        return x.reshape(math.prod(x.shape[: len(self.axes)]), -1)

    def matrices(self, x: Tensor) -> Tensor:
        """The moved elements of `x` as one matrix a slice, its rows numbered by `along`: [size, n, rest]."""
        assert self.along is not None
        x = self._arranged(x, (*self.axes, self.along))
        k = len(self.axes)
        return x.reshape(math.prod(x.shape[:k]), x.shape[k], -1)

    def with_matrices(self, x: Tensor, matrices: Tensor) -> Tensor:
        """A copy of `x` with `matrices` [size, n, rest] in place of `self.matrices(x)`."""
        assert self.along is not None
        out = x.clone(memory_format=torch.contiguous_format)
        place = self._arranged(out, (*self.axes, self.along))  # a view
        place.copy_(matrices.reshape(place.shape))
        return out

    def permuted(self, x: Tensor, order: Tensor) -> Tensor:
        """A copy of `x` whose slice i is what slice `order[i]` was."""
        out = x.clone(memory_format=torch.contiguous_format)
        place = self._arranged(out, self.axes)  # a view
        place.copy_(place.index_select(0, order.to(x.device)))
        return out

    def gather(self, x: Tensor) -> Tensor:
        """Sum of `x` (the parameter's shape) over the elements of each slice: [size], dtype of `x`."""
        return self.slices(x).sum(-1)

    def spread(self, v: Tensor, shape: Sequence[int]) -> Tensor:
        """The adjoint of `gather`: every element gets its slice's entry of `v` [size], elements not moved get 0."""
        view = self.view(shape)
        order = sorted(range(len(self.axes)), key=lambda k: self.axes[k])
        v = v.reshape([view[a] for a in self.axes]).permute(order) if self.axes else v.reshape(())
        v = v.reshape([n if a in self.axes else 1 for a, n in enumerate(view)]).expand(view)
        if self.part and self.part.select:
            mask = torch.ones(view, dtype=torch.bool, device=v.device)
            for axis, index in self.part.select:
                here = torch.arange(view[axis], device=v.device) == index
                mask = mask & here.reshape([-1 if a == axis else 1 for a in range(len(view))])
            v = torch.where(mask, v, torch.zeros((), dtype=v.dtype, device=v.device))
        if self.part and self.part.strides is not None:
            whole = torch.zeros(math.prod(shape), dtype=v.dtype, device=v.device)
            self.part.of(whole).copy_(v)
            return whole.reshape(tuple(shape))
        return v.reshape(tuple(shape))

    def _arranged(self, x: Tensor, first: Sequence[int]) -> Tensor:
        """`x` in this term's view, without the axes that are fixed and with the axes `first` in front."""
        self.view(x.shape)  # raises if it does not fit
        x = self.part.of(x) if self.part else x
        kept = list(range(x.ndim))
        for axis, index in sorted(self.part.select if self.part else (), reverse=True):
            x = x.select(axis, index)
            del kept[axis]
        order = [kept.index(a) for a in first]
        return x.permute([*order, *(i for i in range(x.ndim) if i not in order)])

    def __str__(self) -> str:
        """What member i moves, as one would write it: `conv1.weight[i]`, `fc.weight.view(10, 64, 16)[:, i]`.

        An axis that is mixed by a matrix is called m.
        """
        slots: dict[int, str | int] = dict(self.part.select) if self.part else {}
        slots |= dict(zip(self.axes, "ijklnopq" if len(self.axes) > 1 else "i", strict=False))
        slots |= {} if self.along is None else {self.along: "m"}
        index = [str(slots.get(a, ":")) for a in range(max(slots, default=-1) + 1)]
        view = "" if not self.part else self.part.words or f".view{self.part.shape}"
        return f"{self.parameter}{view}[{', '.join(index)}]" if index else self.parameter
