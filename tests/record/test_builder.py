"""Rows in blocks: the table is the one that pandas puts together from the pieces."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from neuromech.record import taken
from neuromech.record.builder import TableBuilder

COLUMNS = {
    "whole": ([1, 2], [3], [4, 5, 6]),
    "broken": ([1, 2], [0.5], [4, 5, 6]),
    "late gap": ([1, 2], [3], [4, math.nan, 6]),
    "large": ([2**62, 1], [2], [3, 4, 5]),
    "text": (["a", "b"], ["c"], ["d", "", "f"]),
    "late text": ([1.5, 2.0], ["c"], ["d", "e", "f"]),
    "truth": ([True, False], [True], [False, True, True]),
}


@pytest.mark.parametrize("spare", [0, 3])
def test_blocks_make_the_table_that_pandas_makes_of_them(spare: int) -> None:
    blocks = [pd.DataFrame({name: parts[k] for name, parts in COLUMNS.items()}) for k in range(3)]
    builder = TableBuilder(6 + spare)
    for block in [pd.DataFrame(), blocks[0], blocks[1], blocks[0].iloc[:0], blocks[2]]:
        builder.add(block)
    assert_frame_equal(builder.frame(), pd.concat(blocks, ignore_index=True))
    assert TableBuilder(0).frame().empty


@pytest.mark.parametrize("which", [np.array([True, False, True]), np.array([2, 0]), np.zeros(3, bool)])
def test_rows_are_taken_out_of_a_table_that_is_emptied(which: np.ndarray) -> None:
    rows = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, math.nan, 2.5], "c": ["x", "y", "z"]})
    expected = rows[which] if which.dtype == bool else rows.iloc[which]
    assert_frame_equal(taken(rows, which), expected.reset_index(drop=True))
    assert not len(rows.columns)
