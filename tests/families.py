"""Families of cases of which the fast suite runs some, and `make test-all` every one."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def fast(cases: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """`cases` for `parametrize`; those that are not among the `chosen` are marked slow.

    Raises ValueError if one that was chosen is not a case, so that none is lost when a case is renamed.
    """
    cases = list(cases)
    if lost := [c for c in chosen if c not in cases]:
        raise ValueError(f"not among the cases: {lost}")
    return [
        c if c in chosen else pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=pytest.mark.slow)
        for c in cases
    ]
