"""What is measured beside the laws, at few steps: both sides of rescalings, matrices as wholes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from neuromech.dynamics.forms.vectors import Values
from neuromech.dynamics.matrices import Matrices
from neuromech.dynamics.sides import Sides, Signed
from neuromech.symmetry import Symmetry


class Looks:
    """Of `symmetries`; `slices`: the rows of each family in a reading."""

    def __init__(self, symmetries: Sequence[Symmetry], slices: Sequence[slice]) -> None:
        self._sides, self._matrices = Sides(symmetries, slices), Matrices(symmetries)

    def measure(self, step: int, params: Values, squares: Callable[[], tuple[Signed, Signed]]) -> None:
        """Ahead of step `step`, if one of these is due; `squares()`: of weights and gradients, as `Laws.squares`. A row
        of sides is numbered by the step that they drive, one of matrices by the step that left them."""
        if self._sides.due(step):
            self._sides.keep(step, *squares())
        if self._matrices.due(step):
            self._matrices.measure(step - 1, params)

    def take(self) -> dict[str, dict[str, list[float]]]:
        """By table, columns of what was kept; then it is forgotten."""
        found = {"sides": self._sides.take(), "matrices": self._matrices.take()}
        return {table: columns for table, columns in found.items() if columns}
