"""The book as a table: for the documentation, and for whoever asks what is known of an optimizer."""

from __future__ import annotations

from typing import NamedTuple

from neuromech.optimizers.registry import OWN, RULES
from neuromech.optimizers.rule import Rule, no_decay, no_flow


class KnownOptimizer(NamedTuple):
    """What is known of one optimizer, in words.

    `known_by`: "class", or "name" for one that torch does not have, which is put to the test when it is first met.
    """

    name: str
    package: str
    known_by: str
    settings: str
    weight_decay: str
    laws: str
    monitor: str
    flow: str
    update_grows_with_gradient: str
    source: str


def optimizer_table() -> list[KnownOptimizer]:
    """One row for each optimizer that has a rule: those of neuromech first, then those that were registered."""
    known = {id(rule): key for key, rule in RULES.items()}
    order = {id(rule): i for i, rule in enumerate(OWN)}
    rules = sorted(RULES.values(), key=lambda rule: order.get(id(rule), len(order)))
    return [_row(rule, "name" if isinstance(known[id(rule)], str) else "class") for rule in rules]


def _row(rule: Rule, known_by: str) -> KnownOptimizer:
    decay = "none"
    if {"decoupled_weight_decay", "weight_decouple"} & set(rule.settings):
        decay = "coupled or decoupled"
    elif "weight_decay" in rule.settings:
        decay = "decoupled" if rule.decay is not no_decay and rule.decoupled({}) else "coupled"
    return KnownOptimizer(
        rule.name,
        rule.package or ("torch" if known_by == "class" else "any"),
        known_by,
        ", ".join(rule.settings),
        decay,
        "exact: symmetries protect the charges" if rule.exact else "rebuilt: the torque of the update is measured",
        "weights and state, on a sample" if rule.local else "weights and state of one tensor a step, in turn",
        "yes" if rule.flow is not no_flow else "no",
        {1: "in proportion", 0: "no", -1: "no; it is relative to the weights"}[rule.power],
        rule.source,
    )
