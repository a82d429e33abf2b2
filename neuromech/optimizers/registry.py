"""The registry: which rule is that of an optimizer, and how to teach a new one.

A rule is found by the class whose `step` an optimizer takes, or by the name of its class. A class that is known by its
name alone may be another one of the same name: it is put to the test when it is first met (selftest.py), and one that
fails is unknown.
"""

from __future__ import annotations

import difflib
import inspect
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from torch.optim.optimizer import Optimizer

from neuromech.compat import code_of
from neuromech.errors import InstrumentError, warn
from neuromech.optimizers.adafactor import ADAFACTOR
from neuromech.optimizers.adagrad import ADADELTA, ADAGRAD
from neuromech.optimizers.adam import ADAM, ADAMAX, ADAMW, NADAM, RADAM
from neuromech.optimizers.adamc import ADAMC
from neuromech.optimizers.adamp import ADAMP
from neuromech.optimizers.adan import ADAN
from neuromech.optimizers.adopt import ADOPT
from neuromech.optimizers.hypersphere import ADAMH, MUONH
from neuromech.optimizers.lamb import LAMB, LARS
from neuromech.optimizers.lion import LION, LION_PO
from neuromech.optimizers.mars import MARS
from neuromech.optimizers.muon import MUON
from neuromech.optimizers.prodigy import PRODIGY
from neuromech.optimizers.rmsprop import RMSPROP, RPROP
from neuromech.optimizers.rule import Rule
from neuromech.optimizers.schedule_free import ADAMW_SCHEDULE_FREE, SGD_SCHEDULE_FREE
from neuromech.optimizers.selftest import Factory, fault_of, fault_of_class
from neuromech.optimizers.settings import takes_step_of
from neuromech.optimizers.sgd import ASGD, SGD, SGDW
from neuromech.optimizers.sophia import SOPHIA

OWN = (
    *(SGD, SGDW, ADAM, ADAMW, NADAM, RADAM, ADAMAX, RMSPROP, RPROP, ADAGRAD, ADADELTA, ADAFACTOR, ASGD, LION, MUON),
    *(SGD_SCHEDULE_FREE, ADAMW_SCHEDULE_FREE, LION_PO, ADAMC, ADAMP, ADAN, ADOPT, LAMB, LARS, MARS, PRODIGY, SOPHIA),
    *(ADAMH, MUONH),
)
RULES: dict[type | str, Rule] = {getattr(torch.optim, rule.key, rule.key): rule for rule in OWN}
_CLASSES: WeakKeyDictionary[type, Rule | None] = WeakKeyDictionary()
"""Classes that were met and are not known themselves: the rule of their name, if it is theirs."""


def register_optimizer(
    optimizer: type[Optimizer] | str, rule: Rule, *, make: Factory | None = None, replace: bool = False
) -> None:
    """Teach laws, monitor, flows and report at once what the steps of an optimizer do.

    `optimizer`: its class, or the name of its class. A class is put to the test here, on steps of its own in float64;
    `make(params)` builds one if `cls(params)` and `cls(params, lr=...)` do not. What is known by its name only is
    tested when it is first met. `replace=True` takes the place of a rule that is there already.

    Raises `InstrumentError` for an optimizer that has a rule, or if the rule does not do what the optimizer does.
    """
    if not (isinstance(optimizer, str) or (isinstance(optimizer, type) and issubclass(optimizer, Optimizer))):
        raise InstrumentError(f"register_optimizer takes a class of optimizers or the name of one; got {optimizer!r}")
    if not isinstance(rule, Rule):
        raise InstrumentError(
            f"register_optimizer takes a neuromech.optimizers.Rule; got {type(rule).__name__}. A function of `Moving`, "
            "as in earlier releases, is taught to the laws alone: neuromech.dynamics.register"
        )
    name = optimizer if isinstance(optimizer, str) else optimizer.__name__
    if optimizer in RULES and not replace:
        raise InstrumentError(
            f"{name} has a rule already ({RULES[optimizer].source}): pass replace=True to put another in its place"
        )
    if not isinstance(optimizer, str):
        fault = fault_of_class(optimizer, rule, make)
        if fault is None:
            warn(
                f"{name}: the rule could not be tested, for no optimizer could be made; pass make=lambda params: ...",
                "rule untested",
                short=f"the rule of {name} could not be tested",
            )
        elif fault:
            raise InstrumentError(f"the rule is not that of {name}: {fault}. Nothing was registered")
    RULES[optimizer] = rule
    _CLASSES.clear()


