"""Does a step move anything? Weights that are the same, bit for bit, behind steps with gradients have not moved.

Nor does anything if all gradients are zero: which is as it should be once the loss is zero, and nothing is left to do.
"""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

from torch.optim.optimizer import Optimizer

from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.evidence import Evidence
from neuromech.monitor.facts import Step
from neuromech.record import Progress

AT_FIRST, LATER = 2, 30  # steps in a row: an optimizer may collect gradients by itself


class MovementCheck:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._idle: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()  # steps in a row, but zero gradients
        self._still: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._moved: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()

    def before(self, step: Step) -> Evidence:
        return NOTHING

    def after(self, step: Step) -> Evidence:
        before = step.ahead
        assert before is not None
        rated = {n for group in before.groups if group.settings.get("lr") for n in group.moving}
        moving = [n for n in before.moving if n in rated and before.grad_sums[n] != 0]
        # What is no number stays none, and has been told.
        finite = before.torques is None or all(map(math.isfinite, before.torques.squares))
        if rated and not moving and before.fresh and step.optimizer in self._moved:
            self._idle[step.optimizer] = idle = self._idle.get(step.optimizer, 0) + 1
            return (
                Evidence(dead=tuple(sorted(rated)))
                if idle == LATER and abs(self._progress.newest_loss) > 0
                else NOTHING
            )
        self._idle[step.optimizer] = 0
        if not moving or not finite or before.skipped:
            return NOTHING
        if any(before.weight_sums[n] != step.weight_sums[n] for n in moving):
            self._moved[step.optimizer], self._still[step.optimizer] = True, 0
            return NOTHING
        self._still[step.optimizer] = still = self._still.get(step.optimizer, 0) + 1
        # One that gathers before it moves, as RAdam does, changes its state, or counts in its groups.
        gathers = before.state_sums != step.state_sums or before.state.clocks != step.state.clocks
        counts = [group.settings for group in before.groups] != [group.settings for group in step.groups]
        enough = LATER if gathers or counts or step.optimizer in self._moved else AT_FIRST
        return Evidence(still=tuple(moving)) if still >= enough else NOTHING
