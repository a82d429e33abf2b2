"""`Symmetry`: the waist of neuromech. Detection makes symmetries, dynamics reads them, neither knows the other.

A `Symmetry` is a family of `size` one-parameter groups of one form. A member moves some elements of some parameters:

    translation      theta_e -> theta_e + alpha * w_e
    scale, rescale   theta_e -> theta_e * exp(alpha * w_e)

with the weight w_e of the term that holds element e. Noether's charge of the member, conserved by gradient flow:

    translation      sum_e w_e theta_e                (Kunin et al. 2021, eq. 10)
    scale, rescale   sum_e w_e theta_e^2              (Kunin et al. 2021, eqs. 12 and 14)

Shapes: a family is a vector of length `size`; `gather` and `spread` below are the two adjoint maps between that vector
and the elements of one parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from neuromech.errors import SymmetryError
from neuromech.params import Params

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["translation", "scale", "rescale"]
KINDS: tuple[Kind, ...] = ("translation", "scale", "rescale")


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
    parameter moves with the one member there is. With a `part`, `axis` counts the axes of the part's view.
    """

    parameter: str
    axis: int | tuple[int, ...] | None
    weight: Fraction
    part: Part | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", Fraction(self.weight))
        if self.weight == 0:
            raise SymmetryError(f"a term of {self.parameter!r} has weight 0: leave it out")

    @property
    def axes(self) -> tuple[int, ...]:
        if self.axis is None:
            return ()
        return self.axis if isinstance(self.axis, tuple) else (self.axis,)

    def _view(self, shape: Sequence[int]) -> tuple[int, ...]:
        view = tuple(self.part.shape) if self.part else tuple(shape)
        fixed = {axis for axis, _ in self.part.select} if self.part else set()
        if self.part and self.part.strides is not None:
            last = self.part.start + sum((n - 1) * k for n, k in zip(view, self.part.strides, strict=True))
            if last >= math.prod(shape):
                raise SymmetryError(f"{self.parameter}: a block that ends at element {last} of a shape {tuple(shape)}")
        elif math.prod(view) != math.prod(shape):
            raise SymmetryError(f"{self.parameter}: shape {tuple(shape)} cannot be viewed as {view}")
        if any(not 0 <= a < len(view) or a in fixed for a in self.axes) or len(set(self.axes)) != len(self.axes):
            raise SymmetryError(f"{self.parameter}: axis {self.axis} does not fit a parameter of shape {view}")
        return view

    def size(self, shape: Sequence[int]) -> int:
        """Number of members that this term tells apart in a parameter of `shape`."""
        view = self._view(shape)
        return math.prod(view[a] for a in self.axes)

    def gather(self, x: Tensor) -> Tensor:
        """Sum of `x` (the parameter's shape) over the elements of each member: [size], dtype of `x`."""
        self._view(x.shape)
        x = self.part.of(x) if self.part else x
        kept = list(range(x.ndim))
        for axis, index in sorted(self.part.select if self.part else (), reverse=True):
            x = x.select(axis, index)
            del kept[axis]
        order = [kept.index(a) for a in self.axes]
        rest = [i for i in range(x.ndim) if i not in order]
        x = x.permute([*order, *rest])
        return (x.flatten(len(order)).sum(-1) if rest else x).reshape(-1)

    def spread(self, v: Tensor, shape: Sequence[int]) -> Tensor:
        """The adjoint of `gather`: every element gets its member's entry of `v` [size], elements not moved get 0."""
        view = self._view(shape)
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

    def __str__(self) -> str:
        """What member i moves, as one would write it: `conv1.weight[i]`, `fc.weight.view(10, 64, 16)[:, i]`."""
        fixed = dict(self.part.select) if self.part else {}
        slots = dict(zip(self.axes, "ijklmn" if len(self.axes) > 1 else "i", strict=False))
        index = [str(slots.get(a, fixed.get(a, ":"))) for a in range(max([*slots, *fixed], default=-1) + 1)]
        view = "" if not self.part else self.part.words or f".view{self.part.shape}"
        return f"{self.parameter}{view}[{', '.join(index)}]" if index else self.parameter


