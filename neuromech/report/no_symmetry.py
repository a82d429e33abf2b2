"""Where a model has no symmetry: what of this model stands in the way, and what would have one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neuromech.report.facts import RunFacts
from neuromech.report.words import listing, many, short

# Modules of torch that bend what comes through them at any scale: f(c x) is no multiple of f(x).
BENDING = frozenset(
    "CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LogSigmoid Mish ReLU6 SELU Sigmoid SiLU Softplus "
    "Softshrink Softsign Tanh Tanhshrink Threshold".split()
)
FEW = 3  # groups of units that are named
REST = "The rest of the run is shown all the same: its loss, its settings and what happened."


def why_nothing(facts: RunFacts) -> str:
    """ "" where there are symmetries, or nothing was looked at."""
    if facts.families or not facts.looked:
        return ""
    if withdrawn := facts.meta.get("rejected"):
        return (
            f"The structure of the model speaks for {many(len(withdrawn), 'family', 'families')}, listed under "
            "Limits, but its gradients did not keep them: look for a penalty on weights in the loss. The rest of the "
            "run is shown all the same."
        )
    here = [_blocked(facts.meta), _units(facts.meta), _bending(facts.meta), _loss(facts.meta)]
    there = (
        "Symmetries would come from ReLU-like activations between layers (rescale), from normalisation behind a layer "
        "(scale), from softmax losses and attention (translation), and from pairs of linear maps (matrix)."
    )
    return " ".join(filter(None, [*here, there, REST]))


def _blocked(meta: Mapping[str, Any]) -> str:
    return "The operations listed under Limits block what they touch." if meta.get("opaque") else ""


def _units(meta: Mapping[str, Any]) -> str:
    """Hidden units that may be exchanged have no charge; a factor on them would."""
    names = [short(str(p["name"])) for p in meta.get("permutations") or () if isinstance(p, Mapping) and p.get("name")]
    if not names:
        return ""
    which = listing(names[:FEW] + ([f"{len(names) - FEW} more groups"] if len(names) > FEW else []))
    return (
        f"Its hidden units ({which}) may change places, a symmetry that has no charge: one order of them cannot be "
        "turned into another by small steps. No factor on them was found to be undone behind them."
    )


def _bending(meta: Mapping[str, Any]) -> str:
    own = [name for name in map(str, meta.get("functions") or ()) if name in BENDING]
    if not own:
        return ""
    lets = "lets" if len(own) == 1 else "let"
    return f"{listing(own)}, which the model holds, {lets} no factor pass."


def _loss(meta: Mapping[str, Any]) -> str:
    whole = "sees the whole output" in str(meta.get("loss") or "")
    return "The loss sees the whole output: no shift of it goes unnoticed." if whole else ""
