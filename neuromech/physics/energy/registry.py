"""`register_rule`: the door for operators that have no discrete chain rule yet, the user's own above all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from neuromech.errors import PhysicsError
from neuromech.physics.energy.composites import COMPOSITES
from neuromech.physics.energy.pair_rules import PAIRS
from neuromech.physics.energy.rules import BILINEAR, LINEAR, QUADRATIC, SECANTS, SOFTMAX
from neuromech.physics.energy.secants import pointwise

RuleKind = Literal["linear", "bilinear", "quadratic", "secant", "pointwise", "composite", "pair"]
_TABLES: dict[str, Any] = {
    "linear": LINEAR, "bilinear": BILINEAR, "quadratic": QUADRATIC, "secant": SECANTS, "pointwise": SECANTS,
    "composite": COMPOSITES, "pair": PAIRS,
}  # fmt: skip


def register_rule(
    operator: str, kind: RuleKind, rule: Callable[..., Any] | None = None, *, replace: bool = False
) -> None:
    """Give an operator, "lgamma" of torch's own or "mylib::op", its discrete chain rule.

    linear, bilinear, quadratic   of degree 1 or 2 in what varies, by autograd's derivative; no `rule`
    secant      y_i = f(x_i): rule(a, b, f(a), f(b)) is (f(a) - f(b))/(a - b), f'(a) where a = b
    pointwise   the same, made of the derivative: rule(x) = f'(x), for f smooth on lengths of 1
    composite   rule(*arguments) writes the operator in others that have rules
    pair        rule(g, arguments at u, at v, output at u, at v, keywords): a cotangent for every argument

    Whatever is registered is checked where it is used: every call of a discrete gradient looks at the identity.
    Raises `PhysicsError` for an operator that does not exist, and for one that has a rule, unless `replace`.
    """
    if kind not in _TABLES:
        raise PhysicsError(f"the kind of rule {kind!r} is not one of {', '.join(_TABLES)}")
    if (rule is None) != (kind in ("linear", "bilinear", "quadratic")):
        how = "by a function" if rule is None else "by its kind alone: leave the function out"
        raise PhysicsError(f"a {kind} rule is given {how}")
    name = operator.removeprefix("aten::")
    space, _, short = name.rpartition("::")
    if not hasattr(getattr(torch.ops, space or "aten"), short):
        raise PhysicsError(f"there is no operator {operator!r} in torch.ops: say its name as 'lgamma' or 'mylib::op'")
    known = [table for table in (*_TABLES.values(), SOFTMAX) if name in table]
    if known and not replace:
        raise PhysicsError(f"the operator {operator!r} has a rule: pass replace=True to use another")
    for table in known:
        table.discard(name) if isinstance(table, set) else table.pop(name, None)
    table = _TABLES[kind]
    if isinstance(table, set):
        table.add(name)
    elif table is SECANTS:
        made = pointwise(rule) if kind == "pointwise" and rule is not None else rule
        SECANTS[name] = lambda *args, **kwargs: made
    else:
        table[name] = rule
