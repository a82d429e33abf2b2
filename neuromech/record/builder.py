"""Rows that come in blocks, in columns that are each one array from the start.

Put together in the end, the blocks of a long table would leave holes where they were, as large as the table itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


class TableBuilder:
    """Room for `most` rows."""

    def __init__(self, most: int) -> None:
        self._most, self._n = most, 0
        self._columns: dict[str, np.ndarray | list[pd.Series]] = {}

    def add(self, block: pd.DataFrame) -> None:
        """Rows behind the others, of the same columns."""
        for name in block if len(block) else ():  # without a row its columns are of no type
            self._columns[str(name)] = self._longer(self._columns.get(str(name)), block[name])
        self._n += len(block)

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        whole = {
            name: column[: self._n] if isinstance(column, np.ndarray) else pd.concat(column, ignore_index=True)
            for name, column in self._columns.items()
        }
        return pd.DataFrame(whole, copy=False)

    def _longer(self, column: np.ndarray | list[pd.Series] | None, more: pd.Series) -> np.ndarray | list[pd.Series]:
        import pandas as pd

        numbers = more.to_numpy() if more.dtype.kind in "iuf" else None
        if column is None:
            column = [] if numbers is None else np.empty(self._most, numbers.dtype)
        if isinstance(column, np.ndarray) and numbers is not None:
            column = column.astype(np.result_type(column, numbers), copy=False)
            column[self._n : self._n + len(more)] = numbers
            return column
        before = [pd.Series(column[: self._n])] if isinstance(column, np.ndarray) else column
        return [*before, more]
