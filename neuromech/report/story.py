"""What a run amounts to, in sentences: pure functions of its meta, its families and its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from neuromech.report.family import FamilyRecord
from neuromech.report.words import exactly, listing, many, number, share

if TYPE_CHECKING:
    import pandas as pd

TELLS_LITTLE = 0.1  # a bound on rounding that leaves not even the first digit


def number_of_steps(steps: pd.DataFrame) -> int:
    """Optimizer steps taken; step 0 is the initial state."""
    return int(steps["step"].max()) if len(steps) and "step" in steps else 0


def headline(
    meta: Mapping[str, Any], n_steps: int, found: Sequence[FamilyRecord], events: pd.DataFrame
) -> tuple[str, str]:
    """The one thing to know about the run: a status (ok, mixed, bad, none) and a sentence."""
    if "symmetries" not in meta and not found:
        why = _message(events, "nothing measured", "no forward")
        return "none", f"Nothing was measured in this run: {why or 'the model was not seen to compute anything'}."
    if not found:
        return "none", "No symmetry was found in this model, so there is no conservation law to follow."
    here = many(len(found), "family of symmetries was", "families of symmetries were")
    if n_steps == 0:
        return "none", f"{here} found; no optimizer step was recorded, so there is nothing to compare yet."
    run = f"In this run of {many(n_steps, 'step')}"
    alive = [f for f in found if f.verdict.status != "diverged"]
    laws = [f for f in alive if not math.isnan(f.verdict.worst)]
    if not alive:
        held = sum(f.verdict.before == "rounding" for f in found)
        until = f"; until then {held} of {many(len(found), 'law')} held to rounding" if held else ""
        return "bad", f"{run} the parameters stopped being numbers at step {_first(found)}{until}."
    if not laws and len(alive) == len(found):
        return "none", f"{run} {many(len(found), 'charge')} {_be(len(found))} observed; none was predicted."
    by_status = {s: [f for f in laws if f.verdict.status == s] for s in ("rounding", "close", "broken")}
    worst = {s: number(max(f.verdict.worst for f in fs)) for s, fs in by_status.items() if fs}
    holding, close, broken = by_status.values()
    said = [f"{len(holding)} of {many(len(laws), 'law')} {_hold(len(holding))} to rounding"]
    if close:
        said.append(f"{len(close)} {_hold(len(close))} within {worst['close']}")
    if broken:
        furthest = share(max(f.verdict.worst for f in broken))
        are = _be(len(broken), now=True)
        said.append(f"{len(broken)} {are} broken, from step {_first(broken)} on, by up to {furthest}")
    if gone := [f for f in found if f not in alive]:
        what = "charge is not a number" if len(gone) == 1 else "charges are not numbers"
        said.append(f"{len(gone)} {what} any more from step {_first(gone)} on")
    tone = "bad" if broken or gone else "mixed" if close else "ok"
    worst_of_all = f": worst relative residual {worst['rounding']}" if tone == "ok" else ""
    text = f"{run} {listing(said)}{worst_of_all}."
    if unknown := _with_law(meta, "measured"):
        text += f" The steps of {listing(unknown)} were measured, not predicted."
    if n := len(alive) - len(laws):
        text += f" {many(n, 'charge')} {_be(n)} observed without a prediction."
    return tone, text


def run_facts(
    meta: Mapping[str, Any], steps: pd.DataFrame, sessions: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """What was run, as (label, value); what is not known is left out."""
    facts = [("model", str(meta.get("model") or ""))]
    if meta.get("parameters"):
        facts.append(("parameters", f"{int(meta['parameters']):,}"))
    facts += [("number format", str(meta.get("dtype") or "")), ("device", str(meta.get("device") or ""))]
    facts += [("loss", str(meta.get("loss") or ""))]
    facts += [("optimizer", _optimizer(o)) for o in meta.get("optimizers") or ()]
    facts.append(("steps", f"{number_of_steps(steps):,}"))
    if len(steps) and "time" in steps:
        facts.append(("time", f"{number(float(steps['time'].max()))} (sum of the learning rates)"))
    if len(steps) and "lr" in steps and steps.loc[steps["step"] > 0, "lr"].nunique() > 1:
        used = steps.loc[steps["step"] > 0, "lr"]
        facts.append(("learning rate", f"from {exactly(used.iloc[0])} to {used.iloc[-1]:.3g}"))
    dimension = {k: int(n) for k, n in (meta.get("dimension") or {}).items()}
    if dimension:
        found = [f"{n:,} by {'mixing' if k == 'matrix' else k}" for k, n in dimension.items() if n or k != "matrix"]
        facts.append(("symmetries", listing(found) + ", independent"))
    if len(sessions) > 1:
        facts.append(("sessions", f"{len(sessions)}, resumed {many(len(sessions) - 1, 'time')}"))
    if sessions:
        facts.append(("started", " ".join(str(sessions[0].get("started", "")).split("+")[0].split("T")) + " UTC"))
    versions = [f"{k} {meta[k]}" for k in ("neuromech", "torch", "python") if meta.get(k)]
    facts.append(("versions", ", ".join(versions)))
    return [(label, value) for label, value in facts if value]


def caveats(meta: Mapping[str, Any], found: Sequence[FamilyRecord]) -> list[str]:
    """What has no prediction, or a weaker one than it looks, and why: in sentences."""
    out = []
    if known := _with_law(meta, "rebuilt"):
        out.append(
            f"Under {listing(known)} symmetries do not protect the update: the exact law includes the torque of the "
            "update that the optimizer's state stands for, measured at every step. It says whether each step did what "
            "the optimizer says, and does not forecast."
        )
    if unknown := _with_law(meta, "measured"):
        out.append(
            f"Nothing is known of the steps of {listing(unknown)}: where it moves weights, the exact law follows the "
            "displacement that was measured, and balances whatever the step did."
        )
    silent = [f.name for f in found if f.verdict.status == "observed"]
    if silent:
        out.append(f"No prediction was recorded for {listing(silent)}.")
    if n := sum(f.verdict.status == "close" for f in found):
        out.append(
            f"{many(n, 'law')} {_hold(n)} less closely than the rounding of the weights explains. Either gradients "
            "that should cancel do so only up to their own rounding, or something small acts on the weights beside "
            "the optimizer."
        )
    coarse = [f for f in found if f.verdict.allowed >= TELLS_LITTLE]
    if coarse:
        furthest = max(f.verdict.allowed for f in coarse)
        out.append(
            f"In {listing(sorted({f.dtype for f in coarse}))} rounding alone can move a charge by up to "
            f"{share(furthest)} of its size in this many steps: that a law holds to rounding says little there."
        )
    if any(f.broken_by for f in found):
        out.append(
            "Where something makes a symmetry only approximate, the exact law includes the leak, measured at every "
            "step: there it balances the books rather than forecasts. The forecast is the ideal law, without the leak."
        )
    return out


def completeness(meta: Mapping[str, Any], n_steps: int, found: Sequence[FamilyRecord]) -> str:
    """What can be said where there is no caveat and nothing to list."""
    if "symmetries" not in meta:
        return "Everything: nothing was measured."
    understood = "every operation of the model was understood, and no claim failed"
    if not found:
        return f"Nothing: {understood}. The model has no symmetry of a kind that is looked for."
    if n_steps == 0:
        return f"About the symmetries, nothing: {understood}. How the charges move is not known before the first step."
    return f"Nothing: {understood}. Every charge that was found was predicted at every step that was recorded."


def _optimizer(o: Mapping[str, Any]) -> str:
    groups = o.get("groups") or ()
    said = []
    for g in groups:
        settings = [
            f"{k.replace('_', ' ')} {exactly(g[k])}"
            for k in ("lr", "momentum", "dampening", "weight_decay")
            if g.get(k)
        ]
        settings += [k for k in ("nesterov", "maximize") if g.get(k)]
        said.append(
            ", ".join(settings)
            + (f" ({many(g['parameters'], 'tensor')})" if len(groups) > 1 and "parameters" in g else "")
        )
    return f"{o.get('class', '')}: {'; '.join(said)}" if any(said) else str(o.get("class", ""))


def _with_law(meta: Mapping[str, Any], law: str) -> list[str]:
    """The classes of the optimizers of which that much is known."""
    return sorted({str(o.get("class")) for o in meta.get("optimizers") or () if o.get("law") == law})


def _message(events: pd.DataFrame, *kinds: str) -> str:
    if "kind" not in events:
        return ""
    said = events.loc[events["kind"].isin(kinds), "message"]
    return str(said.iloc[-1]).rstrip(".") if len(said) else ""


def _first(found: Sequence[FamilyRecord]) -> int:
    """The first step from which one of these is broken or not a number."""
    return min(f.verdict.since for f in found if f.verdict.since is not None)


def _hold(n: int) -> str:
    return "holds" if n == 1 else "hold"


def _be(n: int, now: bool = False) -> str:
    return ("is" if n == 1 else "are") if now else ("was" if n == 1 else "were")
