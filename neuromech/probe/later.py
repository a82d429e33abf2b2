"""Layers frozen or unfrozen in mid-run: the model that trains has other symmetries then, and they are looked for.

As at the start, the user's own next forward is written down and its gradients are asked. What is new is measured from
there on, behind what is measured already, which goes on: freezing breaks no record off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from neuromech.detect import Findings
from neuromech.dynamics import drawn, followed
from neuromech.hooks import Guard, any_sharded
from neuromech.probe.measure import Measurement
from neuromech.probe.waiting import Waiting
from neuromech.record import Journal, some
from neuromech.symmetry import SymmetrySet

MOST = 8  # sets of trainable parameters that are looked at: some loops draw another one every few steps


class LaterSearch:
    """Watches which parameters can be trained, and looks for symmetries when others can than at any time before."""

    def __init__(
        self,
        model: nn.Module,
        measurement: Measurement,
        journal: Journal,
        budget: float | None,
        first: Waiting,
        searches: Sequence[int],
    ) -> None:
        """`first`: that found the symmetries which are measured already. `searches`: how many families each search has
        found so far."""
        self._first, self.searches = first, [*searches]
        self._model, self._measurement, self._journal, self._budget = model, measurement, journal, budget
        self._seen = {self._trainable()}
        self._waiting: Waiting | None = None
        self._failed = ""

    def ahead(self, found: Findings, coverage: float, lenient: bool) -> Findings:
        """To be called ahead of every step: `found`, and what has been found since. `lenient`: see `Waiting`."""
        if self._waiting is not None:
            found = self._with_new(found, coverage)
        now = self._trainable()
        if now and now not in self._seen and len(self._seen) <= MOST:
            self._seen.add(now)
            if len(self._seen) <= MOST:
                self._begin(lenient)
            else:
                self._tell("as that happens so often, symmetries are not looked for any more")
        return found

    def remove(self) -> None:
        if self._waiting is not None:
            self._waiting.hooks.remove()
            self._waiting.forget()
            self._waiting = None

    def _trainable(self) -> frozenset[str]:
        return frozenset(name for name, p in self._measurement.params.items() if p.requires_grad)

    def _begin(self, lenient: bool) -> None:
        self.remove()
        if any_sharded(self._model.parameters()) or self._first.compiled:
            kind = "compiled" if self._first.compiled else "sharded"
            self._tell(f"symmetries of the model as it trains now are not looked for, as it is {kind}")
            return
        self._waiting = Waiting(self._model, Guard(self._fail), None, self._budget)
        self._waiting.lenient = lenient
        if self._first.by_parts:
            self._waiting.follow_parts()

    def _fail(self, error: Exception) -> None:
        self._failed = f"{type(error).__name__}: {error}"

    def _with_new(self, found: Findings, coverage: float) -> Findings:
        waiting = self._waiting
        assert waiting is not None
        try:
            now = None if self._failed else waiting.settle(by_hand=False)
        except Exception as error:  # what was measured until now goes on
            self._fail(error)
            now = None
        if self._failed:
            self.remove()
            self._tell(f"symmetries of the model as it trains now could not be found ({self._failed})")
            self._failed = ""
        if now is None:
            return found
        self.remove()
        known = {(s.kind, s.name) for s in found}
        new = [s for s in now if (s.kind, s.name) not in known]
        self.searches.append(len(new))
        found = replace(
            found,
            symmetries=SymmetrySet([*found, *new]),
            notes=(*found.notes, f"looked for anew ahead of step {self._measurement.step + 1}"),
        )
        have_laws = followed(new, self._measurement.params)
        self._measurement.extend(found, have_laws, drawn(have_laws, coverage))
        names = some([s.name for s in new])
        self._tell(f"symmetries of the model as it trains now: {f'new are {names}' if new else 'none is new'}")
        return found

    def _tell(self, what: str) -> None:
        step = self._measurement.step + 1
        self._journal.event(step, "trainable", f"other parameters can be trained than before step {step}; {what}")
