"""The arguments of operators: lists, tuples and dicts of values, nothing else, so they are walked without asking torch
what a tree is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

K = TypeVar("K")


def those_of(kind: type[K], tree: Any) -> Iterator[K]:
    """What there is of a kind among arguments, in order."""
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for x in tree:
            yield from those_of(kind, x)
    elif isinstance(tree, dict):
        for x in tree.values():
            yield from those_of(kind, x)


def exchanged(kind: type[K], by: Callable[[K], Any], tree: Any) -> Any:
    """The arguments with all of a kind exchanged for what `by` makes of it."""
    if isinstance(tree, kind):
        return by(tree)
    if isinstance(tree, (list, tuple)) and tree:
        inside = [exchanged(kind, by, x) for x in tree]
        return inside if isinstance(tree, list) else tuple(inside)
    return {k: exchanged(kind, by, x) for k, x in tree.items()} if isinstance(tree, dict) else tree
