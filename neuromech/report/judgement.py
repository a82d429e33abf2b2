"""What is said about a run, decided in one place: headline, "what went wrong" and limits are views of it.

Every sentence is a `Statement` with a tone. The tone of the whole follows from the tones of its statements, and no view
has an opinion of its own; so no two sentences of a page can contradict each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from neuromech.record import GRADIENT
from neuromech.report.evidence import MEANING, OF_MANY, Evidence
from neuromech.report.facts import RunFacts
from neuromech.report.family import FamilyRecord, followed_of
from neuromech.report.held import KINDS_OF_GAPS, at_which, held_at
from neuromech.report.on_the_flow import on_the_flow
from neuromech.report.outcome import SLOWER, diverged, ended, followed, trained
from neuromech.report.statements import Judgement, Statement, rank
from neuromech.report.verdict import ROTATION
from neuromech.report.words import be, listing, many, number, share, was
from neuromech.rounding import eps_of
from neuromech.symmetry import KINDS

NAMES = 5  # listed in a sentence
RESTS_ON = {
    "predicted": "predicted ahead of every step",
    "checked": "checked against the optimizer's own state",
}
OUTSIDE = "look for what moves these weights beside the optimizer, and for penalties that are not in its settings"
STEADY = (
    f"{SLOWER}: gradients that cancel do so up to rounding of their own size, which in a run that explodes may be all "
    f"that broke a law. If one breaks in a steady run too, {OUTSIDE}"
)
PARTLY = RESTS_ON | {"predicted": "predicted ahead of each recorded step"}


def decide(facts: RunFacts) -> Judgement:
    """All that is said about a run."""
    lost = [*diverged(facts)]
    laws = _laws(facts, exploded=any(s.key == "exploded" for s in lost))
    said = [*trained(facts), *lost, *ended(facts), *_faults(facts), *_changed(facts), *laws, *_limits(facts)]
    return Judgement(tuple(sorted(said, key=rank)))


def _faults(facts: RunFacts) -> Iterator[Statement]:
    for f in facts.faults:
        title = f"{f.title[:1].upper()}{f.title[1:]} ({f.strength})"
        begun = f"at step {f.step:,}" if f.times == 1 else f"from step {f.step:,} on"
        again = "" if f.times == 1 else f", seen {f.times:,} times"
        again += f" by step {f.last:,}" if f.last > f.step else ""
        yield Statement(
            "fault", "bad", f"{title}, {begun}{again}: {f.evidence}.", f.step, f.advice,
            short=f"{title}, {begun}.", beside=f"{title}{again}: {f.evidence}.",
        )  # fmt: skip


def _changed(facts: RunFacts) -> Iterator[Statement]:
    """Weights that something else than a step has moved, where no monitor was on to judge it."""
    rows = facts.events[facts.events["kind"] == "changed"]
    if len(rows):
        first = int(rows["step"].min())
        again = f" and {many(len(rows) - 1, 'more time')}" if len(rows) > 1 else ""
        what = str(rows["message"].iloc[0]).removeprefix(f"before step {first}, ").split(":")[0]
        yield Statement(
            "changed", "mixed",
            f"Before step {first:,}{again}, {what}: the laws start over there, and say nothing of it.", first,
            "if you did not mean it, call `probe.monitor()`, which names the likely cause",
            short=f"Before step {first:,}{again}, weights changed otherwise than by an optimizer step.",
        )  # fmt: skip


def _laws(facts: RunFacts, exploded: bool = False) -> Iterator[Statement]:
    """How the laws fared, by what their verdicts rest on."""
    n, found = facts.n_steps, facts.families
    if not facts.looked:
        why = _message(facts, "nothing measured", "no forward") or "the model was not seen to compute anything"
        if "NaN" in why:  # then steps were taken, though none could be measured
            do = "look for NaN in the inputs, the weights and the loss of the first steps"
            yield Statement("not finite", "bad", f"Nothing was measured in this run: {why}.", None, do)
        else:
            yield Statement("nothing", "none", f"Nothing was measured in this run: {why}.")
        return
    if not found:
        withdrawn = len(facts.meta.get("rejected") or ())
        why = f": {many(withdrawn, 'claim')} failed when tried and {was(withdrawn)} withdrawn" if withdrawn else ""
        text = f"No symmetry was found in this model{why}, so there is no conservation law to follow."
        yield Statement("nothing", "none", text)
        return
    if n == 0:
        here = many(len(found), "family of symmetries was", "families of symmetries were")
        text = (
            f"{here[:1].upper()}{here[1:]} found; no optimizer step was recorded, so there is nothing to compare yet."
        )
        yield Statement("nothing", "none", text)
        return
    seen = followed(facts)
    judged = [f for f in seen if f.verdict.status in ("rounding", "close", "broken")]
    broken = [f for f in judged if f.verdict.status == "broken"]
    yield from _broken(broken, len(judged), _message(facts, "practice"), exploded)
    if stuck := _motionless(facts):
        yield stuck
        return
    if facts.wrapper:
        yield from on_the_flow(facts, judged)
        return
    if not seen:
        none = "no charge of them could be read" if facts.charges_lost else "none followed in training"
        yield Statement("laws", "none", f"{many(len(found), 'family', 'families')} found, {none}.")
        return
    if not judged:
        if not any(f.verdict.status == "diverged" for f in seen):
            text = f"{many(len(seen), 'charge')} {was(len(seen))} observed; none was predicted."
            if all(f.verdict.status == "empty" for f in seen):
                text = "Charges were recorded at the start only: no law was held against a step."
            yield Statement("laws", "none", text)
        return
    holding = [f for f in judged if f.verdict.status != "broken"]
    for evidence in ("predicted", "checked", "measured", "unknown"):
        own = [f for f in holding if f.evidence == evidence]
        if own:
            lost = [f for f in seen if f.verdict.status == "diverged"]
            of = sum(f.evidence == evidence for f in judged + lost)
            yield _held(own, of, evidence)


def _broken(broken: Sequence[FamilyRecord], judged: int, noticed: str, exploded: bool) -> Iterator[Statement]:
    """`noticed`: a practice that the monitor has seen, which may be why. `exploded`: and so may the size of gradients,
    which cancel only up to their own rounding."""
    if broken:
        since, worst = min(f.verdict.since or 0 for f in broken), max(f.verdict.worst for f in broken)
        more = [f"{len(broken) - NAMES} more"] if len(broken) > NAMES else []
        which = listing([f.name for f in broken[:NAMES]] + more)
        count = f"{len(broken)} of {many(judged, 'law')} {be(len(broken))} broken"
        by = f"by up to {share(worst)}"
        text = f"{count}, from step {since:,} on, {by}"
        do = STEADY if exploded else OUTSIDE
        why = f" What the monitor noticed: {noticed}." if noticed else ""
        beside = f"{count} from here on, {by}: {which}.{why}"
        yield Statement("broken", "bad", f"{text}: {which}.{why}", since, do, f"{text}.{why}", beside)


def _held(own: Sequence[FamilyRecord], of: int, evidence: Evidence) -> Statement:
    close = [f for f in own if f.verdict.status == "close"]
    worst = max(f.verdict.worst for f in own)
    count = f"{len(own)} of {many(of, 'law')}" if len(own) < of else many(of, "law")
    if evidence == "unknown":
        return Statement("laws", "none", f"{count} {was(len(own))} recorded; which optimizer they are of is not.")
    if evidence == "measured":
        what = "an identity, which holds" if len(own) == 1 else "identities, which hold"
        return Statement("laws", "none", f"{count} {was(len(own))} only measured: {what} whatever happens.")
    where = at_which([f.verdict.where for f in own])
    whose = f"{count} {(PARTLY if where else RESTS_ON)[evidence]}"
    little = [f for f in own if f.verdict.little]
    if len(little) == len(own):
        text = f"{whose} {was(len(own))} off by up to {share(worst)}, within what rounding can do"
        return Statement("laws", "none", f"{text}{where}. In this number format that says little.")
    how = "to rounding" if not close else f"to rounding, but for {len(close)} within {number(worst)}"
    but = f" Of {len(little)} of them that says little: {listing(formats(little))} is too coarse." if little else ""
    return Statement("laws", "mixed" if close else "ok", f"{whose} held {how} (worst {number(worst)}){where}.{but}")


def formats(some: Sequence[FamilyRecord]) -> list[str]:
    return sorted({f.dtype for f in some})


def _motionless(facts: RunFacts) -> Statement | None:
    """Steps were taken, and no charge moved by a bit."""
    moved = [f for f in followed(facts) if not f.verdict.still]
    seen = max((int((f.whole["step"] > 0).sum()) for f in followed(facts)), default=0)
    if moved or seen < 2:
        return None
    steps = many(seen, "step" if seen == facts.n_steps else "recorded step")
    if not _any_rate(facts):
        text = f"The learning rate was 0 at every step: in {steps} no charge changed by a bit."
        return Statement("nothing moved", "mixed", text, 1, "raise the learning rate, unless this was a trial")
    text = f"Nothing moved: in {steps} no charge changed by a bit."
    gradient = facts.metrics.get(GRADIENT)
    if gradient is not None and len(gradient) and (gradient["value"] == 0).all():
        text += " Every gradient that was looked at in a step was exactly zero."
        do = "see whether the loss depends on the weights, and whether gradients are zeroed between backward and step"
    else:
        do = "look whether gradients were zeroed between backward and step, or rounded away"
    return Statement("nothing moved", "bad", text, 1, do)


def _unfollowed(found: Sequence[FamilyRecord]) -> Iterator[Statement]:
    """Families without a charge in the records."""
    if n := sum(f.verdict == ROTATION for f in found):
        told, theirs = ("Rotations are", "Their") if n > 1 else ("A rotation is", "Its")
        yield Statement(
            "limit", "none",
            f"{told} among the symmetries ({many(n, 'family', 'families')}). {theirs} charge, an angular momentum, "
            "cannot be read off the weights, and is not followed.",
        )  # fmt: skip
    by_kind = Counter(f.kind for f in found if f.verdict != ROTATION)
    if by_kind:
        what = listing(
            [
                f"{n} {k if k in KINDS else ''} {'family' if n == 1 else 'families'}".replace("  ", " ")
                for k, n in by_kind.items()
            ]
        )
        yield Statement(
            "limit", "none", f"{what} found, not followed in training: nothing is said about how they moved."
        )


def _limits(facts: RunFacts) -> Iterator[Statement]:
    """What has no prediction, or a weaker one than it looks."""
    found = facts.families
    if facts.n_steps and not facts.charges_lost:
        yield from _unfollowed([f for f in found if f.evidence == "found"])
    silent = [f for f in found if f.verdict.status == "observed" and f.evidence != "found"]
    if silent:
        yield Statement(
            "limit", "none", f"{many(len(silent), 'charge')} {was(len(silent))} observed without a prediction."
        )
    for evidence in ("checked", "measured"):
        own = [f for f in followed(facts) if f.evidence == evidence]
        meaning = (MEANING if len(own) == 1 else OF_MANY)[evidence]
        if own and facts.n_steps:
            yield Statement("limit", "none", f"{many(len(own), 'law')} {be(len(own))} {evidence}: {meaning}.")
    if facts.n_steps and (n := sum(f.evidence == "unknown" for f in found)):
        text = f"The records tell of no optimizer: whether {many(n, 'law')} could have failed is not known."
        yield Statement("limit", "none", text)
    coarse = [f for f in found if f.verdict.little]
    if coarse:
        furthest = max((f.verdict for f in coarse), key=lambda v: v.allowed)
        yield Statement(
            "limit", "none",
            f"In {listing(formats(coarse))} rounding alone can move a charge by up to "
            f"{share(furthest.allowed)} of its size in {many(furthest.at or 0, 'step')}: "
            "that a law holds says little there.",
        )  # fmt: skip
    unknown = [math.isnan(eps_of(f.dtype)) for f in found if f.verdict.status == "close"]
    if any(unknown):
        yield Statement("limit", "none", "The number format was not recorded: what rounding can do is not known.")
    if n := unknown.count(False):
        yield Statement(
            "limit", "none",
            f"{many(n, 'law')} {'holds' if n == 1 else 'hold'} less closely than the rounding of the weights explains: "
            "gradients that should cancel do so only up to their own rounding, or something small acts on the weights.",
        )  # fmt: skip
    if facts.ending.how != "running":
        yield from _gaps(facts)
    if facts.n_steps and facts.meta and not facts.monitored:
        yield Statement("limit", "none", "No monitor was on (`probe.monitor()`): causes of faults are not named.")
    if facts.n_steps and facts.unwatched:
        yield Statement(
            "limit", "none", f"The monitor was turned on after step {facts.unwatched:,}: no fault before it is named."
        )
    if (every := int(facts.meta.get("every") or 1)) > 1:
        yield Statement("limit", "none", f"One step in {every} was recorded; predictions advanced at all of them.")
    known = facts.meta.get("symmetries") or ()
    part = [s for s in known if s.get("measured")]
    if part:
        seen, there = sum(map(followed_of, part)), sum(int(s.get("size") or 1) for s in part)
        yield Statement(
            "limit", "none",
            f"Of {many(len(part), 'family', 'families')} a fixed random run of members was measured, {seen:,} of "
            f"{there:,} (coverage={facts.meta.get('coverage', '?')}): nothing is said of the others, and a law that "
            "holds, or is broken, was judged by these alone. Sums over a family are sums over its measured members.",
        )  # fmt: skip
    if large := [s for s in known if s.get("directions")]:
        seen, there = sum(map(followed_of, large)), sum(int(s.get("of") or 0) for s in large)
        yield Statement(
            "limit", "none",
            f"Of {many(len(large), 'matrix family', 'matrix families')} {seen:,} charges along fixed random "
            f"directions were followed, for {there:,} entries: a matrix that is changed anywhere changes them, "
            "but which entries did is not told.",
        )  # fmt: skip
    still = [f for f in followed(facts) if f.verdict.still]
    if still and len(still) < len(followed(facts)):
        text = f"{many(len(still), 'charge')} never moved by a bit: that the law held says little there."
        yield Statement("limit", "none", text)
    if _message(facts, "no state"):
        short = "The run was resumed without the state of its probe, and counts its steps from 0 again."
        yield Statement(
            "limit", "mixed",
            f"{short} What earlier sessions recorded is on disk, and is not shown. To go on where a run stopped, save "
            "`probe.state_dict()` and pass it to `probe.load_state_dict()` before the first step.", short=short,
        )  # fmt: skip
    if facts.interleaved:
        yield Statement(
            "limit", "mixed",
            "Two processes have written this run at the same time: from where the later one began, only what that one "
            "wrote is shown.",
        )  # fmt: skip
    for text in facts.unreadable:
        short = "A part of the records could not be read."
        yield Statement("limit", "mixed", f"{short} {text[:400]}", short=short)


def _gaps(facts: RunFacts) -> Iterator[Statement]:
    """Which charges were not recorded at every step that was due. To be found late is nothing wrong."""
    seen, every = followed(facts), int(facts.meta.get("every") or 1)
    gaps = Counter(held_at(f.whole.loc[f.whole["step"] > 0, "step"].to_numpy(), facts.n_steps, every) for f in seen)
    del gaps[""]
    for where, n in gaps.most_common(KINDS_OF_GAPS):
        which = "Charges were" if n == len(seen) else f"{n:,} of {many(len(seen), 'charge')} {was(n)}"
        text = f"{which} recorded {where} only: nothing is said of the other steps."
        yield Statement("limit", "none" if where.endswith(" on") else "mixed", text)
    if rest := sum(n for _, n in gaps.most_common()[KINDS_OF_GAPS:]):
        yield Statement("limit", "mixed", f"{rest:,} more {was(rest)} not recorded at every step.")


def _any_rate(facts: RunFacts) -> bool:
    rates = facts.steps.loc[facts.steps["step"] > 0, "lr"] if {"step", "lr"} <= {*facts.steps} else ()
    groups = [g for o in facts.meta.get("optimizers") or () for g in o.get("groups") or ()]  # the table has the first
    return not len(rates) or any(rate != 0 for rate in rates) or any(g.get("lr") for g in groups[1:])


def _message(facts: RunFacts, *kinds: str) -> str:
    said = facts.events.loc[facts.events["kind"].isin(kinds), "message"]
    return str(said.iloc[-1]).rstrip(".") if len(said) else ""
