"""Findings as a page of at most 120 columns, whatever the size of the model."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from neuromech.detect.interpret import Opaque
from neuromech.detect.patterns import compressed, merged, prose
from neuromech.symmetry import KINDS, Symmetry, SymmetrySet

_MEANING = {
    "translation": "a constant can be added to these (and taken from what follows the minus)",
    "scale": "these can be multiplied by any positive factor",
    "rescale": "a positive factor on what stands left of the slash is undone by its inverse on the right",
    "matrix": "an invertible matrix that mixes the index m on the left is undone by its inverse on the right",
}
_MOVES, _WHY = 46, 50  # columns
_LINES = 12  # of one family


def page(
    symmetries: SymmetrySet,
    rejected: Sequence[Symmetry],
    opaque: Sequence[Opaque],
    inactive: Sequence[str],
    dimension: Mapping[str, int],
    notes: Sequence[str],
    never_read: Sequence[str] = (),
) -> Iterator[str]:
    """The lines of the page; what is what: see `Findings`."""
    words = {"matrix": "mixing"}
    said = {domain: n for domain, n in dimension.items() if n or domain not in words}
    independent = [f"{n:,} of {words.get(domain, domain)}" for domain, n in said.items()]
    listed = " and ".join(filter(None, [", ".join(independent[:-1]), *independent[-1:]])) or "none"
    yield f"{_counted(len(symmetries), 'family', 'families')} of symmetries; independent directions: {listed}"
    yield from (f"  {note}" for note in notes)
    for kind in KINDS:
        yield from _section(kind, _MEANING[kind], symmetries.of(kind=kind))
    if any(s.broken_by for s in symmetries):
        yield "\n~ true but for the eps of a norm, which breaks it by this much"
    yield from _section("withdrawn", "claimed, but the numbers contradict it", rejected)
    if opaque:
        yield "\nopaque: nothing is claimed through these operators"
        for (op, why, domains), some in _by_operator(opaque).items():
            where = _shortened(sorted({o.module or "the model itself" for o in some}))
            where += "" if "scaling" in domains else " (matrix symmetries only)"
            shut_in = sorted({name for o in some for name in o.blocks})
            inside = f"; it shuts in {_shortened(shut_in)}" if shut_in else ""
            yield from _wrapped(f"{op} in {where}: {why}{inside}")
    unread = [name for name in inactive if name in set(never_read)]
    cut_off = [name for name in inactive if name not in set(never_read)]
    if unread:
        yield from ("", *_wrapped(f"never read by the forward: {_shortened(unread)}", ""))
    if cut_off:
        verb = "do" if len(cut_off) > 1 else "does"
        yield from ("", *_wrapped(f"inactive: {_shortened(cut_off)} {verb} not reach the result", ""))


def _section(title: str, meaning: str, families: Sequence[Symmetry]) -> Iterator[str]:
    """One row for all families of one form and size, in whatever modules."""
    if not families:
        return
    rows = merged([((s.size, bool(s.broken_by)), _texts(s)) for s in families])
    sizes = [_members([families[i] for i in which]) for which, _ in rows]
    width = max(len("members"), *map(len, sizes))
    yield f"\n{title}: {meaning}"
    yield f"  {'members':>{width}}  {'what member i moves':<{_MOVES}}  {'defect':>7}  why"
    for (which, (name, reason)), size in zip(rows, sizes, strict=True):
        defect = _defect([families[i] for i in which])
        moves, why = _lines(name, _MOVES), _lines(reason, _WHY + 7 - width)
        for i in range(max(len(moves), len(why))):
            left, right = (words[i] if i < len(words) else "" for words in (moves, why))
            first, number = (size, defect) if i == 0 else ("", "")
            yield f"  {first:>{width}}  {left:<{_MOVES}}  {number:>7}  {right}".rstrip()


def _texts(s: Symmetry) -> tuple[str, str]:
    """What a family moves, and why it may."""
    return s.written(lambda terms: ", ".join(compressed(terms))), prose(s.reason.partition(": ")[2])


def _members(families: Sequence[Symmetry]) -> str:
    times = f"{len(families):,} x " if len(families) > 1 else ""
    return f"{times}{families[0].size:,}"


def _defect(families: Sequence[Symmetry]) -> str:
    """The largest; "-" where none was measured."""
    measured = [s.defect for s in families if not math.isnan(s.defect)]
    return f"{'~' if families[0].broken_by else ''}{max(measured):.0e}" if measured else "-"


def _lines(text: str, width: int) -> list[str]:
    """The text in lines; a path that is too long for one is broken behind a dot."""
    lines = [""]
    for word in text.split():
        line = f"{lines[-1]} {word}".lstrip()
        if len(line) > width and lines[-1]:
            lines.append("")
            line = word
        while len(line) > width:
            at = line.rfind(".", 3, width) + 1 or width
            lines[-1:] = [line[:at], ""]
            line = f"  {line[at:]}"
        lines[-1] = line
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "... and more: see table()"]


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, 118, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


def _by_operator(opaque: Iterable[Opaque]) -> dict[tuple[str, str, tuple[str, ...]], list[Opaque]]:
    out: dict[tuple[str, str, tuple[str, ...]], list[Opaque]] = {}
    for o in opaque:
        out.setdefault((o.op, o.why, o.domains), []).append(o)
    return out


def _shortened(names: Sequence[str], most: int = 6) -> str:
    names = compressed(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _counted(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"
