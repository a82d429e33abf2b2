"""What `Probe.monitor` is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from neuromech.errors import InstrumentError
from neuromech.monitor.causes import CAUSES
from neuromech.monitor.checks.replicas import Gather
from neuromech.monitor.checks.settings import Expect
from neuromech.monitor.fault import Reaction
from neuromech.monitor.practices import PRACTICES

Words = str | Collection[str]
SCHEDULED = ("lr", "momentum", "betas")


@dataclass(frozen=True)
class Options:
    """What `Probe.monitor` was asked for. Raises `InstrumentError` for what makes no sense."""

    on_fault: Reaction = "warn"
    clip_norm: float | None = None
    expect: Expect | None = None
    scheduled: Words = SCHEDULED
    precision: torch.dtype | None = None
    replicas: bool | Gather = False
    ignore: Words = ()
    allow: Words = ()

    def __post_init__(self) -> None:
        for name in ("scheduled", "ignore", "allow"):
            object.__setattr__(self, name, words(name, getattr(self, name)))
        if self.on_fault not in ("warn", "raise") and not callable(self.on_fault):
            raise InstrumentError(f"on_fault={self.on_fault!r}: pass 'warn', 'raise', or a function of the fault")
        if self.clip_norm is not None and not (_is_number(self.clip_norm) and self.clip_norm > 0):
            raise InstrumentError(f"clip_norm={self.clip_norm}: pass the norm that gradients are clipped to, or None")
        if self.precision is not None and not getattr(self.precision, "is_floating_point", False):
            raise InstrumentError(f"precision={self.precision}: pass the number format of the coarsest computation")
        if not (isinstance(self.replicas, bool) or callable(self.replicas)):
            raise InstrumentError(f"replicas={self.replicas!r}: pass True, False, or a function that gathers a tensor")
        if unknown := sorted(set(self.ignore) - CAUSES.keys()):
            raise InstrumentError(f"ignore={unknown}: the causes are {', '.join(CAUSES)}")
        if unknown := sorted(set(self.allow) - PRACTICES.keys()):
            raise InstrumentError(f"allow={unknown}: what can be allowed is {', '.join(PRACTICES)}")
        _check_expect(self.expect)

    @property
    def no_faults(self) -> frozenset[str]:
        """The causes that are none here: ignored, or of a practice that is allowed."""
        return frozenset(self.ignore).union(*(PRACTICES[name].causes for name in self.allow))

    def described(self) -> dict[str, Any]:
        """As plain data, for the record of the run."""
        names = ("clip_norm", "scheduled", "precision", "ignore", "allow")
        return {name: getattr(self, name) for name in names} | {"replicas": bool(self.replicas)}


def words(name: str, value: Words) -> tuple[str, ...]:
    """A collection of strings, or one string by itself.

    Raises `InstrumentError` for anything else.
    """
    if isinstance(value, str):
        return (value,)
    listed = tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(word, str) for word in listed):
        raise InstrumentError(f"{name}={value!r}: pass a string, or several of them")
    return tuple(str(word) for word in listed)


def _check_expect(expect: Any) -> None:
    if expect is None:
        return
    if not isinstance(expect, Mapping) or not all(isinstance(key, str) for key in expect):
        raise InstrumentError(
            f"expect={expect!r}: pass settings by name, as in {{'lr': 0.1}}, or patterns of parameter names with "
            "settings of their own, as in {'*.bias': {'weight_decay': 0}}"
        )


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)
