"""What the axes of an operator are called: the letters of an einsum, the order that `movedim` asks for."""

from __future__ import annotations

from collections.abc import Sequence

from neuromech.detect.abstract import Unsupported


def parsed(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The letters of every tensor of an einsum, and those of its result; axes behind dots get letters of their own.

    Raises `Unsupported` for a diagonal (one letter twice in one tensor).
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    names = left.split(",")
    behind = [n - len(name.replace("...", "")) for n, name in zip(ranks, names, strict=True)]
    rank = max((k for k, name in zip(behind, names, strict=True) if "..." in name), default=0)
    spare = "".join(chr(0x3B1 + k) for k in range(rank))
    names = [name.replace("...", spare[rank - k :]) for k, name in zip(behind, names, strict=True)]
    letters = "".join(names)
    if not arrow:
        right = "..." + "".join(c for c in sorted(set(letters)) if letters.count(c) == 1 and c not in spare)
    if any(len(set(name)) < len(name) for name in names):
        raise Unsupported("it takes a diagonal")
    return names, right.replace("...", spare)


def moved_axes(ndim: int, source: int | Sequence[int], destination: int | Sequence[int]) -> list[int]:
    """The old axis at every place, once some have moved and the rest follow in their order."""
    given = [[d] if isinstance(d, int) else d for d in (source, destination)]
    here, there = ([d % ndim for d in ds] for ds in given)
    rest = iter(d for d in range(ndim) if d not in here)
    return [here[there.index(d)] if d in there else next(rest) for d in range(ndim)]
