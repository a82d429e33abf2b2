"""Both sides of a rescaling: how long the weights on each are, and how the energy of gradients is shared among them.

A rescale charge is a difference. Gradient noise moves it to where the two sides carry the same energy of gradients
(Ziyin et al. 2024: the noise equilibrium of SGD): their ratio is 1 there.

Measured at few steps, 8 for every doubling of their number: one pass over weights and gradients each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from neuromech.dynamics.charge import Forms
from neuromech.dynamics.forms.sums import Block
from neuromech.dynamics.forms.vectors import Values
from neuromech.symmetry import Symmetry

PER_OCTAVE = 8
SIDES = ("up", "down")


def is_due(step: int) -> bool:
    """True for `PER_OCTAVE` steps of every doubling of their number, evenly apart; for all of the first ones."""
    stride: int = max(1, 2 ** (max(step, 1).bit_length() - 1) // PER_OCTAVE)
    return step % stride == 0


class Sides:
    """The rescale families among `symmetries`, by their numbers there."""

    def __init__(self, symmetries: Sequence[Symmetry], members: Sequence[range] | None = None) -> None:
        """`members`: those of each family that are measured; None: all."""
        self.families = [i for i, s in enumerate(symmetries) if s.kind == "rescale"]
        self._of = [(symmetries[i], None if members is None else members[i]) for i in self.families]
        self._forms: Forms | None = None
        self._kept: list[tuple[int, Tensor]] = []

    def due(self, step: int) -> bool:
        """Whether a step is one of those that are measured."""
        return bool(self.families) and is_due(step)

    def measure(self, step: int, params: Values, grads: Values) -> None:
        """Keep the squares of weights and gradients on both sides: nothing here waits for the device."""
        if self._forms is None:
            signs = [[t for t in s.terms if sign * t.weight > 0] for s, _ in self._of for sign in (1, -1)]
            whole = [Block.of(s, own) for s, own in self._of for _ in SIDES]
            terms = [tuple(replace(t, weight=abs(t.weight)) for t in side) for side in signs]
            self._forms = Forms([b._replace(terms=side) for b, side in zip(whole, terms, strict=True)], params)
        read = self._forms.bilinear([(params, params), (grads, grads)])
        self._kept.append((step, torch.stack([read[:, rows].sum(1) for rows in self._forms.slices], 1)))

    def take(self) -> dict[str, list[float]]:
        """Columns of what was kept, one row a family and step; then it is forgotten."""
        kept, self._kept = self._kept, []
        if not kept:
            return {}
        data = (
            torch.stack([x for _, x in kept]).cpu().unflatten(2, (-1, 2))
        )  # [steps, weights/gradients, families, side]
        columns = {
            f"{what}_{side}": data[:, i, :, k].flatten().tolist()
            for i, what in enumerate(("weights", "gradient"))
            for k, side in enumerate(SIDES)
        }
        steps = [step for step, _ in kept for _ in self.families]
        return {"step": steps, "symmetry": self.families * len(kept), **columns}
