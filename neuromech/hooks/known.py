"""The optimizers that step a model: what each is, for the records, and how their steps make up iterations.

A loop with several optimizers, or with one for every parameter that steps in the backward, takes many steps in what its
user calls one: an iteration begins with the step of an optimizer that has stepped in this one already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim.optimizer import Optimizer

from neuromech.dynamics import law_of
from neuromech.hooks.backward import Mark
from neuromech.optimizers import plain, rule_of
from neuromech.record import Journal, Record


def _described(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Any]:
    groups = [
        dict(one) | {"parameters": len(group["params"]), "names": [names[p] for p in group["params"] if p in names]}
        for one, group in zip(_settings_of(optimizer), optimizer.param_groups, strict=True)
    ]
    rule = rule_of(optimizer)
    known = {} if rule is None else {"rule": rule.key}
    flow = getattr(optimizer, "follows_flow", None)  # the base of an EoMOptimizer says how its steps were put on one
    wrapper = {"wrapper": {"class": "EoMOptimizer"} | (flow if isinstance(flow, dict) else {})} if flow else {}
    return {"class": type(optimizer).__name__, **known, "law": law_of(optimizer), "groups": groups} | wrapper


GroupSettings = list[dict[str, Any]]
"""What each param group of an optimizer is told, as plain data, without how it is to be computed."""

_HOW = {"foreach", "fused", "capturable", "differentiable"}


def _settings_of(optimizer: Optimizer) -> GroupSettings:
    return [{k: x for k, x in plain(g, wait=False).items() if k not in _HOW} for g in optimizer.param_groups]


def _changes(before: GroupSettings, after: GroupSettings) -> list[tuple[str, str]]:
    """What is told otherwise than before, but for the learning rate, as (which setting, words)."""
    out = [
        (f"group {i} {key}", f"parameter group {i} has {key} {' instead of '.join(_told(new[key], old.get(key)))}")
        for i, (old, new) in enumerate(zip(before, after, strict=False))
        for key in new
        if key != "lr" and new[key] != old.get(key)
    ]
    if len(after) > len(before):
        out.append((f"groups {len(after)}", f"the optimizer has {len(after)} parameter groups (it had {len(before)})"))
    return out


def _told(*values: Any) -> list[str]:
    """Settings that differ, with six digits of each number, or with all where these do not tell them apart."""

    def short(x: Any) -> str:
        if isinstance(x, (tuple, list)):
            return f"({', '.join(map(short, x))})"
        return f"{x:.6g}" if isinstance(x, float) else str(x)

    texts = [short(x) for x in values]
    return texts if len(set(texts)) == len(texts) else [str(x) for x in values]


class Known:
    """What is known of one optimizer: its place in the records, what it is told, what it moves, its buffers."""

    def __init__(self, index: int, settings: GroupSettings) -> None:
        self.index, self.settings = index, settings
        self.moving: frozenset[str] | None = None
        self.buffers: dict[str, Mark] = {}


class KnownOptimizers:
    """Those that have stepped so far. `described`: as the records have them; `iteration`: how many were begun."""

    def __init__(self, record: Record, journal: Journal, names: Mapping[Tensor, str]) -> None:
        self._record, self._journal, self._names = record, journal, names
        self.described: list[dict[str, Any]] = []
        self.iteration = 0
        self._stepped: set[int] = set()  # in this iteration
        # Weakly: an optimizer that is no longer used must give its momentum buffers back.
        self._all: WeakKeyDictionary[Optimizer, Known] = WeakKeyDictionary()

    def __getitem__(self, optimizer: Optimizer) -> Known:
        return self._all[optimizer]

    def forget_buffers(self) -> None:
        for known in self._all.values():
            known.buffers = {}

    def stepped(self, known: Known) -> None:
        """An optimizer has stepped."""
        if known.index in self._stepped or not self._stepped:
            self.iteration += 1
            self._stepped = set()
        self._stepped.add(known.index)

    def meet(self, optimizer: Optimizer, step: int) -> Known:
        """What is known of an optimizer that takes the step `step`; what it is goes to the records, and what of it
        changes in mid-run."""
        known = self._all.get(optimizer)
        settings = _settings_of(optimizer)
        if known is not None and known.settings == settings:
            return known
        description = _described(optimizer, self._names)
        if known is None:
            known = self._all[optimizer] = Known(len(self.described), settings)
            if description in self.described:  # made anew with equal settings, as at every epoch
                known.index = self.described.index(description)
                return known
            self.described.append(description)
            self._explain(optimizer, step)
        else:
            for key, change in _changes(known.settings, settings):
                self._journal.once(
                    f"{known.index} {key}",
                    step,
                    "settings",
                    f"from step {step} on {change}. The laws take every step as it is told; later changes of this "
                    "setting are not listed",
                    warn=False,
                )
            grown = len(settings) > len(known.settings)
            known.settings = settings
            if not grown:
                return known
            self.described[known.index] = description
        self._record.update_meta({"optimizers": self.described})
        return known

    def _explain(self, optimizer: Optimizer, step: int) -> None:
        name, law = type(optimizer).__name__, law_of(optimizer)
        if law == "measured" and not getattr(optimizer, "follows_flow", False):
            message = (
                f"nothing is known of the steps of {name}: its law follows the displacement that is measured, so that "
                "its terms sum to the change whatever it does (neuromech.register_optimizer teaches its rule)"
            )
            self._journal.event(step - 1, "measured", message)
