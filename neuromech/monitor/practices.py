"""What people rightly do and single steps cannot tell from a fault: each has a name, by which it is allowed."""

from __future__ import annotations

from typing import NamedTuple


class Practice(NamedTuple):
    """`causes`: what it would be taken for."""

    title: str
    causes: tuple[str, ...]


PRACTICES: dict[str, Practice] = {
    "sam": Practice("gradients are taken at other weights than those that they step (SAM, extragradient, look-ahead)",
                    ("stale gradient", "edited weights")),
    "penalty": Practice("the loss has terms of its own in the weights", ("penalty", "regulariser", "other loss")),
    "freezing": Practice("parameters are frozen, or thawed, as planned", ("frozen", "zeroed gradient", "detached")),
    "alternating": Practice("optimizers take turns over parts of one model", ("stale gradient", "dropped gradient")),
    "handover": Practice("another optimizer takes over", ("momentum lost", "second optimizer", "step count lost")),
    "schedule": Practice("settings change by plan", ("settings", "schedule lost")),
    "noise": Practice("gradients are changed on purpose: noise, projections, masks", ("modified gradient", "zeroed gradient")),
    "edits": Practice("weights are set by other code than the optimizer", ("edited weights", "wrong checkpoint")),
    "random depth": Practice("layers are left out at random", ("detached",)),
    "evaluation mode": Practice("modules change their mode as planned", ("evaluation mode",)),
    "low precision": Practice("updates may be lost to rounding", ("lost updates",)),
}  # fmt: skip


def hint(cause: str) -> str:
    """How a cause that may be meant is declared; "" if there is no way to mean it."""
    names = [name for name, practice in PRACTICES.items() if cause in practice.causes]
    return " or ".join(f"monitor(allow={name!r})" for name in names)
