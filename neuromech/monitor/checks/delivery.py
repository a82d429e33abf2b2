"""Does what a backward has computed reach a step: not zeroed, thrown away, or counted twice?"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch.optim.optimizer import Optimizer

from neuromech.hooks import BackwardWatch, mark
from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.evidence import Evidence
from neuromech.monitor.facts import Backward, Step
from neuromech.monitor.missing_gradient import vanished

REPEATED = 2  # steps in a row: a backward that looks at gradients alone happens


class GradientDelivery:
    """What is cleared from the first step on, of some parameters, is taken for meant: a mask."""

    def __init__(self, backward: BackwardWatch) -> None:
        self._backward = backward
        self._masked: set[str] | None = None
        self._dropped: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()

    def before(self, step: Step) -> Evidence:
        raw = step.backward
        if raw is None or not step.fresh:
            return NOTHING
        doubled = step.moving if raw.doubled is not None and bool(raw.doubled) else ()
        return Evidence(doubled=doubled, dropped=self._thrown_away(raw, step)) | self._zeroed(raw, step)

    def after(self, step: Step) -> Evidence:
        return NOTHING

    def _zeroed(self, raw: Backward, step: Step) -> Evidence:
        assert step.torques is not None
        had = reached(raw, list(step.theta)) & set(step.held)
        gone = had & vanished(step.torques, step)
        if gone and gone == had:
            return Evidence(zeroed=tuple(sorted(gone)), zeroed_all=True)
        if self._masked is None:
            self._masked = gone
        return Evidence(zeroed=tuple(sorted(gone - self._masked)))

    def _thrown_away(self, raw: Backward, step: Step) -> tuple[str, ...]:
        dropped = self._backward.dropped & set(step.moving)
        # Who hands over a gradient of his own has kept what was cleared beside it.
        dropped = {n for n in dropped if n in raw.marks and mark(step.grads[n])[0] == raw.marks[n][0]}
        if not (dropped and raw.followed is not None and bool(raw.followed)):
            self._dropped[step.optimizer] = 0
            return ()
        self._dropped[step.optimizer] = self._dropped.get(step.optimizer, 0) + 1
        return tuple(sorted(dropped)) if self._dropped[step.optimizer] >= REPEATED else ()


def reached(raw: Backward, names: list[str]) -> set[str]:
    """The parameters to which a backward sent a gradient that is not zero."""
    return {n for n, x in zip(names, raw.torques.squares, strict=True) if x > 0 and n in raw.names}
