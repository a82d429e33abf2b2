"""`Symmetry`: a family of `size` one-parameter groups of one form.

A member moves some elements of some parameters:

    translation      theta_e -> theta_e + alpha * w_e
    scale, rescale   theta_e -> theta_e * exp(alpha * w_e)
    matrix           theta -> exp(+-alpha * G) theta         (mixing.py)

with the weight w_e of the term that holds element e. Noether's charge of the member, conserved by gradient flow:

    translation      sum_e w_e theta_e                (Kunin et al. 2021, eq. 10)
    scale, rescale   sum_e w_e theta_e^2              (Kunin et al. 2021, eqs. 12 and 14)
    matrix           an entry of W1 W1^T - W2^T W2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from html import escape
from typing import Any, Literal

import torch
from torch import Tensor

from neuromech.errors import SymmetryError
from neuromech.params import Params
from neuromech.symmetry import mixing
from neuromech.symmetry.term import Part, Term

Kind = Literal["translation", "scale", "rescale", "matrix"]
KINDS: tuple[Kind, ...] = ("translation", "scale", "rescale", "matrix")


@dataclass(frozen=True)
class Symmetry:
    """A family of `size` one-parameter symmetries of one form (see the module's docstring for what they do).

    `defect` is the measured relative defect (nan: not measured). `broken_by` names what makes the symmetry only
    approximate ("eps of bn1"); it is empty for an exact one. Of matrix families only: `skew`, members are rotations;
    `directions`, members are not entries but u_a^T C u_b for so many directions u (0: they are entries).
    """

    kind: Kind
    size: int
    terms: tuple[Term, ...]
    reason: str = ""
    defect: float = field(default=math.nan, compare=False)  # measured: no part of what the symmetry is
    broken_by: tuple[str, ...] = ()
    skew: bool = False
    directions: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SymmetryError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if not self.terms or self.size < 1:
            raise SymmetryError("a symmetry needs at least one term and at least one member")
        if odd := [t for t in self.terms if (t.along is not None) != (self.kind == "matrix")]:
            raise SymmetryError(f"{odd[0]}: `along` is for the terms of matrix symmetries, all of them and no others")
        if self.kind == "matrix":
            if any(abs(t.weight) != 1 for t in self.terms):
                raise SymmetryError("the terms of a matrix symmetry have weight 1 (writers) or -1 (readers)")
            if self.directions < 0 or (self.skew and self.directions):
                raise SymmetryError(f"{self.directions} directions: rotations have none, other matrix symmetries some")
            return
        if self.skew or self.directions:
            raise SymmetryError(f"rotations (skew) and directions are of matrix symmetries, not of kind {self.kind}")
        signs = {t.weight > 0 for t in self.terms}
        if (self.kind == "scale" and len(signs) == 2) or (self.kind == "rescale" and len(signs) == 1):
            raise SymmetryError(f"weights {[str(t.weight) for t in self.terms]} do not make a {self.kind} symmetry")

    @property
    def name(self) -> str:
        """What member i moves, and against what: `fc1.weight[i], fc1.bias[i] / fc2.weight[:, i]`."""

        return self.written(", ".join)

    def written(self, listed: Callable[[Sequence[str]], str]) -> str:
        """The name, with the terms of each side listed by `listed`."""

        def side(sign: int) -> str:
            power = "{} x{}" if self.is_linear else "{}^{}"
            same = [(t, abs(t.weight)) for t in self.terms if t.weight * sign > 0]
            return listed([str(t) if w == 1 else power.format(t, w) for t, w in same])

        if self.skew:
            return f"rotation of {listed([str(t) for t in self.terms])}"
        up, down = side(1), side(-1)
        return up + ((" - " if self.is_linear else " / ") + down if down else "")

    def __str__(self) -> str:
        """One line: kind, size, name and measured defect."""
        members = f"{self.size:,} member{'s' if self.size > 1 else ''}"
        defect = "" if math.isnan(self.defect) else f", defect {self.defect:.0e}"
        return f"{self.kind}, {members}: {self.name}{defect}"

    def __repr__(self) -> str:
        return f"<Symmetry: {self}>"

    def _repr_html_(self) -> str:
        why = f"<br><small>{escape(self.reason)}</small>" if self.reason else ""
        return f"<code>{escape(str(self))}</code>{why}"

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
            | ({} if t.along is None else {"along": t.along})
            for t in self.terms
        ]
        fields: dict[str, Any] = {"kind": self.kind, "size": self.size, "name": self.name, "terms": terms}
        fields |= {"reason": self.reason, "defect": self.defect, "broken_by": list(self.broken_by)}
        along = {"directions": self.directions} if self.directions else {}
        return fields | ({"skew": self.skew} | along if self.kind == "matrix" else {})

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
            return Term(d["parameter"], axis, Fraction(d["weight"]), part(d.get("part")), d.get("along"))

        terms = tuple(term(d) for d in data["terms"])
        broken_by, skew, along = tuple(data["broken_by"]), data.get("skew", False), data.get("directions", 0)
        return cls(data["kind"], data["size"], terms, data["reason"], data["defect"], broken_by, skew, along)

    def check(self, params: Mapping[str, Tensor]) -> None:
        """Raise `SymmetryError` unless every term fits `params` and tells apart `size` members."""
        for t in self.terms:
            if t.parameter not in params:
                raise SymmetryError(f"{self.name}: the model has no parameter {t.parameter!r}")
            if (n := self._members_of(t, params[t.parameter].shape)) != self.size:
                raise SymmetryError(f"{self.name}: {t} has {n} members, the family has {self.size}")

    def _members_of(self, t: Term, shape: Sequence[int]) -> int:
        if self.kind != "matrix":
            return t.size(shape)
        blocks, n = mixing.shape_of(t, shape)
        return mixing.members(blocks, self.directions or n, self.skew)

    def order(self, params: Mapping[str, Tensor]) -> int:
        """n of the n x n matrices of a matrix family; 1 for the others."""
        t = self.terms[0]
        return mixing.shape_of(t, params[t.parameter].shape)[1] if self.kind == "matrix" else 1

    def rotations(self, params: Mapping[str, Tensor]) -> Symmetry:
        """Of a matrix family: the rotations among its matrices. Their charge is zero under gradient flow, always."""
        self.check(params)
        n = self.order(params)
        if n == 1:
            raise SymmetryError(f"{self.name}: there are no rotations in a {self.kind} family of 1 x 1 matrices")
        return replace(self, size=mixing.members(self._blocks(params), n, skew=True), skew=True, directions=0)

    def along(self, params: Mapping[str, Tensor], directions: int) -> Symmetry:
        """Of a matrix family with charges: the members u_a^T C u_b for so many fixed random directions (mixing.py), all
        blocks alike: directions (directions + 1) / 2 of each. Raises `SymmetryError` where that is no smaller family.
        """
        self.check(params)
        if self.skew or not 0 < directions < self.order(params):
            raise SymmetryError(f"{self.name}: no {directions} directions can be chosen in this family")
        return replace(self, size=mixing.members(self._blocks(params), directions, skew=False), directions=directions)

    def _blocks(self, params: Mapping[str, Tensor]) -> int:
        return self.terms[0].size(params[self.terms[0].parameter].shape)

    def _exponents(self, params: Mapping[str, Tensor], alpha: Tensor) -> Params:
        """Per parameter that moves: sum over its terms of weight * alpha[member], in the parameter's shape."""
        out: Params = {}
        for t in self.terms:
            p = params[t.parameter]
            moved = t.spread(alpha.to(dtype=p.dtype, device=p.device) * float(t.weight), p.shape)
            out[t.parameter] = out[t.parameter] + moved if t.parameter in out else moved
        return out

    def _members(self, alpha: float | Tensor, i: int | None) -> Tensor:
        a = torch.as_tensor(alpha, dtype=torch.float64)
        shapes = [(), (self.size,)] if i is None else [()]
        if tuple(a.shape) not in shapes:
            expected = "a number" if i is not None else f"a number or {self.size} numbers, one a member"
            raise SymmetryError(f"{self.name}: alpha has the shape {tuple(a.shape)}, expected {expected}")
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
        self.check(params)
        if self.kind == "matrix":
            return mixing.tangent(self.terms, params, alpha, self.skew, self.directions)
        direction = self._exponents(params, alpha)
        return direction if self.is_linear else {name: params[name] * d for name, d in direction.items()}

    def transform(self, params: Mapping[str, Tensor], alpha: float | Tensor, i: int | None = None) -> Params:
        """The finite transformation of all `params`; `alpha` a number or [size]; `i`: that member alone."""
        self.check(params)
        members = self._members(alpha, i)
        if self.kind == "matrix":
            return {**params, **mixing.transform(self.terms, params, members, self.skew, self.directions)}
        moved = self._exponents(params, members)
        act = torch.add if self.is_linear else lambda p, e: p * e.exp()
        return {name: act(p, moved[name]) if name in moved else p for name, p in params.items()}

    def charge(self, params: Mapping[str, Tensor]) -> Tensor:
        """The conserved quantity of every member: [size], float64."""
        self.check(params)
        if self.kind == "matrix":
            return mixing.charge(self.terms, params, self.skew, self.directions)
        total: Tensor | float = 0.0
        for t in self.terms:
            p = params[t.parameter].detach().double()
            total = total + float(t.weight) * t.gather(p if self.is_linear else p * p)
        assert isinstance(total, Tensor)
        return total
