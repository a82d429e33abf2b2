"""Noether's theorem for one gradient: along a symmetry the loss does not change, so <g, D theta> = 0 and <c, g> = 0.

This *torque* is checked before the optimizer has done anything: it separates a wrong gradient from a wrong step.

**The threshold.** Gradients are sums that cancel in part, and what is left of them is rounded relative to the terms. A
torque is called rounding while half of the digits are right, sqrt(eps), relative to |theta| |g| of the member, with at
least the gradient of the model, element for element. Sums that vanish altogether, as that of a bias ahead of a batch
norm, are nothing but rounding, of terms that are as large as the largest gradients: for translations it is those. To
this comes `CONFIDENCE` times the largest torque of the member that passed before: as gradients shrink in the course of
a run their rounding stays. That of a translation is no less than the eps of the largest size so far: a softmax rounds
relative to one, and where the loss has nearly vanished so have the gradients. What breaks a symmetry by itself (the eps
of a norm) counts as its eps: its measured defect. That is one of the family, while a channel that hardly varies leaks
more than others, all of it in the end, and rounds more: a family that an eps breaks is off only if half of its members
are, a translation only if the family is, root mean square against root mean square.

Shapes: [rows] over all members of all families, float64, on the device of the parameters. Nothing waits for the device,
but for families that have had no gradient yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics import Block, Forms, Reading, Values, blank
from neuromech.rounding import CONFIDENCE
from neuromech.symmetry import Symmetry, Term

Total = Callable[[Tensor], Tensor]
"""Sums over all processes that hold a part of the parameters."""


def of_all_processes(reading: Reading, total: Total) -> Reading:
    """With what the law check reads, added up over the processes."""
    observed, exact, scale = total(torch.stack([reading.observed, reading.exact, reading.scale]))
    return reading._replace(observed=observed, exact=exact, scale=scale)


@dataclass(frozen=True, eq=False)
class Torques:
    """What was measured of one gradient, by member: [rows]; by parameter: [parameters]."""

    torque: Tensor
    charge: Tensor
    size: Tensor  # what a torque is compared with: |theta| |g|
    gradients: Tensor  # |g|^2 of the parameter
    whole: bool = True  # False: `size` is without the gradient of the member itself, so that it is no more than that

    @cached_property
    def squares(self) -> list[float]:
        """|g|^2 by parameter, as numbers."""
        return [float(x) for x in self.gradients.tolist()]


class Charges(NamedTuple):
    """What is known of weights without looking at them, by member: [rows]."""

    charge: Tensor
    scale: Tensor  # the same sum with absolute values


class TorqueMeter:
    """Measures torques for `symmetries` over `params` (their values are not read here)."""

    def __init__(self, symmetries: Sequence[Symmetry], params: Values, total: Total | None = None) -> None:
        """`total`: sums over all processes that hold a part of the parameters."""
        self.shared = total is not None
        self._total: Total = total or (lambda x: x)
        self.symmetries, self.names = tuple(symmetries), tuple(params)
        signed = [Block.of(s) for s in self.symmetries]
        unsigned = [block.unsigned() for block in signed]
        whole = [Block(1, False, (Term(name, None, Fraction(1)),)) for name in self.names]
        n = len(signed)
        self._forms = Forms([*signed, *unsigned, *whole], blank(params), few=range(2 * n, 2 * n + len(whole)))
        slices = self._forms.slices
        device = self._forms.device
        self.slices = _end_to_end([s.size for s in self.symmetries])
        self._signed, self._unsigned = _rows(slices[:n], device), _rows(slices[n : 2 * n], device)
        self._whole = _rows(slices[2 * n :], device)
        linear = [torch.full((s.size,), s.is_linear) for s in self.symmetries]
        self.linear = torch.cat(linear).to(device) if linear else torch.zeros(0, dtype=torch.bool)
        self._count = _spread([block.elements(params) for block in signed], self.symmetries).to(device)
        elements = [float(max(p.numel(), 1)) for p in params.values()]
        self._elements = torch.tensor(elements, dtype=torch.float64, device=device)

    def __call__(self, params: Values, grads: Values) -> Torques:
        """Measure; a parameter without a gradient counts as one whose gradient is zero."""
        pairs = [(grads, params), (grads, grads), (params, params)]
        forms, values, _ = self._forms.both(pairs, [grads, params])
        (products, squares, weights), (force, sums) = self._total(forms), self._total(values)
        torque, charge = (torch.cat(x)[self._signed] for x in ((products, force), (weights, sums)))
        gradients, own = squares[self._whole], squares[self._unsigned]
        return Torques(torque, charge, self._size(weights[self._unsigned], own, gradients), gradients)

    def quick(self, params: Values, grads: Values, known: Charges) -> Torques:
        """A third of the work where the charges of the weights are known: the sizes are lower bounds."""
        forms, values, _ = self._forms.both([(grads, params), (grads, grads)], [grads], few=(1,))
        (products, squares), (force,) = self._total(forms), self._total(values)
        torque, gradients = torch.cat((products, force))[self._signed], squares[self._whole]
        return Torques(torque, known.charge, self._size(known.scale, None, gradients), gradients, whole=False)

    def _size(self, weights: Tensor, own: Tensor | None, gradients: Tensor) -> Tensor:
        """|theta| |g| by member; `own`: |g|^2 of the member."""
        typical = (gradients.sum() / self._elements.sum().clamp(min=1.0)).sqrt()
        largest = (gradients / self._elements).sqrt().amax() if len(self.names) else typical
        rms = torch.where(self.linear, largest, typical)
        length = torch.where(self.linear, self._count, weights).sqrt()
        return length * (self._count.sqrt() * rms + (own.sqrt() if own is not None else 0.0))

    def along(self, grads: Values, others: Values) -> Tensor:
        """<g, D x> for another vector x; 0 for translations, whose torque does not ask where it is taken: [rows]."""
        (products,) = self._total(self._forms.bilinear([(grads, others)]))
        return torch.cat((products, products.new_zeros(self._forms.rows[1])))[self._signed]


class TorqueJudge:
    """Tells rounding from a broken law; `eps`: of each family's arithmetic, the defect of its symmetry included.

    What the eps of a norm does to a symmetry is not known before there is a gradient: behind weights that begin at zero
    it is the whole norm. The first gradient tells.
    """

    def __init__(self, meter: TorqueMeter) -> None:
        self.meter = meter
        self._defects = [s.defect if s.broken_by else 0.0 for s in meter.symmetries]
        self._passed: Tensor | None = None
        self._largest: Tensor | None = None
        self._half: tuple[float, Tensor] | None = None

    @property
    def fresh(self) -> bool:
        """True before the first judgement."""
        return self._passed is None

    def __call__(self, found: Torques, eps: float) -> Tensor:
        """|torque| / what is allowed: [rows]; more than 1: the law is broken."""
        self._meet(found, eps)
        excess, allowed = self.excess(found, eps), self._allowed(found, eps)
        if self._passed is None or self._largest is None:
            self._passed, self._largest = torch.zeros_like(allowed), torch.zeros_like(allowed)
        self._largest = torch.maximum(self._largest, allowed)
        # A probability is rounded relative to one, however little of the gradient is left of it.
        rounded = torch.where(self.meter.linear, eps * found.size, 0.0)
        passed = torch.where(excess <= 1, found.torque.abs(), 0.0).maximum(rounded)
        self._passed = torch.minimum(torch.maximum(self._passed, passed), self._largest)
        return excess

    def excess(self, found: Torques, eps: float) -> Tensor:
        """The same, and the judge forgets that it was asked."""
        allowed = self._allowed(found, eps)
        excess = found.torque.abs() / (allowed if self._passed is None else allowed + CONFIDENCE * self._passed)
        excess = torch.where(found.torque == 0, 0.0, excess)
        if bool((excess > 1).any()):
            excess = torch.minimum(excess, self._of_families(found.torque, allowed, excess))
        return excess

    def suspects(self, found: Torques, eps: float) -> bool:
        """True if a judgement of `found` might be that a law is broken: its lower bounds are not enough to say."""
        if self._passed is None:
            return True
        return bool((found.torque.abs() > self._allowed(found, eps) + CONFIDENCE * self._passed).any())

    def _allowed(self, found: Torques, eps: float) -> Tensor:
        if self._half is None or self._half[0] != eps:
            own = [1.0 if math.isnan(d) else max(eps, d) for d in self._defects]
            half = _spread([x**0.5 for x in own], self.meter.symmetries)
            self._half = eps, half.to(found.size.device)
        return self._half[1] * found.size

    def _meet(self, found: Torques, eps: float) -> None:
        """Learn the defects of families that have their first gradient."""
        for i in [i for i, d in enumerate(self._defects) if math.isnan(d)]:
            rows = self.meter.slices[i]
            if seen := float(found.torque[rows].norm()):
                defect = seen / float(found.size[rows].norm())
                self._defects[i], self._half = defect, None

    def _of_families(self, torque: Tensor, allowed: Tensor, excess: Tensor) -> Tensor:
        """The same for families as wholes: [rows]; infinite where every member counts by itself."""
        out = torch.full_like(torque, torch.inf)
        for s, rows in zip(self.meter.symmetries, self.meter.slices, strict=True):
            if s.broken_by:
                out[rows] = excess[rows].median()
            elif s.is_linear:
                out[rows] = torque[rows].norm() / allowed[rows].norm().clamp(min=torch.finfo(torch.float64).tiny)
        return out


def penalty(found: Torques, excess: Tensor) -> float | None:
    """The coefficient if all torques that are broken are one multiple of their charges: of an L2 term in the loss."""
    broken = excess > 1
    torque, charge = found.torque[broken], found.charge[broken]
    allowed = torque.abs() / excess[broken]
    if len(torque) < 2 or not bool(charge.any()):
        return None
    weight = allowed.square()
    factor = float((torque * charge / weight).sum() / (charge * charge / weight).sum())
    rest = (torque - factor * charge).abs()
    return factor if factor > 0 and bool((rest <= allowed).all()) else None


def _end_to_end(sizes: Sequence[int]) -> tuple[slice, ...]:
    stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(slice(stop - n, stop) for n, stop in zip(sizes, stops, strict=True))


def _rows(slices: Sequence[slice], device: torch.device) -> Tensor:
    parts = [torch.arange(s.start, s.stop) for s in slices]
    return (torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)).to(device)


def _spread(values: Sequence[float], symmetries: Sequence[Symmetry]) -> Tensor:
    parts = [torch.full((s.size,), v, dtype=torch.float64) for v, s in zip(values, symmetries, strict=True)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def broken_families(excess: Tensor, slices: Sequence[slice]) -> dict[int, tuple[int, float]]:
    """Family -> (how many members are broken, the largest excess); `excess` on the CPU."""
    out: dict[int, tuple[int, float]] = {}
    if not bool((excess > 1).any()):
        return out
    for i, rows in enumerate(slices):
        some = excess[rows]
        if n := int((some > 1).sum()):
            out[i] = n, float(some.max())
    return out
