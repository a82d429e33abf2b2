"""How many independent one-parameter symmetries some of the claims make up, domain by domain."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from neuromech.detect.families import Claim
from neuromech.detect.matrix import beyond_the_diagonal
from neuromech.detect.solve import SolutionFamily, dimension
from neuromech.symmetry import Symmetry


@dataclass(frozen=True)
class Independent:
    """Families overlap, so that their sizes do not add up: what is counted is the rank of the solutions behind them.

    `drawn`: the diagonal claims of each domain, with these solutions; `shapes`: of the parameters.
    """

    drawn: Mapping[str, Sequence[Claim]]
    shapes: Mapping[str, tuple[int, ...]]

    def among(self, kept: Collection[Symmetry]) -> dict[str, int]:
        """The dimension of each domain, of the claims that are kept."""
        named = {(s.kind, s.name) for s in kept}

        def solutions(claims: Sequence[Claim]) -> list[SolutionFamily]:
            return [f for c in claims if (c.symmetry.kind, c.symmetry.name) in named for f in c.families]

        counted = {domain: dimension(solutions(claims)) for domain, claims in self.drawn.items()}
        mixing = [s for s in kept if s.kind == "matrix"]
        return counted | {"matrix": beyond_the_diagonal(mixing, self.shapes)}
