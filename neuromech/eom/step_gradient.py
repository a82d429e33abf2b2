"""The gradient to hand to the base for one step, by either backend, from a point and its derivatives."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from neuromech.eom.closure import Live
from neuromech.eom.corrected_gradient import Role, Slope, hand_over
from neuromech.eom.derivatives import Point, gradient_at
from neuromech.eom.landscape import Terms
from neuromech.eom.rule import Rule
from neuromech.eom.terms import (
    TABLEAUS,
    Backend,
    counter_terms,
    flow_gradient_by_gradients,
    lie_powers,
    lie_powers_by_gradients,
    motion_by_gradients,
    runge_kutta,
)
from neuromech.optimizers import rule_named
from neuromech.params import Params, combine

Follow = Literal["flow", "descent"]
BaseState = MutableMapping[Any, Any]
MEMORY = "eom_memory"  # in the state of a parameter, beside the momentum buffer that it describes


class StepGradient(NamedTuple):
    """`gradient` goes to the base. Where it is a sum over Lie powers: these, and their coefficients by parameter."""

    gradient: Params
    powers: Sequence[Params] = ()
    coefficients: Sequence[tuple[float, ...]] = ()


def step_gradient(
    point: Point,
    live: Live,
    roles: dict[str, Role],
    state: BaseState,
    order: int,
    follow: Follow,
    backend: Backend,
) -> StepGradient:
    """With it the base's step goes where it should. `state` of the base remembers what momentum was handed."""
    theta, plain = live.here, not any(role.rule.momentum for role in roles.values())
    if backend == "gradients" and follow == "flow" and order in TABLEAUS and (one := _one(roles)):

        def shifted(shift: Terms) -> Params:
            return gradient_at(live, shift=shift)

        return StepGradient(runge_kutta(shifted, point.gradient, theta, one.w, order, one.rule.weight_decay, one.sign))
    slope = Slope(roles)
    explicit = slope.derivative(point.derivative, theta)
    field = slope.field(lambda at: gradient_at(live, at), theta, point.gradient)
    extra: Params | None = None
    if follow == "descent" and backend == "hvp":
        extra = combine([(1.0, xi) for xi in counter_terms(explicit, order)])
    elif follow == "descent":
        extra = combine([(-1.0, motion_by_gradients(field, theta, Rule(), 1.0, order)), (-1.0, field(theta))])
    elif backend == "gradients" and order in TABLEAUS and plain:
        step = flow_gradient_by_gradients(field, theta, 1.0, order)
        extra = combine([(1.0, step), (-1.0, field(theta))])
    if extra is not None:
        return StepGradient(slope.handed([{}, extra], [(1.0, 1.0)] * len(roles), point.gradient, theta))
    powers = list(lie_powers(explicit, order)) if backend == "hvp" else lie_powers_by_gradients(field, theta, order)
    coefficients = [_next(role, state, order, name not in point.unused) for name, role in roles.items()]
    return StepGradient(slope.handed(powers, coefficients, point.gradient, theta), powers, coefficients)


def roles_of(groups: list[dict[str, Any]]) -> dict[str, Role]:
    """Every parameter that may move, by its name or its place."""
    roles: dict[str, Role] = {}
    for i, group in enumerate(groups):
        rule, sign = rule_of(group), -1.0 if group["maximize"] else 1.0
        names = group.get("param_names") or [f"parameter {j} of group {i}" for j in range(len(group["params"]))]
        for name, p in zip(names, group["params"], strict=True):
            if p.requires_grad:
                roles[name] = Role(p, rule, float(group["lr"]), sign)
    return roles


def rule_of(group: dict[str, Any]) -> Rule:
    """The rule of a param group of `torch.optim.SGD`."""
    return _rule(**rule_named("SGD").flow(group))  # type: ignore[arg-type]


_rule = lru_cache(maxsize=64)(Rule)


def _next(role: Role, optimizer_state: BaseState, order: int, used: bool) -> tuple[float, ...]:
    """The coefficients of this parameter's next gradient; its memory moves on."""
    if not role.rule.momentum:
        return _steady(role.rule, role.lr, order, None).gradient
    state = optimizer_state.get(role.parameter, {})
    first = state.get("momentum_buffer") is None
    # A buffer that plain steps have left is, to lowest order, speed * gradient.
    memory = None if first else tuple(state.get(MEMORY) or (role.rule.speed, *[0.0] * order))
    handed = _steady(role.rule, role.lr, order, memory)
    if used:
        optimizer_state[role.parameter][MEMORY] = list(handed.memory)
    return handed.gradient


def _one(roles: dict[str, Role]) -> Role | None:
    """Any of the roles, if all are the same, without momentum: then nothing has to be scaled there and back."""
    first, *others = roles.values()
    if first.rule.momentum or any(role[1:] != first[1:] for role in others):
        return None
    return first


_steady = lru_cache(maxsize=1024)(hand_over)  # parameters of a group share their numbers
