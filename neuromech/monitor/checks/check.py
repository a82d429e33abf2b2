"""What every check is: a judge of the facts of a step, ahead of it and behind it."""

from __future__ import annotations

from typing import Protocol

from neuromech.monitor.evidence import NOTHING as NOTHING
from neuromech.monitor.evidence import Evidence
from neuromech.monitor.facts import Step


class Check(Protocol):
    """`before` is asked once the gradients of a step are ready, `after` when it is done; each returns what is wrong."""

    def before(self, step: Step) -> Evidence: ...

    def after(self, step: Step) -> Evidence: ...
