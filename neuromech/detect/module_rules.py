"""Modules that count as one operation: what users have registered with `register_module`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn


@dataclass(frozen=True)
class ModuleRule:
    """The operator that a module is, and its arguments: `(module, *inputs) -> tuple`."""

    op: str
    arguments: Callable[..., tuple[Any, ...]]


MODULES: dict[type[nn.Module], ModuleRule] = {}


def inputs_and_parameters(m: nn.Module, *inputs: Any) -> tuple[Any, ...]:
    """What a module is called with, then its own parameters in order."""
    return (*inputs, *(p for _, p in m.named_parameters(recurse=False)))


@contextmanager
def taken_whole(model: nn.Module, as_one: Callable[[str, tuple[Any, ...], Callable[[], Any]], Any]) -> Iterator[None]:
    """Inside, forwards of registered modules run through `as_one(operator, arguments, forward)`."""

    def whole(m: nn.Module, rule: ModuleRule, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        return as_one(rule.op, rule.arguments(m, *inputs, **named), partial(forward, *inputs, **named))

    lent = [(m, m.__dict__.get("forward")) for m in model.modules() if type(m) in MODULES]
    for m, _ in lent:
        m.__dict__["forward"] = partial(whole, m, MODULES[type(m)], m.forward)
    try:
        yield
    finally:
        for m, own in lent:
            m.__dict__.pop("forward")
            if own is not None:
                m.__dict__["forward"] = own
