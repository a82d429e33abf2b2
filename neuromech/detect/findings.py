"""What detection found, as data and as a page that a person can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any, overload

from neuromech.detect.certificate import Certificate, certify
from neuromech.detect.independent import Independent
from neuromech.detect.interpret import Opaque
from neuromech.detect.page import page
from neuromech.detect.permutations import Permutation
from neuromech.detect.verify import Experiment
from neuromech.symmetry import Symmetry, SymmetrySet

if TYPE_CHECKING:
    import pandas as pd

FOLDED = 40  # lines from which on a notebook shows the first one only


@dataclass(frozen=True)
class Findings(Sequence[Symmetry]):
    """What detection found: the families themselves, and what qualifies them.

    `symmetries`: the families that may be claimed. `rejected`: claims that failed verification, with their defect.
    `opaque`: operators that no claim passes. `inactive`: parameters that do not reach the result; `never_read`: those
    of them that nothing in the forward reads. `dimension`: number of independent one-parameter symmetries by domain.
    `notes`: how the loss was known, and what limits the answer. `permutations`: hidden units that may change places,
    whatever lies between the layers that write and read them.
    """

    symmetries: SymmetrySet
    rejected: SymmetrySet = field(default_factory=SymmetrySet)
    opaque: tuple[Opaque, ...] = ()
    inactive: tuple[str, ...] = ()
    dimension: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    permutations: tuple[Permutation, ...] = ()
    never_read: tuple[str, ...] = ()
    experiments: tuple[Experiment, ...] = field(default=(), repr=False, compare=False)  # what `complete` samples
    independent: Independent | None = field(default=None, repr=False, compare=False)  # counts anew after a withdrawal

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

    def complete(self, samples: int | None = None) -> Certificate:
        """Is anything missing? The scalings and translations found, against the null space of sampled gradients.

        For a small model (up to 4,096 trainable elements): float64 gradients at random parameters, inputs and
        cotangents, 1.5 times as many as there are elements unless `samples` says otherwise. Parameters are grouped in
        blocks that move together, and what is missing is named. Where the spectrum has no gap, it is undecided.

        Raises `DetectionError` if the model is too large or on the meta device, if `samples` are too few, or if the
        findings come from a record or a run and hold no model.
        """
        return certify(self.symmetries, self.experiments, samples)

    def only(self, kept: Sequence[Symmetry]) -> Findings:
        """With these claims alone, counted anew (in a copy that was pickled they cannot be: `dimension` is empty)."""
        dimension = self.independent.among(kept) if self.independent else {}
        return replace(self, symmetries=SymmetrySet(kept), dimension=dimension)

    def withdrawn(self, broken: Sequence[Symmetry]) -> Findings:
        """Without these claims, which stand among the `rejected`; see `only`."""
        gone = {(s.kind, s.name) for s in broken}
        kept = self.only([s for s in self.symmetries if (s.kind, s.name) not in gone])
        return replace(kept, rejected=SymmetrySet([*self.rejected, *broken]))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"experiments": (), "independent": None}  # a copy or a file holds no model

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON; `from_dict` is its inverse."""
        return {
            "symmetries": [s.to_dict() for s in self.symmetries],
            "rejected": [s.to_dict() for s in self.rejected],
            "opaque": [vars(o) | {"blocks": list(o.blocks), "domains": list(o.domains)} for o in self.opaque],
            "inactive": list(self.inactive),
            "dimension": dict(self.dimension),
            "notes": list(self.notes),
            "never_read": list(self.never_read),
            "permutations": [p.to_dict() for p in self.permutations],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Findings:
        return cls(
            SymmetrySet(map(Symmetry.from_dict, data["symmetries"])),
            SymmetrySet(map(Symmetry.from_dict, data["rejected"])),
            tuple(Opaque(**{**o, **{k: tuple(o[k]) for k in ("blocks", "domains") if k in o}}) for o in data["opaque"]),
            tuple(data["inactive"]),
            dict(data["dimension"]),
            tuple(data["notes"]),
            tuple(map(Permutation.from_dict, data.get("permutations", ()))),
            never_read=tuple(data.get("never_read", ())),
        )

    def _page(self) -> Iterator[str]:
        some = self.symmetries, self.rejected, self.opaque, self.inactive, self.dimension, self.notes
        return page(*some, self.never_read)

    def _repr_html_(self) -> str:
        first, *rest = str(self).splitlines()
        more = escape("\n".join(rest))
        shut = "" if len(rest) > FOLDED else " open"
        return f"<details{shut}><summary>{escape(first)}</summary><pre>{more}</pre></details>"

    def __repr__(self) -> str:
        return f"<Findings: {next(self._page())}>"

    def __str__(self) -> str:
        """A page of at most 120 columns: families by kind and module, then what is withdrawn, blocked or left out."""
        return "\n".join(self._page())
