"""Both sides of a rescaling: how long the weights on each are, and how the energy of gradients is shared among them.

A rescale charge is a difference. Gradient noise moves it to where the two sides carry the same energy of gradients
(Ziyin et al. 2024: the noise equilibrium of SGD): their ratio is 1 there.

At few steps, 8 for every doubling of their number, and for nothing where laws read the gradients anyhow: a charge is
the difference of its sides, and the same sum with absolute values, which every reading has, is what they sum up to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neuromech.symmetry import Symmetry

PER_OCTAVE = 8
SIDES = ("up", "down")

Signed = tuple[Tensor, Tensor]
"""Sums <x, D x> by row, and the same with the absolute values of the weights of D."""


def is_due(step: int) -> bool:
    """True for `PER_OCTAVE` steps of every doubling of their number, evenly apart; for all of the first ones."""
    stride: int = max(1, 2 ** (max(step, 1).bit_length() - 1) // PER_OCTAVE)
    return step % stride == 0


class Sides:
    """The rescale families among `symmetries`, by their numbers there; family i has the rows `slices[i]`."""

    def __init__(self, symmetries: Sequence[Symmetry], slices: Sequence[slice]) -> None:
        self.families = [i for i, s in enumerate(symmetries) if s.kind == "rescale"]
        self._slices = [slices[i] for i in self.families]
        self._kept: list[tuple[int, Tensor]] = []

    def due(self, step: int) -> bool:
        """Whether a step is one of those that are measured."""
        return bool(self.families) and is_due(step)

    def keep(self, step: int, weights: Signed, gradients: Signed) -> None:
        """Keep the squares of weights and gradients on both sides: nothing here waits for the device."""
        self._kept.append((step, torch.stack([self._of_families(*x) for x in (weights, gradients)])))

    def _of_families(self, signed: Tensor, whole: Tensor) -> Tensor:
        """[families, sides]"""
        up, down = (whole + signed).clamp(min=0.0) / 2, (whole - signed).clamp(min=0.0) / 2
        return torch.stack([torch.stack((up[rows].sum(), down[rows].sum())) for rows in self._slices])

    def take(self) -> dict[str, list[float]]:
        """Columns of what was kept, one row a family and step; then it is forgotten."""
        kept, self._kept = self._kept, []
        if not kept:
            return {}
        data = torch.stack([x for _, x in kept]).cpu()  # [steps, weights/gradients, families, sides]
        columns = {
            f"{what}_{side}": data[:, i, :, k].flatten().tolist()
            for i, what in enumerate(("weights", "gradient"))
            for k, side in enumerate(SIDES)
        }
        steps = [step for step, _ in kept for _ in self.families]
        return {"step": steps, "symmetry": self.families * len(kept), **columns}
