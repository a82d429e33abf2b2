"""From the rows of a run to its families: what was found, how it fared, and how far off each law was."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neuromech.record import taken
from neuromech.report.evidence import Evidence, evidence_of
from neuromech.report.verdict import LAWS, ROTATION, UNFOLLOWED, LawVerdict, distances, judge
from neuromech.rounding import eps_of, rounding_bound

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("observed", *LAWS, "scale", "residual", *(f"{law}_residual" for law in LAWS[1:]))
KEPT = ("observed", *LAWS, "scale", "residual")  # of COLUMNS, once distances are taken
OF_MEMBERS = ("observed", "exact", "scale")


@dataclass(frozen=True)
class FamilyRecord:
    """One family of symmetries, as found and as it fared.

    `whole`: step and KEPT of the sums over its members; `members`: step, member and OF_MEMBERS of single ones;
    `distances`: those of `whole`, see `verdict.distances`; `terms`: what moved the charge since the start, by step and
    member (-1: the family). `evidence`: what the verdict rests on. `parameters`: the tensors that its members move.
    """

    index: int
    kind: str
    size: int
    name: str
    reason: str
    defect: float
    broken_by: tuple[str, ...]
    dtype: str
    whole: pd.DataFrame
    members: pd.DataFrame
    distances: pd.DataFrame
    verdict: LawVerdict
    terms: pd.DataFrame
    evidence: Evidence = "measured"
    parameters: tuple[str, ...] = ()

    def worst(self, law: str) -> float:
        """The largest distance from `law`; nan if it predicted nothing."""
        return float(self.distances[law].max())


def families(
    meta: Mapping[str, Any],
    charges: pd.DataFrame,
    terms: pd.DataFrame | None = None,
    n_steps: int | None = None,
    keep: bool = True,
) -> list[FamilyRecord]:
    """Every family that was found or has rows, in the order of the records; missing columns count as nan.

    `n_steps`: of the run, None: up to the last charge. `keep`: see `by_symmetry`.
    """
    import pandas as pd

    n_steps = n_steps if n_steps is not None else last_step(charges)
    groups = by_symmetry(charges, ("step", "member", *COLUMNS), keep)
    known: Sequence[Mapping[str, Any]] = meta.get("symmetries") or ()
    default = str(meta.get("dtype") or "")
    coarser = gradients_in(meta)
    nothing = pd.DataFrame(columns=["step", "member", *COLUMNS], dtype=float)
    every = int(meta.get("every") or 1)
    out = []
    for index in sorted({*range(len(known)), *groups}):
        data = known[index] if index < len(known) else {}
        group = groups.pop(index, nothing)  # what is not kept of it is let go
        group = group.assign(**dict.fromkeys(nothing.columns.difference(group.columns), math.nan))
        n = int(np.sum(~(group["member"].to_numpy(float) >= 0)))  # the family itself stands before its members
        whole = group.iloc[:n].drop_duplicates("step", keep="last").reset_index(drop=True)
        dtype = ", ".join(x for x in (str(data.get("dtype") or default), coarser) if x)
        kind, broken_by = str(data.get("kind") or "other"), tuple(map(str, data.get("broken_by") or ()))
        parameters = tuple(dict.fromkeys(str(t.get("parameter")) for t in data.get("terms") or ()))
        followed = bool(len(whole))
        leaks = bool(broken_by) or str(data.get("name")) in (meta.get("torques") or {})
        evidence = evidence_of(meta.get("optimizers") or (), parameters, leaks) if followed else "found"
        # Of a translation the exact law reads the torque. Whether that is more than rounding is told by the size of the
        # gradients, which the probe has seen; where it has not looked, by what the torque did to the charge.
        protected = evidence == "predicted" and kind == "translation" and meta.get("torques") is None
        unseen = ROTATION if data.get("skew") else UNFOLLOWED
        verdict = judge(whole, dtype, protected, n_steps, every) if followed or kind != "matrix" else unseen
        out.append(
            FamilyRecord(
                index=index,
                kind=kind,
                size=followed_of(data) if data else max(1, group["member"].iloc[n:].nunique()),
                name=str(data.get("name") or f"symmetry {index}"),
                reason=str(data.get("reason") or ("" if data else "the records do not say what it is")),
                defect=measured(data.get("defect")),
                broken_by=broken_by,
                dtype=dtype,
                whole=whole[["step", *KEPT]],
                members=group[["step", "member", *OF_MEMBERS]].iloc[n:].reset_index(drop=True),
                distances=distances(whole),
                verdict=verdict,
                terms=_no_terms(),
                evidence=evidence,
                parameters=parameters,
            )
        )
    return out if terms is None else with_terms(out, terms, keep)


def with_terms(found: Sequence[FamilyRecord], terms: pd.DataFrame, keep: bool = True) -> list[FamilyRecord]:
    """The families with what moved their charges. `keep`: see `by_symmetry`."""
    moved = by_symmetry(terms, [str(c) for c in terms if c not in ("symmetry", "session")], keep)
    return [replace(f, terms=explained(_once(moved.pop(f.index, None)), f)) for f in found]


def last_step(rows: pd.DataFrame) -> int:
    return int(rows["step"].max()) if len(rows) and "step" in rows else 0


def followed_of(data: Mapping[str, Any]) -> int:
    """How many members of a family the rows are about: a run may measure a share of them (`coverage=`)."""
    start, stop = data.get("measured") or (0, int(data.get("size") or 1))
    return int(stop - start)


def by_symmetry(rows: pd.DataFrame, columns: Collection[str], keep: bool = True) -> dict[int, pd.DataFrame]:
    """These columns of the rows of each symmetry: the sums over its members, then single ones, each by step.

    `keep`: else `rows` is emptied column by column, and of a long run no row is in memory twice.
    """
    if "symmetry" not in rows:
        return {}
    own = rows.copy(deep=False) if keep else rows
    symmetry = own["symmetry"].to_numpy()
    known, lengths = np.unique(symmetry, return_counts=True)
    single = own["member"].to_numpy() >= 0 if "member" in own else np.zeros(len(own), bool)
    order = np.lexsort((own["step"].to_numpy(), single, symmetry))
    del symmetry, single
    for other in own.columns.difference(list(columns)):
        del own[other]
    ordered = taken(own, order)
    ends = np.cumsum(lengths)
    parts = zip(known, ends - lengths, ends, strict=True)
    return {int(k): ordered.iloc[a:b].reset_index(drop=True) for k, a, b in parts}


def _no_terms() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"step": [], "member": []})


def _once(terms: pd.DataFrame | None) -> pd.DataFrame:
    """Each step and member once, the last time that it was written."""
    if terms is None:
        return _no_terms()
    return terms.drop_duplicates(["step", "member"], keep="last").reset_index(drop=True)


def explained(terms: pd.DataFrame, family: FamilyRecord) -> pd.DataFrame:
    """Terms whose rounding is what it can be at most, the rest `unexplained`: older runs call all of it rounding."""
    import pandas as pd

    if "rounding" not in terms or "unexplained" in terms or terms.empty:
        return terms
    columns = ["step", "member", "scale"]
    scale = pd.concat([family.whole.assign(member=-1)[columns], family.members[columns]])
    scale["scale"] = scale.groupby("member")["scale"].cummax()
    largest = terms[["step", "member"]].merge(scale.drop_duplicates(["step", "member"]), how="left")["scale"]
    eps = eps_of(family.dtype)
    allowed = rounding_bound(terms["step"].to_numpy(float), 0.0 if math.isnan(eps) else eps) * largest.to_numpy(float)
    rounding = terms["rounding"].clip(-allowed, allowed).where(~np.isnan(allowed), terms["rounding"])
    return terms.assign(rounding=rounding, unexplained=terms["rounding"] - rounding)


def gradients_in(meta: Mapping[str, Any]) -> str:
    """The dtype of autocast, where gradients that are rounded to it enter a law; else nothing.

    Under SGD a symmetry protects what the law does not measure, up to the rounding of gradients; other laws measure it.
    """
    known = [o.get("law") for o in meta.get("optimizers") or ()]
    return str(meta.get("autocast") or "") if not known or "exact" in known else ""


def verdict_table(found: Sequence[FamilyRecord]) -> pd.DataFrame:
    """One row a family: what it is, the verdict on its exact law, and how far each law was off at worst."""
    import pandas as pd

    return pd.DataFrame(
        [
            {"symmetry": f.index, "kind": f.kind, "size": f.size, "name": f.name, "defect": f.defect}
            | {"evidence": f.evidence}
            | {"status": f.verdict.status, "worst": f.verdict.worst, "allowed": f.verdict.allowed}
            | {law: f.worst(law) for law in LAWS}
            | {"verdict": f.verdict.text}
            for f in found
        ],
        columns=[
            *("symmetry", "kind", "size", "name", "defect", "evidence", "status", "worst", "allowed"),
            *LAWS,
            "verdict",
        ],
    )


def measured(value: Any) -> float:
    """A number of the meta, where nan is kept as null and an infinity as text."""
    return math.nan if value is None else float(value)