@dataclass(frozen=True)
class Symmetry:
    """A family of `size` one-parameter symmetries of one form (see the module's docstring for what they do).

    `defect` is the measured relative defect (nan: not measured). `broken_by` names what makes the symmetry only
    approximate ("eps of bn1"); it is empty for an exact one.
    """

    kind: Kind
    size: int
    terms: tuple[Term, ...]
    reason: str = ""
    defect: float = math.nan
    broken_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SymmetryError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if not self.terms or self.size < 1:
            raise SymmetryError("a symmetry needs at least one term and at least one member")
        signs = {t.weight > 0 for t in self.terms}
        if (self.kind == "scale" and len(signs) == 2) or (self.kind == "rescale" and len(signs) == 1):
            raise SymmetryError(f"weights {[str(t.weight) for t in self.terms]} do not make a {self.kind} symmetry")

    @property
    def name(self) -> str:
        """What member i moves, and against what: `fc1.weight[i], fc1.bias[i] / fc2.weight[:, i]`."""

        def side(sign: int) -> str:
            power = "{} x{}" if self.is_linear else "{}^{}"
            same = [(t, abs(t.weight)) for t in self.terms if t.weight * sign > 0]
            return ", ".join(str(t) if w == 1 else power.format(t, w) for t, w in same)

        return side(1) + ((" - " if self.is_linear else " / ") + side(-1) if side(-1) else "")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters that it moves, each once."""
        return tuple(dict.fromkeys(t.parameter for t in self.terms))

    @property
    def is_linear(self) -> bool:
        """True if the charge is linear in the parameters (translation), false if it is quadratic."""
        return self.kind == "translation"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON; `from_dict` is its inverse."""
        terms = [
            {"parameter": t.parameter, "axis": t.axis, "weight": str(t.weight)}
            | ({"part": asdict(t.part)} if t.part else {})
            for t in self.terms
        ]
        fields = {"kind": self.kind, "size": self.size, "name": self.name, "terms": terms, "reason": self.reason}
        return fields | {"defect": self.defect, "broken_by": list(self.broken_by)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Symmetry:
        def part(d: Mapping[str, Any] | None) -> Part | None:
            if d is None:
                return None
            strides = None if d.get("strides") is None else tuple(d["strides"])
            select = tuple((a, i) for a, i in d["select"])
            return Part(tuple(d["shape"]), select, strides, d.get("start", 0), d.get("words", ""))

        def term(d: Mapping[str, Any]) -> Term:
            axis = tuple(d["axis"]) if isinstance(d["axis"], list) else d["axis"]
            return Term(d["parameter"], axis, Fraction(d["weight"]), part(d.get("part")))

        terms = tuple(term(d) for d in data["terms"])
        return cls(data["kind"], data["size"], terms, data["reason"], data["defect"], tuple(data["broken_by"]))

    def check(self, params: Mapping[str, Tensor]) -> None:
        """Raise `SymmetryError` unless every term fits `params` and tells apart `size` members."""
        for t in self.terms:
            if t.parameter not in params:
                raise SymmetryError(f"{self.name}: the model has no parameter {t.parameter!r}")
            if (n := t.size(params[t.parameter].shape)) != self.size:
                raise SymmetryError(f"{self.name}: {t} has {n} members, the family has {self.size}")

    def _exponents(self, params: Mapping[str, Tensor], alpha: Tensor) -> Params:
        """Per parameter that moves: sum over its terms of weight * alpha[member], in the parameter's shape."""
        self.check(params)
        out: Params = {}
        for t in self.terms:
            p = params[t.parameter]
            moved = t.spread(alpha.to(dtype=p.dtype, device=p.device) * float(t.weight), p.shape)
            out[t.parameter] = out[t.parameter] + moved if t.parameter in out else moved
        return out

    def _members(self, alpha: float | Tensor, i: int | None) -> Tensor:
        a = torch.as_tensor(alpha, dtype=torch.float64)
        if i is None:
            return a.expand(self.size)
        if not -self.size <= i < self.size:
            raise SymmetryError(f"{self.name}: member {i} of a family of {self.size}")
        one = torch.zeros(self.size, dtype=torch.float64, device=a.device)
        one[i] = a
        return one

    def generator(self, params: Mapping[str, Tensor], i: int) -> Params:
        """Tangent d theta / d alpha of member `i` at `params`, over the parameters that move."""
        return self.tangent(params, self._members(1.0, i))

    def tangent(self, params: Mapping[str, Tensor], alpha: Tensor) -> Params:
        """sum_i alpha_i * generator(i) for `alpha` [size], over the parameters that move."""
        direction = self._exponents(params, alpha)
        return direction if self.is_linear else {name: params[name] * d for name, d in direction.items()}

    def transform(self, params: Mapping[str, Tensor], alpha: float | Tensor, i: int | None = None) -> Params:
        """The finite transformation of all `params`; `alpha` a number or [size]; `i`: that member alone."""
        moved = self._exponents(params, self._members(alpha, i))
        act = torch.add if self.is_linear else lambda p, e: p * e.exp()
        return {name: act(p, moved[name]) if name in moved else p for name, p in params.items()}

    def charge(self, params: Mapping[str, Tensor]) -> Tensor:
        """The conserved quantity of every member: [size], float64."""
        self.check(params)
        total: Tensor | float = 0.0
        for t in self.terms:
            p = params[t.parameter].detach().double()
            total = total + float(t.weight) * t.gather(p if self.is_linear else p * p)
        assert isinstance(total, Tensor)
        return total


class SymmetrySet(Sequence[Symmetry]):
    """An ordered set of families, as detection offers it."""

    def __init__(self, symmetries: Iterable[Symmetry] = ()) -> None:
        self._items = tuple(symmetries)

    @overload
    def __getitem__(self, index: int) -> Symmetry: ...
    @overload
    def __getitem__(self, index: slice) -> SymmetrySet: ...
    def __getitem__(self, index: int | slice) -> Symmetry | SymmetrySet:
        return SymmetrySet(self._items[index]) if isinstance(index, slice) else self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Symmetry]:
        return iter(self._items)

    def of(self, *, kind: str | None = None, parameter: str | None = None) -> SymmetrySet:
        """The families of one kind, or those that move one parameter."""
        return SymmetrySet(
            s for s in self if kind in (None, s.kind) and (parameter is None or parameter in s.parameters)
        )

    def table(self) -> pd.DataFrame:
        """One row a family."""
        import pandas as pd

        columns = ["kind", "size", "moves", "defect", "broken_by", "reason"]
        rows = [(s.kind, s.size, s.name, s.defect, "; ".join(s.broken_by), s.reason) for s in self]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        return f"SymmetrySet of {len(self)} families, {sum(s.size for s in self)} members"
