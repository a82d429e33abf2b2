"""What is said of a run under `EoMOptimizer`: how close its charges stay to the gradient flow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from neuromech.report.facts import RunFacts
from neuromech.report.family import FamilyRecord
from neuromech.report.held import at_which
from neuromech.report.outcome import followed
from neuromech.report.statements import Statement
from neuromech.report.words import number, share


def on_the_flow(facts: RunFacts, judged: Sequence[FamilyRecord]) -> Iterator[Statement]:
    """Steps that follow the gradient flow: how closely, and how far plain steps would be off."""
    w = facts.wrapper
    off = [x for f in judged if not math.isnan(x := _off_the_flow(f))]
    times = float(w.get("plain", math.nan))  # with momentum plain steps are off by more than their finite size
    plain = [] if math.isnan(times) else [times * x for f in judged if not math.isnan(x := _discretization(f))]
    if plain and _decay_of_finite_steps(facts) > 0.1 * max(plain):
        plain = []  # weight decay in finite steps is off as well, and may make up for it
    name = f"{w.get('class', 'EoMOptimizer')} (order {w.get('order', '?')}, {w.get('backend', '?')})"
    if not off:
        none = "no charge was followed" if judged or not followed(facts) else "no charge was a number to the end"
        yield Statement("laws", "none", f"{name}: {none}.")
        return
    text = f"{name}: charges stay within {share(max(off))} of the gradient flow"
    if plain and max(off) > 0:
        text += f"; plain steps would be off by about {share(max(plain))}, {number(max(plain) / max(off))} times as far"
    text += at_which([f.verdict.where for f in judged])
    yield Statement("laws", "none" if not plain or max(off) < max(plain) else "mixed", f"{text}.")


def _discretization(f: FamilyRecord) -> float:
    """What finite steps alone would have moved the charge by, relative to its size."""
    whole = f.terms[f.terms["member"] < 0] if "discretization" in f.terms else f.terms[:0]
    scale = float(f.whole["scale"].max()) if len(f.whole) else 0.0
    return abs(float(whole["discretization"].iloc[-1])) / scale if len(whole) and scale > 0 else math.nan


def _off_the_flow(f: FamilyRecord) -> float:
    """The furthest that the charge of the whole family was from the flow, relative to its size."""
    return float(((f.whole["flow"] - f.whole["observed"]).abs() / f.whole["scale"].max()).max())


def _decay_of_finite_steps(facts: RunFacts) -> float:
    """By how much weight decay in finite steps shrinks a charge beyond the flow: at most 2 (lr decay)^2 each."""
    groups = [g for o in facts.meta.get("optimizers") or () for g in o.get("groups") or ()]
    speed = max((float(g.get("weight_decay") or 0) / (1 - float(g.get("momentum") or 0)) for g in groups), default=0.0)
    return 2 * speed**2 * float((facts.steps["lr"] ** 2).sum()) if speed and "lr" in facts.steps else 0.0
