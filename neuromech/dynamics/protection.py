"""Do the gradients that a step is handed leave the loss where its symmetries leave it?

Under SGD a law reads no torque: the symmetry protects it, <g, D theta> = 0 and <c, g> = 0. What is done to a gradient
behind the backward (clipping by value or tensor by tensor, noise, projections), a gradient that was taken at other
weights (SAM), and a loss that moves along what was taken for a translation all break this: the torque is not rounding
any more, and the law has to follow what was measured.

A torque is rounding while half of the digits are right: up to sqrt(eps) |theta| |g|, with at least the gradient of the
model, element for element. Translations sum up what cancels, terms as large as the largest gradients. As gradients
shrink in a run their rounding stays: `CONFIDENCE` times what has passed is allowed on top. Families are judged as
wholes, root mean square against root mean square. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neuromech.dynamics.splits import Layout
from neuromech.rounding import CONFIDENCE
from neuromech.symmetry import Symmetry


class Protection:
    """Judges families of `symmetries`; `eps`: of the arithmetic behind the gradients of each."""

    def __init__(self, symmetries: Sequence[Symmetry], eps: Sequence[float], device: torch.device) -> None:
        self._broken_by = [bool(s.broken_by) for s in symmetries]
        self._half = torch.tensor(eps, dtype=torch.float64, device=device).sqrt()
        self._passed, self._largest = torch.zeros_like(self._half), torch.zeros_like(self._half)
        self._ever = torch.zeros_like(self._half, dtype=torch.bool)
        self._rows: tuple[Layout, Tensor, Tensor] | None = None

    def broken(self, layout: Layout, torque: Tensor, squares: Tensor, scale: Tensor) -> Tensor:
        """The rows whose torque is not rounding: [rows] bool. Never those of split families, whose parts have torques,
        nor of symmetries that an operator breaks: their laws take the torque anyhow.

        `torque`: [rows], 0 where it was not measured; `squares`: |g|^2 of the quadratic rows; `scale`: |theta|^2.
        """
        family, judged = self._of(layout)
        n = layout.forms.rows[0]
        count = layout.count
        rms = (squares / count[:n]).sqrt()
        typical = (squares.sum() / count[:n].sum().clamp(min=1.0)).sqrt()
        largest = rms.amax() if n else rms.sum()
        own = scale[:n].sqrt() * (squares.sqrt() + count[:n].sqrt() * typical)
        size = self._of_families(family, torch.cat((own, count[n:] * largest)))
        found, allowed = self._of_families(family, torque), self._half * size
        # Where no gradient of a product of weights is left, nothing tells how large the terms are that cancel.
        beyond = (size > 0) & (found > allowed + CONFIDENCE * self._passed)
        self._largest = torch.maximum(self._largest, allowed)
        passed = torch.where(beyond, 0.0, found)
        self._passed = torch.minimum(torch.maximum(self._passed, passed), self._largest)
        self._ever = self._ever | beyond  # what is broken a little, after it was broken much, is no rounding
        return self._ever[family] & judged

    def _of_families(self, family: Tensor, x: Tensor) -> Tensor:
        return torch.zeros_like(self._half).index_add_(0, family, x.square()).sqrt()

    def _of(self, layout: Layout) -> tuple[Tensor, Tensor]:
        if self._rows is None or self._rows[0] is not layout:
            family = torch.zeros(sum(layout.forms.rows), dtype=torch.long)
            judged = torch.zeros(len(family), dtype=torch.bool)
            for (f, _), here in layout.rows.items():
                family[here], judged[here] = f, not (f in layout.split or self._broken_by[f])
            if not layout.forms.rows[0]:
                judged[:] = False  # nothing tells how large the terms are that cancel
            self._rows = layout, family.to(self._half.device), judged.to(self._half.device)
        return self._rows[1:]
