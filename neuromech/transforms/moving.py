"""The orbit of a model under its rescale families, in coordinates: one logarithm of a factor for every member.

At the point a (one number a member, all families in one vector) element e of the parameters is

    theta_e exp(sum_k w_ek a_k)

Elements that all families move alike are taken together first, so that the work below goes with the channels of a
convolution and not with its taps: a `ReducedParameter` holds what is left of one parameter.

Shapes: vectors over all members [members], float64; family f has the entries `slices[f]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from neuromech.symmetry import Part, Symmetry, Term

Reduce = Callable[[Tensor], Tensor]  # from [cells, elements] to [cells]


@dataclass(frozen=True)
class ReducedParameter:
    """One parameter, reduced: `values` and the terms that move them, each with the number of its family."""

    values: Tensor
    terms: tuple[tuple[int, Term], ...]


class Orbit:
    """The families' action on the parameters, each reduced by `reduce` over the elements that move alike."""

    def __init__(self, families: Sequence[Symmetry], params: Mapping[str, Tensor], reduce: Reduce) -> None:
        stops = list(accumulate((s.size for s in families), initial=0))
        self.families = tuple(families)
        self.slices = tuple(slice(a, b) for a, b in pairwise(stops))
        self.size = stops[-1]
        names = dict.fromkeys(name for s in families for name in s.parameters)
        first = next((params[name].device for name in names), torch.device("cpu"))
        self.device = first if first.type != "mps" else torch.device("cpu")  # which has no float64
        self.cells = []
        for name in names:
            terms = [(f, t) for f, s in enumerate(families) for t in s.terms if t.parameter == name]
            self.cells.append(_cell(params[name].detach().to(self.device).double(), terms, reduce))

    def exponents(self, cell: ReducedParameter, a: Tensor) -> Tensor:
        """sum_k w_ek a_k for the elements of a cell."""
        out = torch.zeros_like(cell.values)
        for f, t in cell.terms:
            out += t.spread(a[self.slices[f]] * float(t.weight), out.shape)
        return out

    def gather(self, values: Sequence[Tensor], of_weight: Callable[[float], float]) -> Tensor:
        """sum_e of_weight(w_ek) values_e for every member k, given one tensor like its values for each cell."""
        out = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        for cell, x in zip(self.cells, values, strict=True):
            for f, t in cell.terms:
                out[self.slices[f]] += of_weight(float(t.weight)) * t.gather(x)
        return out

    def factors(self, params: Mapping[str, Tensor], a: Tensor) -> dict[str, Tensor]:
        """The factor of every element of every parameter that moves, in the parameter's shape: float64."""
        out: dict[str, Tensor] = {}
        for s, here in zip(self.families, self.slices, strict=True):
            for t in s.terms:
                p = params[t.parameter]
                e = t.spread(a[here].to(p.device if p.device.type != "mps" else "cpu") * float(t.weight), p.shape)
                out[t.parameter] = out[t.parameter] + e if t.parameter in out else e
        return {name: e.exp() for name, e in out.items()}


def _cell(values: Tensor, terms: Sequence[tuple[int, Term]], reduce: Reduce) -> ReducedParameter:
    views = {t.view(values.shape) for _, t in terms}
    if len(views) > 1 or any(t.part and t.part.strides for _, t in terms):  # cut in different ways
        return ReducedParameter(reduce(values.reshape(-1, 1)).reshape(values.shape), tuple(terms))
    (view,) = views
    fixed = [dict(t.part.select) if t.part else {} for _, t in terms]
    kept = sorted({a for (_, t), f in zip(terms, fixed, strict=True) for a in (*t.axes, *f)})
    shape = tuple(view[a] for a in kept)
    left = reduce(Term(terms[0][1].parameter, tuple(kept) or None, Fraction(1), Part(view)).slices(values)).reshape(
        shape
    )

    def reduced(t: Term, fixed: Mapping[int, int]) -> Term:
        select = tuple((kept.index(a), i) for a, i in fixed.items())
        return replace(t, axis=tuple(kept.index(a) for a in t.axes) or None, part=Part(shape, select))

    return ReducedParameter(left, tuple((f, reduced(t, at)) for (f, t), at in zip(terms, fixed, strict=True)))
