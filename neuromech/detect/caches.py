"""Results that a model's code keeps in `functools` caches: none of ours may stay there.

A forward of ours computes in inference mode or in float64; a tensor from it that a later step of the training finds in
a cache would fail there, or be of the wrong type.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def caches_kept_clean(model: nn.Module) -> Iterator[None]:
    """Empty the caches afterwards that were added to inside: those of the model's classes and of their source files."""
    caches = _caches(model)
    before = [cache.cache_info().misses for cache in caches]
    try:
        yield
    finally:
        for cache, misses in zip(caches, before, strict=True):
            if cache.cache_info().misses != misses:
                cache.cache_clear()


def _caches(model: nn.Module) -> list[Any]:
    found: dict[int, Any] = {}
    seen: set[type] = set()
    for m in model.modules():
        for cls in type(m).__mro__:
            if cls in seen or cls.__module__.partition(".")[0] in ("torch", "builtins"):
                continue
            seen.add(cls)
            source = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
            for thing in (*vars(cls).values(), *source.values()):
                found |= {id(cache): cache for cache in _in(thing)}
    return list(found.values())


def _in(thing: Any) -> Iterator[Any]:
    """The cache that a function is, or that a wrapper has closed over."""
    for inner in (thing, *_closed_over(thing)):
        if callable(getattr(inner, "cache_clear", None)) and callable(getattr(inner, "cache_info", None)):
            yield inner


def _closed_over(thing: Any) -> Iterator[Any]:
    for cell in getattr(thing, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue
