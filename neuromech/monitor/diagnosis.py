"""From what was found to what it means: the causes that fit the evidence, the likeliest first.

Every rule looks at the evidence for the signature of one cause, and says how strong it is:

    CERTAIN   bits that were compared, or exact counts, show what the title says
    LIKELY    the trace is this cause's, and another one could leave it too; or it was told by a bound on rounding
    POSSIBLE  it could be; something else explains the evidence better

Rules know nothing of each other; of two that are equally strong the first in the list goes first, as a cause stands
before its consequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from neuromech.monitor.edits import bit_flips, edited_state, edited_weights, names_of
from neuromech.monitor.evidence import Broken, Evidence, Names
from neuromech.monitor.suspect import CERTAIN, LIKELY, POSSIBLE, Suspect, told
from neuromech.record import some


def diagnose(found: Evidence) -> tuple[Suspect, ...]:
    """The causes that fit, the likeliest first; () if nothing was found."""
    if found.empty:
        return ()
    suspects = [s for rule in _RULES for s in rule(found)]
    best: dict[str, Suspect] = {}
    for s in suspects:
        if s.key not in best or s.strength > best[s.key].strength:
            best[s.key] = s
    if not best:
        best["unknown"] = Suspect("unknown", POSSIBLE, _where(found), "something changed that should not have")
    return tuple(sorted(best.values(), key=lambda s: -s.strength))


def _where(e: Evidence) -> Names:
    edited = e.gradient_edit.names if e.gradient_edit else ()
    return tuple(dict.fromkeys([*names_of(e.edits), *names_of(e.steps), *_parameters((*e.torques, *e.laws)), *edited]))


def _parameters(broken: Sequence[Broken]) -> Names:
    return tuple(dict.fromkeys(n for b in broken for n in b.parameters))


_STANDING = told(
    ("replaced", "replaced", CERTAIN, "{} of the model is another tensor than the one that is stepped"),
    ("frozen", "frozen", CERTAIN, "{} no longer require a gradient"),
    ("silent", "detached", LIKELY, "{} require a gradient and receive none, for longer than chance explains"),
    ("dead", "dead gradient", LIKELY,
     "every backward reaches {}, and every element of what it brings is zero, for longer than chance explains"),
)  # fmt: skip


# -- between a backward and the weights --------------------------------------------------------------------------------

_DELIVERY = told(
    ("dropped", "dropped gradient", LIKELY,
     "between two backwards of one step the gradients of {} were cleared: the first is lost"),
    ("doubled", "doubled gradient", CERTAIN,
     "a second backward without a forward added to {} what was there, bit for bit"),
)  # fmt: skip


def _zeroed(e: Evidence) -> Iterator[Suspect]:
    if e.zeroed:
        whose = f"all gradients ({some(e.zeroed)})" if e.zeroed_all else f"the gradients of {some(e.zeroed)}"
        text = f"{whose} were there after the backward, and are zero or gone at the step"
        yield Suspect("zeroed gradient", CERTAIN if e.zeroed_all else LIKELY, e.zeroed, text)


def _movement(e: Evidence) -> Iterator[Suspect]:
    if e.still:
        text = f"{some(e.still)} were stepped with gradients and a learning rate, and are the same bit for bit"
        yield Suspect("nothing moved", CERTAIN if not e.lost_updates else POSSIBLE, e.still, text)
    if e.lost_updates:
        text = f"of the elements that were to move, {e.lost_updates:.0%} did not: updates below the last place"
        yield Suspect("lost updates", CERTAIN, (), text)


def _averages(e: Evidence) -> Iterator[Suspect]:
    for of, declared, taken in e.averaged:
        text = f"{of} took the weights in with {taken:.3g} and not, as declared, with {declared:.3g}"
        yield Suspect("average", CERTAIN, (), text)


# -- memory: edits.py tells of weights and state ---------------------------------------------------------------------


def _clock(e: Evidence) -> Iterator[Suspect]:
    if e.clock:
        _, expected, found = e.clock[0]
        names = tuple(n for n, _, _ in e.clock)
        text = f"the state of {some(names)} counts {found:g} steps, after {expected:g} of them"
        yield Suspect("step count lost", CERTAIN, names, text)
    if e.restarted:
        text = (
            f"the learning rate was {e.restarted.expected:.6g} and is that of the first step, {e.restarted.found:.6g}"
        )
        yield Suspect("schedule lost", LIKELY, (), text)


# -- who steps, and when -----------------------------------------------------------------------------------------------


def _hands(e: Evidence) -> Iterator[Suspect]:
    if e.twice:
        text = f"one optimizer holds {some(e.twice)} twice, and steps it twice"
        yield Suspect("second optimizer", CERTAIN, e.twice, text)
    if e.shared:
        text = f"two optimizers hold {some(e.shared)}" + (", and both are in use" if e.kept or e.repeated else "")
        yield Suspect("second optimizer", LIKELY if e.lost and not e.repeated else CERTAIN, e.shared, text)
    if e.repeated:
        text = f"{some(e.repeated)} were stepped twice on one gradient"
        yield Suspect("repeated step", LIKELY if e.shared else CERTAIN, e.repeated, text)
    if e.uncleared:
        text = f"a backward added to the gradients of {some(e.uncleared)} that a step had used already"
        yield Suspect("not cleared", CERTAIN, e.uncleared, text)
    if e.unheld and e.copied:
        text = (
            f"{some(e.unheld)} receive gradients, and {e.copied} steps other tensors of the same shapes: it holds "
            "another copy of the model"
        )
        yield Suspect("not held", CERTAIN, e.unheld, text)
    elif e.unheld:
        text = f"{some(e.unheld)} receive gradients, and no optimizer that has stepped holds them"
        yield Suspect("not held", CERTAIN, e.unheld, text)


def _infinite(e: Evidence) -> Iterator[Suspect]:
    if e.infinite:
        tail = ", and no step was taken" if e.skipped else ""
        text = f"the gradients of {some(e.infinite)} are infinite or not a number{tail}"
        yield Suspect("not finite", CERTAIN, e.infinite, text)


def _ranks(e: Evidence) -> Iterator[Suspect]:
    for r in e.replicas:
        who = f"rank {', '.join(map(str, r.ranks))}" if r.ranks else f"the {r.world} ranks"
        kinds = {x.what for x in e.replicas}
        text = f"{who} differ in the {r.what}s of {some(r.names)}"
        if r.what == "gradient":
            yield Suspect("not reduced", LIKELY if "weight" in kinds else CERTAIN, r.names, text)
        else:
            yield Suspect("replicas differ", CERTAIN, r.names, text)


def _settings(e: Evidence) -> Iterator[Suspect]:
    for s in e.settings:
        said = "was declared" if s.declared else "was before"
        text = f"{s.key} of {some(s.names)} is {s.found}; {s.expected} {said}"
        yield Suspect("settings", CERTAIN, s.names, text)


# -- gradients ---------------------------------------------------------------------------------------------------------


def _modified(e: Evidence) -> Iterator[Suspect]:
    edits = [x for x in e.edits if x.what == "gradient"]
    lone = bool(edits) and all(x.bit is not None for x in edits)
    strength = POSSIBLE if lone else LIKELY
    if edit := e.gradient_edit:
        names = some(edit.names)
        hows = {
            "added": f"the gradients of {names} point elsewhere than after the backward",
            "before": f"the gradients of {names} are those of the backward before the last one",
            "apart": f"the gradients of {names} were left as they were after the backward, and all others multiplied, "
            "as all had been until now",
            "factors": f"the gradients of {names} grew or turned round after the backward, and others did not",
            "unscaled twice": f"the gradients went from norm {edit.allowed:.4g} to {edit.norm:.4g} at the step, by "
            "the square of the factor until now: the loss scale was taken off twice",
            "unscaled late": f"gradients of norm {edit.norm:.6g} are the clipping norm {edit.allowed:.6g} over a power "
            "of two: they were clipped before the loss scale was taken off",
            "norm": f"the gradients have norm {edit.norm:.6g} at the step, after clipping to {edit.allowed:.6g}",
        }
        if edit.how == "before":
            yield Suspect("stale gradient", LIKELY, edit.names, hows["before"])
        yield Suspect("modified gradient", strength, edit.names, hows[edit.how])
    elif edits:
        text = f"the gradients of {some(names_of(edits))} changed between the backward and the step"
        yield Suspect("modified gradient", strength, names_of(edits), text)


def _wrong_gradient(e: Evidence) -> Iterator[Suspect]:
    if not e.torques:
        if e.mode:
            text = f"modules that changed between training and evaluation mode: {some(e.mode)}"
            yield Suspect("evaluation mode", CERTAIN, (), text)
        return
    names = _parameters(e.torques)
    worst = max(e.torques, key=lambda b: b.excess)
    said = (
        f"{len(e.torques)} of {max(e.families, len(e.torques))} families of symmetries are violated by the gradient "
        f"({worst.name}: {worst.members} of {worst.size} members, {worst.excess:.2g} times what rounding allows)"
    )
    others = e.uncleared or e.gradient_edit or e.edits or e.replaced or e.doubled or e.dropped
    known = bool(e.mode or e.penalty or e.delayed or e.between or e.cut or others)
    if e.cut:
        text = f"{some(e.cut)} receive no gradient, and the loss depends on them by symmetry: {said}"
        yield Suspect("detached", LIKELY, e.cut, text)
    if e.mode:
        text = f"modules that changed between training and evaluation mode: {some(e.mode)}; {said}"
        yield Suspect("evaluation mode", CERTAIN, names, text)
    if e.penalty is not None:
        text = f"all torques are {e.penalty:.3g} times the charges, as a weight decay of that size leaves; {said}"
        yield Suspect("penalty", LIKELY, names, text)
    if e.delayed or e.between:
        why = "the torques vanish at the weights of one step before" if e.delayed else "a step lies in between"
        yield Suspect("stale gradient", CERTAIN if e.between else LIKELY, names, f"{why}; {said}")
    last = all(b.kind == "translation" for b in e.torques) and not e.since_start
    if last and not known:
        yield Suspect("other loss", LIKELY, names, said)
    if all(b.members == 1 for b in e.torques) and len(_common(e.torques)) == 1 and worst.size > 2 and not known:
        text = f"one member of each family that holds {next(iter(_common(e.torques)))} is off: one element; {said}"
        yield Suspect("bit flip in gradient", LIKELY, tuple(_common(e.torques)), text)
        yield Suspect("wrong backward", POSSIBLE, names, said)
    else:
        yield Suspect("wrong backward", POSSIBLE if known else LIKELY, names, said)
    if not known and not last:
        yield Suspect("stale gradient", POSSIBLE, names, said)


def _common(broken: Sequence[Broken]) -> set[str]:
    return set.intersection(*(set(b.parameters) for b in broken))


# -- the step ----------------------------------------------------------------------------------------------------------


def _wrong_step(e: Evidence) -> Iterator[Suspect]:
    if not e.steps:
        return
    weights, state = [d for d in e.steps if d.what == "weight"], [d for d in e.steps if d.what != "weight"]
    names = names_of(e.steps)
    by = {d.by for d in weights}
    tail = f" ({some(names_of(weights or state))})"
    if weights and by == {"step"}:
        factors = [1 + d.factor for d in weights]
        if max(map(abs, factors)) < 1e-6:
            text = f"the weights did not move, at a learning rate of {e.lr:.6g}{tail}"
        else:
            text = f"the weights moved as with a learning rate of {factors[0] * e.lr:.6g}, it is {e.lr:.6g}{tail}"
        yield Suspect("learning rate", LIKELY, names, text)
    elif weights and by <= {"weights", "end"}:
        amount = -weights[0].factor / e.lr if e.lr else float("nan")
        text = f"the weights shrank by {amount:.3g} * lr more than the weight decay that is set{tail}"
        yield Suspect("weight decay", LIKELY, names, text)
    elif weights and by == {"momentum"}:
        text = f"the momentum entered the step by another factor than is set{tail}"
        yield Suspect("momentum", LIKELY, names, text)
    elif weights and by == {"gradient"}:
        text = f"the step went another {-weights[0].factor:.3g} along the gradient{tail}"
        yield Suspect("second optimizer", LIKELY, names, text)
        yield Suspect("wrong step", POSSIBLE, names, text)
    if state:
        made = {d.by for d in state}
        key = {"weights": "weight decay", "momentum": "momentum"}.get(made.pop() if len(made) == 1 else "", "")
        text = f"the {some([d.what for d in state])} of {some(names_of(state))} is not what the settings make of it"
        if key and not weights:
            yield Suspect(key, LIKELY, names, f"{text}: it differs by {state[0].factor:.3g} of the {state[0].by}")
        yield Suspect("wrong step", POSSIBLE if key and not weights else LIKELY, names, text)
    text = f"{max(d.share for d in e.steps):.0%} of the elements moved otherwise than the settings say{tail}"
    yield Suspect("settings", POSSIBLE, names, text)
    yield Suspect("wrong step", LIKELY if "" in by else POSSIBLE, names, text)


def _laws(e: Evidence) -> Iterator[Suspect]:
    if e.laws and not e.steps:
        names = _parameters(e.laws)
        worst = max(e.laws, key=lambda b: b.excess)
        text = f"the exact law of {worst.name} was left in this step by {worst.excess:.2g} times what rounding allows"
        text += f" ({worst.counted})" if worst.of else ""
        if few := all(b.members == 1 for b in e.laws):
            yield Suspect("bit flip in weight", POSSIBLE, names, text)
        yield Suspect("wrong step", POSSIBLE if few else LIKELY, names, text)


_RULES: tuple[Callable[[Evidence], Iterator[Suspect]], ...] = (
    _infinite,
    _zeroed,
    _DELIVERY,
    _movement,
    bit_flips,
    _clock,
    _settings,
    _ranks,
    _hands,
    _STANDING,
    edited_state,
    edited_weights,
    _modified,
    _wrong_gradient,
    _wrong_step,
    _laws,
    _averages,
)
