"""Names that differ only in the numbers of their modules, said once: `layers.0-31.mlp.up_proj.weight`.

A name is a template with numbers in it: the parts of a dotted path that are digits. Names of one template form a table
of numbers; columns that move together (layer l and layer l + 1) are one variable, and a table that holds every
combination of its variables' values is written as one name with ranges in place of the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple, TypeVar

Numbers = tuple[int, ...]
RowKey = TypeVar("RowKey", bound=Hashable)

_PATH = re.compile(r"\b\w+(?:\.\w+)+")
# A module of a Sequential, as prose names it: "passes through ReLU 1".
_ALONE = re.compile(r"(?<=[A-Za-z] )\d+(?=$|[,;]| and )")
_FEW = 4  # so many values are listed rather than summed up


class Template(NamedTuple):
    """A text cut at its numbers: one number between each two pieces."""

    pieces: tuple[str, ...]

    def filled(self, numbers: Sequence[object]) -> str:
        words = [w for pair in zip(self.pieces, map(str, numbers), strict=False) for w in pair]
        return "".join([*words, self.pieces[-1]])


def parse(text: str) -> tuple[Template, Numbers]:
    """A text as its template and the numbers of the modules that it names."""
    spans = [m.span() for m in _ALONE.finditer(text)]
    for path in _PATH.finditer(text):
        parts = path.group().split(".")
        if all(part.isdigit() for part in parts):
            continue  # a decimal number
        at = path.start()
        for part in parts:
            if part.isdigit():
                spans.append((at, at + len(part)))
            at += len(part) + 1
    spans.sort()
    ends = [0, *(b for _, b in spans)]
    starts = [*(a for a, _ in spans), len(text)]
    pieces = tuple(text[a:b] for a, b in zip(ends, starts, strict=True))
    return Template(pieces), tuple(int(text[a:b]) for a, b in spans)


class RowGroup(NamedTuple):
    """Rows of a table that can be written as one, and how each column of theirs is written."""

    rows: tuple[int, ...]
    columns: tuple[str, ...]


def grouped(table: Sequence[Numbers]) -> list[RowGroup]:
    """The rows of a table of numbers in groups that hold every combination of their variables' values."""
    return sorted(_grouped(table, tuple(range(len(table)))))


def _grouped(table: Sequence[Numbers], rows: tuple[int, ...]) -> list[RowGroup]:
    own = [table[r] for r in rows]
    variables: dict[Numbers, list[int]] = {}  # how a column moves -> the columns that do
    for c in range(len(own[0])):
        variables.setdefault(tuple(v[c] - own[0][c] for v in own), []).append(c)
    lengths = {moves: len(set(moves)) for moves in variables}
    if prod(lengths.values()) == len(set(own)):
        return [RowGroup(rows, tuple(ranges({v[c] for v in own}) for c in range(len(own[0]))))]
    splits = [_split(rows, moves, [m for m in variables if m is not moves]) for moves in variables]
    parts = min((s for s in splits if len(s) > 1), key=len)
    return [group for part in parts for group in _grouped(table, part)]


def _split(rows: tuple[int, ...], moves: Numbers, others: Sequence[Numbers]) -> list[tuple[int, ...]]:
    """The rows, apart where the values of one variable do not meet the same values of the others."""
    meets: dict[int, set[Numbers]] = {}
    for i, value in enumerate(moves):
        meets.setdefault(value, set()).add(tuple(m[i] for m in others))
    parts: dict[frozenset[Numbers], list[int]] = {}
    for row, value in zip(rows, moves, strict=True):
        parts.setdefault(frozenset(meets[value]), []).append(row)
    return [tuple(part) for part in parts.values()]


def ranges(values: Iterable[int]) -> str:
    """A set of numbers in words: 0-31, or 0,2,5, or 0,2..30."""
    ordered = sorted(set(values))
    steps = {b - a for a, b in pairwise(ordered)}
    if len(ordered) > 2 and steps == {1}:
        return f"{ordered[0]}-{ordered[-1]}"
    if len(ordered) > _FEW and len(steps) == 1:
        return f"{ordered[0]},{ordered[1]}..{ordered[-1]}"
    runs: list[list[int]] = []
    for n in ordered:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ",".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ",".join(map(str, r)) for r in runs)


def compressed(names: Iterable[str], least: int = _FEW) -> list[str]:
    """The names, in order; those of one template as one if there are `least` of them."""
    found: dict[Template, list[tuple[str, Numbers]]] = {}
    for name in dict.fromkeys(names):
        template, numbers = parse(name)
        found.setdefault(template, []).append((name, numbers))
    out = []
    for template, some in found.items():
        if len(some) < least:
            out += [name for name, _ in some]
        else:
            out += [template.filled(group.columns) for group in grouped([numbers for _, numbers in some])]
    return out


def prose(text: str) -> str:
    """The enumerations of a sentence with their items compressed."""
    clauses = []
    for clause in text.split("; "):
        items = re.split(r", | and ", clause)
        short = compressed(items)
        clauses.append(clause if len(short) == len(items) else ", ".join(short))
    return "; ".join(clauses)


def merged(texts: Sequence[tuple[RowKey, tuple[str, ...]]]) -> list[tuple[list[int], tuple[str, ...]]]:
    """Rows of texts with a key, grouped where keys and templates are the same: (rows, the texts with ranges)."""
    found: dict[tuple[RowKey, tuple[Template, ...]], list[tuple[int, list[Numbers]]]] = {}
    for row, (key, some) in enumerate(texts):
        parsed = [parse(text) for text in some]
        found.setdefault((key, tuple(t for t, _ in parsed)), []).append((row, [n for _, n in parsed]))
    out = []
    for (_, templates), rows in found.items():
        for group in grouped([tuple(n for part in numbers for n in part) for _, numbers in rows]):
            columns, written = list(group.columns), []
            for template in templates:
                k = len(template.pieces) - 1
                written.append(template.filled(columns[:k]))
                del columns[:k]
            out.append(([rows[i][0] for i in group.rows], tuple(written)))
    return sorted(out)
