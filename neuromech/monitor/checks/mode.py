"""Is the model in the mode in which it began to train?"""

from __future__ import annotations

from neuromech.hooks import ForwardModes
from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.evidence import Evidence
from neuromech.monitor.facts import Step


class ModeCheck:
    """Training and evaluation mode, module by module, as the forwards that train had it."""

    def __init__(self, modes: ForwardModes) -> None:
        self._modes = modes

    def before(self, step: Step) -> Evidence:
        return Evidence(mode=self._modes.changed())

    def after(self, step: Step) -> Evidence:
        return NOTHING
