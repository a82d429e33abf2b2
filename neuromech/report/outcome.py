"""How a run went, whatever its laws did: how far it came, what exploded or stopped being a number, how it ended."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from neuromech.record import GRADIENT, LOSS, WEIGHTS
from neuromech.report.facts import RunFacts
from neuromech.report.family import FamilyRecord
from neuromech.report.statements import Statement, Tone
from neuromech.report.words import be, level, listing, many, number

EXPLODED = 1e3  # times what it was at the start
WORSE = 1.5  # likewise, of a loss
TOLD = 20  # recorded values from which on a loss has a beginning and an end
SHOWN = {LOSS: "the loss", WEIGHTS: "the norm of all weights", GRADIENT: "the norm of the gradient"}
SLOWER = "lower the learning rate, or warm it up"


def trained(facts: RunFacts) -> Iterator[Statement]:
    """How far the run came, in the user's words."""
    if facts.n_steps == 0:
        return
    text, several = many(facts.n_steps, "step"), 1
    counted = {"step", "iteration"} <= {*facts.steps} and len(facts.steps) > 0
    taken, turns = (int(facts.steps[c].max()) for c in ("step", "iteration")) if counted else (0, 0)
    if 0 < turns < taken:  # of a run that goes on, the last steps may not be counted yet
        text, several = f"{text} of several optimizers in {many(turns, 'iteration')}", math.ceil(taken / turns)
    loss = facts.loss
    if loss is not None and len(loss):
        rows = list(zip(loss["step"], loss["value"], strict=True))
        began, last = rows[0], rows[-1]
        every = int(facts.meta.get("every") or 1)
        text += f", loss {_at(*began, began[0] <= every)}"
        text += f" → {_at(*last, last[0] > facts.n_steps - several)}" if len(rows) > 1 else ""
    yield Statement("trained", "none", f"{text}.")


def _at(step: int, value: float, plain: bool) -> str:
    """`plain`: the step is what a reader takes it to be."""
    said = level(float(value))
    return said if plain else f"{said} (step {int(step):,})"


def diverged(facts: RunFacts) -> Iterator[Statement]:
    """What explodes, or is not a number any more: a loss, a norm, a charge."""
    yield from _not_finite(facts)
    grown = {f.name: growth for f in followed(facts) if (growth := _growth(f)) > EXPLODED**2}
    most = max(grown, key=lambda k: grown[k], default="")
    climbs = any(g.get("maximize") is True for o in facts.meta.get("optimizers") or () for g in o.get("groups") or ())
    for name, rows in facts.metrics.items():
        if name in SHOWN:
            known = rows[np.isfinite(rows["value"].to_numpy(float))]
            step, value = known["step"].to_numpy(int), known["value"].to_numpy(float)
            said = [*_exploded(name, step, value, most if name == WEIGHTS else "")]
            yield from said or (_rose(value, climbs) if name == LOSS else ())
            most = "" if said and name == WEIGHTS else most
    yield from _charges_lost(facts)
    if most:
        text = f"Weights exploded: the size of {most} grew by a factor of {number(grown[most])}."
        yield Statement("exploded", "bad", text, None, SLOWER)


def _not_finite(facts: RunFacts) -> Iterator[Statement]:
    """Losses, norms and what was logged: those that are lost at the same steps are told together."""
    lost: dict[tuple[int, str, str], list[str]] = {}
    for name, rows in facts.metrics.items():
        missing = ~np.isfinite(rows["value"].to_numpy(float))
        if missing.any():
            lost.setdefault(_when(rows["step"].to_numpy(int), missing), []).append(name)
    for (at, when, here), names in lost.items():
        tone: Tone = "bad" if {LOSS, WEIGHTS} & {*names} else "mixed"
        gone = f"{_subject(*names)} {be(len(names))} not finite"
        yield Statement("not finite", tone, f"{gone} {when}.", at, beside=f"{gone} {here}.")


def _subject(*names: str) -> str:
    """Of a sentence; what a user has logged keeps its own letters."""
    some = listing([SHOWN.get(n, f"{n} (logged)") for n in names])
    return some[:1].upper() + some[1:] if names[0] in SHOWN else some


def _when(step: np.ndarray, gone: np.ndarray) -> tuple[int, str, str]:
    """The first step at which something is `gone`; from when on, said on its own and beside this step."""
    at, more = int(step[int(np.argmax(gone))]), int(gone.sum()) - 1
    if gone[step >= at].all():
        return at, f"from step {at:,} on", "from here on"
    here = f"here and at {many(more, 'other step')}" if more else "here"
    return at, f"at step {at:,}" + (f" and {many(more, 'other')}" if more else ""), here


