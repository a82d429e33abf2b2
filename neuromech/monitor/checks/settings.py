"""Has every param group the settings that it is thought to have: those that were declared, and those it had before?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.errors import InstrumentError
from neuromech.monitor.evidence import Setting

Expect = Mapping[str, Any]
_NOT_SETTINGS = frozenset({"params", "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "param_names"})


class Expectations:
    """`expect`: settings, or patterns of parameter names -> settings; a value is a number or a function of the step.

    What is in `scheduled` may change: by a scheduler of torch as it likes, by other hands in all groups at once.
    """

    def __init__(self, expect: Expect | None, scheduled: Collection[str], names: Sequence[str]) -> None:
        nested = {pattern: dict(s) for pattern, s in (expect or {}).items() if isinstance(s, Mapping)}
        flat = {key: value for key, value in (expect or {}).items() if not isinstance(value, Mapping)}
        self._expect = nested | ({"*": flat} if flat else {})
        for pattern in self._expect:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InstrumentError(f"expect={{{pattern!r}: ...}}: no parameter of the model has such a name")
        self._scheduled = frozenset(scheduled)
        self._before: WeakKeyDictionary[Optimizer, list[dict[str, Any]]] = WeakKeyDictionary()

    def check(self, optimizer: Optimizer, names: Mapping[Tensor, str], step: int) -> tuple[Setting, ...]:
        """Ahead of step `step` (1, 2, ...)."""
        groups = [plain(group) for group in optimizer.param_groups]
        holds = [tuple(names[p] for p in group["params"] if p in names) for group in optimizer.param_groups]
        out = [s for g, some in zip(groups, holds, strict=True) for s in self._declared(g, some, step)]
        before = self._before.get(optimizer)
        if before is not None and len(before) == len(groups):
            moved = [{k for k in new if k in old and new[k] != old[k]} for old, new in zip(before, groups, strict=True)]
            meant = set.intersection(*moved) if "initial_lr" not in optimizer.param_groups[0] else set.union(*moved)
            for old, new, some, keys in zip(before, groups, holds, moved, strict=True):
                out += [Setting(k, old[k], new[k], some) for k in sorted(keys - (meant & self._scheduled))]
        self._before[optimizer] = groups
        return tuple(out)

    def _declared(self, group: Mapping[str, Any], names: Sequence[str], step: int) -> list[Setting]:
        out = []
        for pattern, settings in self._expect.items():
            some = tuple(n for n in names if fnmatchcase(n, pattern))
            for key, value in settings.items():
                expected = value(step) if callable(value) else value
                if some and key in group and not _equal(group[key], expected):
                    out.append(Setting(key, expected, group[key], some, declared=True))
        return out


def plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a param group, with numbers for tensors."""

    def number(x: Any) -> Any:
        if isinstance(x, (tuple, list)):
            return tuple(map(number, x))
        return x.item() if isinstance(x, Tensor) and x.numel() == 1 else x

    return {key: number(x) for key, x in group.items() if key not in _NOT_SETTINGS}


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(found, (int, float)) and isinstance(expected, (int, float)):
        # A schedule may be written in more than one way: up to a few roundings of float64.
        return abs(found - expected) <= 16 * 2.0**-52 * max(abs(found), abs(expected))
    return bool(found == (tuple(expected) if isinstance(expected, list) else expected))
