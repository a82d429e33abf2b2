"""`SymmetrySet`: an ordered set of families."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, overload

from neuromech.symmetry.symmetry import Symmetry

if TYPE_CHECKING:
    import pandas as pd


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
        families, members = len(self), sum(s.size for s in self)
        ies = "y" if families == 1 else "ies"
        return f"SymmetrySet of {families} famil{ies}, {members:,} member{'s' * (members != 1)}"
