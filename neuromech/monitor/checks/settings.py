"""Has every param group the settings that it is thought to have: those that were declared, and those it had before?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakKeyDictionary

from torch.optim.optimizer import Optimizer

from neuromech.errors import InstrumentError
from neuromech.monitor.checks.check import NOTHING
from neuromech.monitor.evidence import Evidence, Setting
from neuromech.monitor.facts import Group, Step

Expect = Mapping[str, Any]
InGroup = tuple[int, str]  # a group, a setting
USUAL = frozenset({"lr", "momentum", "betas", "weight_decay", "eps", "dampening", "nesterov", "alpha", "rho"})


class SettingsCheck:
    """`expect`: settings, or patterns of parameter names -> settings; a value is a number or a function of the step.

    What a step itself writes is its state: settings are compared with what the last step left. What is in `scheduled`
    may change between steps: by a scheduler of torch as it likes, by other code in all groups at once. What changes at
    two steps in a row is a schedule by hand, from then on: so a change is told at the next step, if it has stayed.
    """

    def __init__(self, expect: Expect | None, scheduled: Collection[str], names: Sequence[str]) -> None:
        nested = {pattern: dict(s) for pattern, s in (expect or {}).items() if isinstance(s, Mapping)}
        flat = {key: value for key, value in (expect or {}).items() if not isinstance(value, Mapping)}
        self._expect = nested | ({"*": flat} if flat else {})
        for pattern in self._expect:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InstrumentError(f"expect={{{pattern!r}: ...}}: no parameter of the model has such a name")
        self._scheduled = frozenset(scheduled)
        self._met: set[str] = set()  # settings of the optimizers that have stepped
        self.refused = ""  # why the declarations make no sense
        self._left: WeakKeyDictionary[Optimizer, tuple[Group, ...]] = WeakKeyDictionary()
        self._changed: WeakKeyDictionary[Optimizer, dict[InGroup, Setting]] = WeakKeyDictionary()  # at the last step
        self._by_hand: WeakKeyDictionary[Optimizer, set[InGroup]] = WeakKeyDictionary()
        self._rates: tuple[float, float] | None = None  # learning rates of the first and the last step
        self._saved_rates: tuple[float, float] | None = None

    def before(self, step: Step) -> Evidence:
        self._look_for_unknown(step)
        out = [s for group in step.groups for s in self._declared(group, step.number)]
        before, now = self._changed.get(step.optimizer, {}), self._changes(step)
        by_hand = self._by_hand.setdefault(step.optimizer, set())
        schedules = (before.keys() & now.keys()) - by_hand
        by_hand |= schedules
        stayed = [setting for place, setting in before.items() if place not in by_hand]
        self._changed[step.optimizer] = {place: x for place, x in now.items() if place not in by_hand}
        return Evidence(
            settings=(*out, *stayed),
            schedules=tuple(sorted({now[place].key for place in schedules})),
            restarted=self._restarted(step.lr),
        )

    def _changes(self, step: Step) -> dict[InGroup, Setting]:
        """The settings that are others than the last step left, and that may not be."""
        left = self._left.get(step.optimizer, ())
        if len(left) != len(step.groups):
            return {}
        pairs = list(zip(left, step.groups, strict=True))
        moved = [_differing(old.settings, new.settings) for old, new in pairs]
        by_scheduler = any(group.scheduled for group in step.groups[:1])
        meant = (set.union(*moved) if by_scheduler else set.intersection(*moved)) & self._scheduled
        return {
            (i, k): Setting(k, old.settings[k], new.settings[k], new.names)
            for i, ((old, new), keys) in enumerate(zip(pairs, moved, strict=True))
            for k in sorted(keys - meant)
        }

    def after(self, step: Step) -> Evidence:
        self._left[step.optimizer] = step.groups
        self._rates = (self._rates[0] if self._rates else step.lr, step.lr)
        return NOTHING

    def state_dict(self) -> list[float]:
        return list(self._rates or ())

    def load_state_dict(self, rates: Sequence[float]) -> None:
        """The next step is compared with a saved state."""
        self._saved_rates = (rates[0], rates[1]) if rates else None

    def _look_for_unknown(self, step: Step) -> None:
        """A setting that no param group has would never be looked at. By its second step every optimizer was met."""
        self._met.update(key for group in step.groups for key in group.settings)
        again = step.optimizer in self._left
        asked = {key for settings in self._expect.values() for key in settings} - (set() if again else USUAL)
        asked |= (self._scheduled - USUAL) if again else set()  # a step may make a setting of its own
        unknown = sorted(asked - self._met)
        if unknown:
            self.refused = (
                f"{', '.join(unknown)}: no param group has such a setting, as expect= or scheduled= says; the settings "
                f"are {', '.join(sorted(self._met))}"
            )

    def _restarted(self, lr: float) -> Setting | None:
        """The learning rate of the first step again, after a saved state that was further on."""
        saved, self._saved_rates = self._saved_rates, None
        return Setting("lr", saved[1], lr, ()) if saved and saved[0] == lr != saved[1] else None

    def _declared(self, group: Group, step: int) -> list[Setting]:
        out = []
        for pattern, settings in self._expect.items():
            some = tuple(n for n in group.names if fnmatchcase(n, pattern))
            for key, value in settings.items():
                expected = value(step) if callable(value) else value
                if some and key in group.settings and not _equal(group.settings[key], expected):
                    out.append(Setting(key, expected, group.settings[key], some, declared=True))
        return out


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    return {k for k in new if k in old and not _same(new[k], old[k])}


def _same(a: Any, b: Any) -> bool:
    """Equal; of what cannot be compared (tensors, arrays), the same object."""
    if a is b:
        return True
    try:
        return bool(a == b)
    except (RuntimeError, ValueError, TypeError):
        return False


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(found, (int, float)) and isinstance(expected, (int, float)):
        # A schedule may be written in more than one way: up to a few roundings of float64.
        return abs(found - expected) <= 16 * 2.0**-52 * max(abs(found), abs(expected))
    return _same(found, tuple(expected) if isinstance(expected, list) else expected)