def _exploded(name: str, step: np.ndarray, value: np.ndarray, most: str = "") -> Iterator[Statement]:
    """`value`: by step, all finite; `most`: the weights that grew most."""
    if not len(value):
        return
    said = level if name == LOSS else number
    size = np.abs(value)
    usual = size[0] if name != GRADIENT else float(np.median(size))
    limit = EXPLODED * max(usual, size[0])
    if not usual > 0 or not size.max() > limit:
        return
    k, begun = int(np.argmax(size)), int(step[int(np.argmax(size > limit))])
    back = "" if size[-1] > 0.01 * size.max() else f", and came back to {said(float(value[-1]))}"
    tone: Tone = "mixed" if back or name == GRADIENT else "bad"
    range_ = f"from {said(float(value[0]))} to {said(float(value[k]))}"
    later = "" if step[k] == begun else f" at step {step[k]:,}"
    onset = f" from step {begun:,} on" if later else ""
    where = f"; most of all {most}" if most else ""
    short = f"{_subject(name)} exploded{onset}: {range_} at step {step[k]:,}{back}"
    beside = f"{_subject(name)} exploded: {range_}{later}{back}{where}."
    yield Statement("exploded", tone, f"{short}{where}.", begun, SLOWER, f"{short}.", beside)


def _rose(loss: np.ndarray, maximized: bool = False) -> Iterator[Statement]:
    """Medians of the first and of the last tenth are compared. `loss`: by step, all finite. `maximized`: an optimizer
    climbs, and what counts is whether the objective fell."""
    if len(loss) < TOLD:
        return
    tenth = len(loss) // 10
    began, ends = float(np.median(loss[:tenth])), float(np.median(loss[-tenth:]))
    worse = began - ends if maximized else ends - began
    near = np.ptp(loss[:tenth]) if min(began, ends) <= 0 else 0.0  # where zero is no floor, noise sets the scale
    if worse > (WORSE - 1) * abs(began) and worse > 2 * near:
        what = "The objective fell, though an optimizer maximizes it" if maximized else "The loss rose"
        text = f"{what}: from {level(began)} to {level(ends)}, medians of the first and of the last tenth."
        yield Statement("rose", "mixed", text, None, f"{SLOWER}; or see whether the data or the loss changed")


def _charges_lost(facts: RunFacts) -> Iterator[Statement]:
    gone = [f for f in facts.families if f.verdict.status == "diverged"]
    if gone:
        since = min(f.verdict.since or 0 for f in gone)
        which = (
            "All charges are" if len(gone) == len(followed(facts)) else f"{many(len(gone), 'charge')} {be(len(gone))}"
        )
        held = sum(f.verdict.before == "rounding" for f in gone)
        until = f"; until then {held} of {many(len(gone), 'law')} held to rounding" if held else ""
        lasting = all(
            not np.isfinite(f.whole["observed"][f.whole["step"] >= (f.verdict.since or 0)]).any() for f in gone
        )
        when, here = f"from step {since:,} on", "from here on"
        if not lasting:
            when, here = f"at step {since:,}, though not for good", "here, though not for good"
        said = f"{which} NaN or infinite"
        yield Statement("not finite", "bad", f"{said} {when}{until}.", since, beside=f"{said} {here}{until}.")


def ended(facts: RunFacts) -> Iterator[Statement]:
    end = facts.ending
    last = f" Last written {end.last}." if end.last else ""
    if end.how == "interrupted":
        yield Statement("interrupted", "none", "The run was interrupted by hand.", facts.n_steps or None)
    elif end.how == "raised":
        yield Statement("ended", "bad", f"The run ended with {end.what or 'an exception'}.", facts.n_steps or None)
    elif end.how == "killed":
        yield Statement(
            "ended", "bad", f"The process is gone and no end was recorded: it was killed.{last}", facts.n_steps
        )
    elif end.how == "failed":
        yield Statement("ended", "mixed", f"Measuring stopped before training did: {end.what}.", facts.n_steps)
    elif end.how == "running":
        yield Statement("running", "none", f"The run was still going on when this was written.{last}")
    elif end.how == "unknown" and facts.sessions and facts.sessions[-1].get("process"):
        yield Statement("running", "none", f"No end of the run was seen.{last}")


def followed(facts: RunFacts) -> list[FamilyRecord]:
    return [f for f in facts.families if f.evidence != "found"]


def _growth(f: FamilyRecord) -> float:
    scale = f.whole["scale"].to_numpy(float)
    scale = scale[np.isfinite(scale) & (scale > 0)]
    return float(scale.max() / scale[0]) if len(scale) else 1.0