def unregister_optimizer(optimizer: type[Optimizer] | str) -> None:
    """Forget a rule. Raises `InstrumentError` if there is none."""
    if optimizer not in RULES:
        raise InstrumentError(_nothing_called(optimizer if isinstance(optimizer, str) else optimizer.__name__))
    del RULES[optimizer]
    _CLASSES.clear()


def rule_of(optimizer: Optimizer) -> Rule | None:
    """The rule of the class of an optimizer, or of one that it inherits its `step` from; else by the class's name."""
    for cls in type(optimizer).__mro__:
        if cls in RULES and takes_step_of(optimizer, cls):
            return RULES[cls]
    return _by_name(optimizer)


def inherited_rule(optimizer: Optimizer) -> Rule | None:
    """The rule of the nearest class that an optimizer is made from, shares its settings with, and hands its step on to,
    if that is replayed element by element. A step that does all by itself is held to nothing."""
    cls = next((cls for cls in type(optimizer).__mro__ if cls in RULES), None)
    code = code_of(type(optimizer).step)
    if cls is None or code is None or "super" not in code.co_names:
        return None
    asked = inspect.signature(cls).parameters.keys() - {"params"}
    rule = RULES[cls]
    return rule if rule.local and rule.replayed and all(asked <= g.keys() for g in optimizer.param_groups) else None


def rule_named(name: str) -> Rule:
    """The rule of the optimizer called `name`. Raises `InstrumentError` if there is none; says which there are."""
    found = known_rule(name)
    if found is None:
        raise InstrumentError(_nothing_called(name))
    return found


def known_rule(name: str) -> Rule | None:
    """The rule of the optimizer called `name`, as records write it; None if there is none."""
    by_key = (r for known, r in RULES.items() if name in (known, r.key))
    by_class = (r for known, r in RULES.items() if name in (getattr(known, "__name__", ""), r.name))
    return next(chain(by_key, by_class), None)


def _by_name(optimizer: Optimizer) -> Rule | None:
    cls = type(optimizer)
    if cls not in _CLASSES:
        _CLASSES[cls] = _met(optimizer)
    return _CLASSES[cls] if takes_step_of(optimizer, cls) else None


def _met(optimizer: Optimizer) -> Rule | None:
    """The rule of a class that is known by its name, if it passes the test."""
    cls = type(optimizer)
    faults = []
    for name in (f"{cls.__module__.split('.')[0]}.{cls.__name__}", cls.__name__):
        if (found := RULES.get(name)) is not None:
            if not (fault := fault_of(optimizer, found)):
                return found
            faults.append(f"is not recognised as the {found.name} of {found.source}: {fault}")
    if faults:
        warn(
            f"{cls.__module__}.{cls.__name__} {'; '.join(faults)}. Its steps are measured; teach their rule by "
            "neuromech.register_optimizer",
            "other rule",
            short=f"{cls.__name__} is not recognised as the optimizer of that name: its steps are measured",
        )
    return None


def _nothing_called(name: str) -> str:
    names = sorted({known if isinstance(known, str) else known.__name__ for known in RULES})
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    meant = f" Did you mean {close[0]}?" if close else ""
    return f"no optimizer called {name!r} is known: there are {', '.join(names)}.{meant}"
