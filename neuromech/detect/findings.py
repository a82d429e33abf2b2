"""What detection found, as data and as a page that a person can read."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from neuromech.detect.interpret import Opaque
from neuromech.symmetry import KINDS, Symmetry, SymmetrySet

if TYPE_CHECKING:
    import pandas as pd

_MEANING = {
    "translation": "a constant can be added to these (and taken from what follows the minus)",
    "scale": "these can be multiplied by any positive factor",
    "rescale": "a positive factor on what stands left of the slash is undone by its inverse on the right",
    "matrix": "an invertible matrix that mixes the index m on the left is undone by its inverse on the right",
}
_MOVES, _WHY = 46, 50  # columns


@dataclass(frozen=True)
class Findings(Sequence[Symmetry]):
    """What detection found: the families themselves, and what qualifies them.

    `symmetries`: the families that may be claimed. `rejected`: claims that failed verification, with their defect.
    `opaque`: operators that no claim passes. `inactive`: parameters that do not reach the result. `dimension`: number
    of independent one-parameter symmetries by domain. `notes`: how the loss was known, and what limits the answer.
    """

    symmetries: SymmetrySet
    rejected: SymmetrySet = field(default_factory=SymmetrySet)
    opaque: tuple[Opaque, ...] = ()
    inactive: tuple[str, ...] = ()
    dimension: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Symmetry: ...
    @overload
    def __getitem__(self, index: slice) -> SymmetrySet: ...
    def __getitem__(self, index: int | slice) -> Symmetry | SymmetrySet:
        return self.symmetries[index]

    def __len__(self) -> int:
        return len(self.symmetries)

    def table(self) -> pd.DataFrame:
        """One row a family."""
        return self.symmetries.table()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON; `from_dict` is its inverse."""
        return {
            "symmetries": [s.to_dict() for s in self.symmetries],
            "rejected": [s.to_dict() for s in self.rejected],
            "opaque": [vars(o) | {"blocks": list(o.blocks)} for o in self.opaque],
            "inactive": list(self.inactive),
            "dimension": dict(self.dimension),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Findings:
        return cls(
            SymmetrySet(map(Symmetry.from_dict, data["symmetries"])),
            SymmetrySet(map(Symmetry.from_dict, data["rejected"])),
            tuple(Opaque(**{**o, "blocks": tuple(o["blocks"])}) for o in data["opaque"]),
            tuple(data["inactive"]),
            dict(data["dimension"]),
            tuple(data["notes"]),
        )

    def __str__(self) -> str:
        """A page of at most 120 columns: the families by kind, then what was withdrawn, blocked or left out."""
        return "\n".join(_page(self))


def _page(f: Findings) -> Iterator[str]:
    independent = " and ".join(f"{n:,} of {domain}" for domain, n in f.dimension.items())
    yield f"{_counted(len(f), 'family', 'families')} of symmetries; independent directions: {independent or 'none'}"
    yield from (f"  {note}" for note in f.notes)
    for kind in KINDS:
        yield from _section(kind, _MEANING[kind], f.symmetries.of(kind=kind))
    if any(s.broken_by for s in f):
        yield "\n~ true but for the eps of a norm, which breaks it by this much"
    yield from _section("withdrawn", "claimed, but the numbers contradict it", f.rejected)
    if f.opaque:
        yield "\nopaque: nothing is claimed through these operators"
        for (op, why), some in _grouped(f.opaque).items():
            where = _shortened(sorted({o.module or "the model itself" for o in some}))
            shut_in = sorted({name for o in some for name in o.blocks})
            inside = f"; it shuts in {_shortened(shut_in)}" if shut_in else ""
            yield from textwrap.wrap(
                f"{op} in {where}: {why}{inside}", 118, initial_indent="  ", subsequent_indent="    "
            )
    if f.inactive:
        yield f"\ninactive: {_shortened(f.inactive)} {'do' if len(f.inactive) > 1 else 'does'} not reach the result"


def _section(title: str, meaning: str, families: Sequence[Symmetry]) -> Iterator[str]:
    if not families:
        return
    yield f"\n{title}: {meaning}"
    yield f"  {'members':>7}  {'what member i moves':<{_MOVES}}  {'defect':>7}  why"
    for s in families:
        defect = "-" if math.isnan(s.defect) else f"{'~' if s.broken_by else ''}{s.defect:.0e}"
        moves, why = textwrap.wrap(s.name, _MOVES), textwrap.wrap(s.reason.partition(": ")[2], _WHY)
        for i in range(max(len(moves), len(why))):
            left, right = (words[i] if i < len(words) else "" for words in (moves, why))
            size, number = (f"{s.size:,}", defect) if i == 0 else ("", "")
            yield f"  {size:>7}  {left:<{_MOVES}}  {number:>7}  {right}".rstrip()


def _grouped(opaque: Iterable[Opaque]) -> dict[tuple[str, str], list[Opaque]]:
    out: dict[tuple[str, str], list[Opaque]] = {}
    for o in opaque:
        out.setdefault((o.op, o.why), []).append(o)
    return out


def _shortened(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _counted(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"
