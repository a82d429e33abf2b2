"""What people rightly do and single steps cannot tell from a fault: each has a name, by which it is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from neuromech.monitor.evidence import Evidence
from neuromech.record import some


class Practice(NamedTuple):
    """`causes`: what it would be taken for."""

    title: str
    causes: tuple[str, ...]


PRACTICES: dict[str, Practice] = {
    "sam": Practice("gradients are taken at other weights than those that they step (SAM, extragradient, look-ahead)",
                    ("stale gradient", "edited weights")),
    "penalty": Practice("the loss has terms of its own in the weights", ("penalty", "regulariser", "other loss")),
    "other backward": Practice("gradients are changed on their way (reversal, straight through, scaled by hooks)",
                               ("wrong backward",)),
    "freezing": Practice("parameters are frozen, or thawed, as planned",
                         ("frozen", "zeroed gradient", "detached", "dead gradient")),
    "alternating": Practice("optimizers take turns", ("stale gradient", "dropped gradient", "second optimizer")),
    "handover": Practice("another optimizer takes over", ("momentum lost", "second optimizer", "step count lost")),
    "schedule": Practice("settings change by plan", ("settings", "schedule lost")),
    "noise": Practice("gradients are changed on purpose (noise, masks)", ("modified gradient", "zeroed gradient")),
    "edits": Practice("weights are set by other code than the optimizer", ("edited weights", "wrong checkpoint")),
    "random depth": Practice("layers are left out at random", ("detached",)),
    "evaluation mode": Practice("modules change their mode as planned", ("evaluation mode",)),
    "low precision": Practice("updates may be lost to rounding", ("lost updates",)),
}  # fmt: skip


def hint(cause: str) -> str:
    """How a cause that may be meant is declared; "" if there is no way to mean it."""
    names = [name for name, practice in PRACTICES.items() if cause in practice.causes]
    return " or ".join(f"monitor(allow={name!r})" for name in names)


def noticed(e: Evidence) -> Iterator[tuple[str, str]]:
    """(practice, what was seen of it): what explains itself is not a fault, and is noted once."""
    if e.elsewhere:
        yield "sam", f"the gradients of {some(e.elsewhere)} were taken at other weights than those that they step"
    if e.rebuilt:
        where = some([name or "the model itself" for name in e.rebuilt])
        yield (
            "rebuilt",
            f"modules were exchanged, put in or taken out in {where}: symmetries are known of the model as it was, "
            "and gradients are not judged by them any more",
        )
    if e.rounded:
        yield "perturbation", f"{some(e.rounded)} were written to between steps and put back, up to rounding"
    if e.followed:
        yield "target", f"no gradient moves {some(e.followed)}, and other code sets them: a target, or codes"
    if e.own_writes:
        yield "own writes", f"the forward itself sets {some(e.own_writes)}, ahead of where it reads them"
    if e.returned:
        yield (
            "rollback",
            "weights and optimizer state are, bit for bit, what an earlier step left: they were loaded again",
        )
    if e.schedules:
        yield "schedule", f"{some(e.schedules)} of param groups changes from step to step: a schedule by hand"
    if e.handover:
        yield "handover", f"{e.handover[1]} takes over from {e.handover[0]}, with a state of its own"
    if e.terms:
        forms = {term.form for term in e.terms}
        form, *others = forms
        kind = f"an {form} term" if form and not others else "a term of its own"
        strongest = max(e.terms, key=lambda term: term.share)
        much = f", with coefficient {strongest.coefficient:.3g}" if form and not others else ""
        size = "at least" if strongest.at_least else "up to"
        yield (
            "penalty",
            f"the loss has {kind} in {some([term.name for term in e.terms])}{much}: {size} {strongest.share:.2g} of a "
            f"gradient ({strongest.name}). Families that hold these are judged by their step alone",
        )
