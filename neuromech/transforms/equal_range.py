"""Equal ranges on both sides of every member: cross-layer equalisation (Nagel et al. 2019, section 4.1), for any model.

With r+ and r- the largest |weight| among the elements that a member multiplies and divides, a member is equalised where
r+ = r-. One member at a time this has a closed form; members of different families share weights, so families are
equalised in turn until none moves: Osborne's iteration in the maximum norm, which converges (Schulman & Sinclair 2017).
Equal ranges need not be unique; the order of the families, and a start at the present point, make the answer so.

As in the original, biases and other parameters of one axis follow and do not count, except where a side has no others.
A member whose elements are all zero on one side cannot be equalised. It stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from neuromech.errors import SymmetryError
from neuromech.symmetry import Symmetry, Term
from neuromech.transforms.least_norm import Solution
from neuromech.transforms.moving import Orbit, ReducedParameter

TOLERANCE = 1e-9  # of the logarithm of a ratio of two ranges
SWEEPS = 2000


def peaks(x: Tensor) -> Tensor:
    """How elements that move alike count together."""
    return x.abs().amax(-1)


def counting(s: Symmetry, params: Mapping[str, Tensor]) -> tuple[Term, ...]:
    """The terms of a family whose elements make its ranges."""
    out: list[Term] = []
    for sign in (1, -1):
        side = [t for t in s.terms if t.weight * sign > 0]
        out += [t for t in side if params[t.parameter].ndim > 1] or side
    return tuple(out)


def equalise(orbit: Orbit, params: Mapping[str, Tensor]) -> Solution:
    """The factors that equalise the ranges over an orbit of `peaks`.

    Raises `SymmetryError` if the iteration has not converged within `SWEEPS`.
    """
    a = torch.zeros(orbit.size, dtype=torch.float64, device=orbit.device)
    turns = [_Turn(orbit, f, counting(s, params)) for f, s in enumerate(orbit.families)]
    moved = torch.cat([torch.isfinite(turn.step(a)) for turn in turns]) if turns else a.bool()
    for sweep in range(SWEEPS):
        residual = 0.0
        for turn in turns:
            residual = max(residual, turn.take(a))
        if residual <= TOLERANCE:
            return Solution(a, moved, residual, sweep)
    raise SymmetryError(f"the ranges are not equal after {SWEEPS} sweeps: a ratio of e^{residual:.0e} is left")


class _Turn:
    """One family's turn: its members, equalised with all others at rest."""

    def __init__(self, orbit: Orbit, family: int, terms: Sequence[Term]) -> None:
        self.orbit, self.here = orbit, orbit.slices[family]
        names = [t.parameter for t in terms]
        self.sides: list[tuple[ReducedParameter, Term]] = [
            (cell, t) for cell in orbit.cells for f, t in cell.terms if f == family and t.parameter in names
        ]
        # Elements in two slices of one family (recurrent weights) couple its members: these take turns themselves.
        self.coupled = len({id(cell) for cell, _ in self.sides}) < len(self.sides)

    def take(self, a: Tensor) -> float:
        """Equalise in place; returns the largest step that was necessary."""
        if not self.coupled:
            step = self.step(a).nan_to_num(nan=0.0)
            a[self.here] += step
            return float(step.abs().amax())
        largest = 0.0
        for i in range(self.here.start, self.here.stop):
            step = self.step(a)[i - self.here.start].nan_to_num(nan=0.0)
            a[i] += step
            largest = max(largest, float(step.abs()))
        return largest

    def step(self, a: Tensor) -> Tensor:
        """For every member alone the distance to where its ranges are equal; nan where one of them is zero.

        The root of max_u (L_u + w_u x) = max_d (L_d + w_d x) is min over u of max over d of (L_d - L_u) / (w_u - w_d).
        """
        up, down = ([(t, self._log_range(cell, t, a)) for cell, t in self.sides if t.weight * s > 0] for s in (1, -1))

        def root(u: tuple[Term, Tensor], d: tuple[Term, Tensor]) -> Tensor:
            x = (d[1] - u[1]) / float(u[0].weight - d[0].weight)
            return torch.where(x.isnan(), -torch.inf, x)  # both ranges are zero

        roots = torch.stack([torch.stack([root(u, d) for d in down]).amax(0) for u in up]).amin(0)
        return torch.where(roots.isinf(), torch.nan, roots)

    def _log_range(self, cell: ReducedParameter, term: Term, a: Tensor) -> Tensor:
        values = cell.values.log() + self.orbit.exponents(cell, a)
        others = [t for other, t in self.sides if other is cell and t is not term]
        for t in others:  # an element that both move stays where the two cancel: the diagonal of a recurrent weight
            ones = torch.arange(1, term.size(values.shape) + 1, device=values.device, dtype=torch.float64)
            same = term.spread(ones, values.shape) == t.spread(ones, values.shape)
            values = torch.where(same, -torch.inf, values)
        return term.slices(values).amax(-1)
