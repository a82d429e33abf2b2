"""`EoMOptimizer`: a torch optimizer whose discrete steps stay on the gradient flow.

It hands its base another gradient: g - lr/2 Hg + ... (explicit, "hvp"), or an average of gradients further down, as a
Runge-Kutta method takes them ("gradients"). Whatever else the base does, momentum and decay, it goes on doing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, get_args

import torch
from torch.optim import Optimizer

from neuromech.eom.audit import check_difference, check_repeats, check_scale, check_small
from neuromech.eom.closure import Closure, Live
from neuromech.eom.corrected_gradient import Role, Slope, hand_over
from neuromech.eom.derivatives import FORMS, HVPForm, Point, gradient_at
from neuromech.eom.landscape import Terms, check_parameters
from neuromech.eom.rule import Rule, check_order
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
from neuromech.errors import EoMError
from neuromech.optimizers import rule_named, takes_step_of
from neuromech.params import Params, combine

Follow = Literal["flow", "descent"]
MEMORY = "eom_memory"  # in the state of a parameter, beside the momentum buffer that it describes


class EoMOptimizer(Optimizer):
    """Steps of `base`, a `torch.optim.SGD` with any of its options, that follow the flow theta' = -speed * g.

    `order` is the number of counter terms: after a time of order 1 the distance to the flow is O(lr^(order+1)); order
    0 is `base`. `backend="hvp"` takes Hessian-vector products (order 1 costs about 3 gradients), "gradients" takes
    gradients further down (order 1 costs 2), and is cheaper at every order. `hvp` is the form of derivatives, see
    `Point`. `follow="descent"` is for research: Euler steps on the equation of motion, g + lr/2 Hg + ..., which
    double the implicit regularisation of gradient descent instead of removing it; base without momentum only.

    `step(closure)`: the closure evaluates the loss of *one* batch, also if it is called again; it need not call
    backward (if it does, derivatives are taken as differences). Where nobody passes one (GradScaler, Hugging Face's
    Trainer), set the attribute `closure` before the step; it is not saved. State and parameter groups are those of
    `base`.

    Steps 1, 2, 4, 8, .. evaluate the closure once more to see that it repeats itself. Miyagawa 2022, read backwards.

    Raises `EoMError` for a base whose steps no gradient can put on a flow, and for wrong options.
    """

    base: Optimizer
    closure: Closure | None

    def __init__(
        self,
        base: Optimizer,
        order: int = 1,
        follow: Follow = "flow",
        backend: Backend = "hvp",
        hvp: HVPForm = "auto",
        closure: Closure | None = None,
    ) -> None:
        _check_options(order, follow, backend, hvp)
        _check_base(base)
        for group in base.param_groups:
            _check_group(group, follow)
        self.base, self.closure = base, closure
        self.order, self.follow, self.backend, self.hvp = order, follow, backend, hvp
        # Whoever watches the base has to know: symmetries of the loss do not protect the gradients that it is handed.
        told = {"order": order, "follow": follow, "backend": backend}
        base.follows_flow = told if order > 0 else {}  # type: ignore[attr-defined]
        self.steps = 0
        self._form, self._warned, self._alike, self._parallel = "unknown", False, False, False
        groups, state, defaults = base.param_groups, base.state, base.defaults
        super().__init__([dict(group) for group in groups], dict(defaults))
        # What Optimizer.__init__ has made went through to the base: put back what was there.
        base.param_groups, base.state, base.defaults = groups, state, defaults

    # -- the state is the base's ---------------------------------------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As `Optimizer.add_param_group`; the group joins the base."""
        _check_group(self.defaults | param_group, self.follow)
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The state of the base, and beside it what makes the wrapper: plain data, fit for `weights_only=True`."""
        return {**super().state_dict(), "eom": {"order": self.order, "follow": self.follow, "steps": self.steps}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of this class, or of the base alone, whose buffer is then taken for a steady one.

        Raises `EoMError` if the state was made with another order or `follow`.
        """
        options = state_dict.get("eom", {})
        for name in ("order", "follow"):
            mine = getattr(self, name)
            if options.get(name, mine) != mine:
                raise EoMError(
                    f"the saved state is of {name}={options[name]!r}, this EoMOptimizer has {name}={mine!r}: its "
                    "momentum buffers mean something else; make the wrapper as it was"
                )
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "eom"})
        self.steps = int(options.get("steps", 0))

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("base", "order", "follow", "backend", "hvp", "steps")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "base" in state:  # a copy or a pickle
            self.__dict__.update(state, closure=None, _form="unknown", _warned=False, _alike=False, _parallel=False)
            super().__setstate__({})
        else:  # from Optimizer.load_state_dict
            self.base.__setstate__(state)

    def __repr__(self) -> str:
        options = f"order={self.order}, follow={self.follow!r}, backend={self.backend!r}"
        return f"EoMOptimizer({options}) around {self.base!r}"

    # -- a step --------------------------------------------------------------------------------------------------------

    def step(self, closure: Closure | None = None) -> Any:
        """One step; returns the loss where it started. Afterwards `.grad` holds the plain gradient there.

        Raises `EoMError` without a closure, or for one that is not the loss of one batch at unchanged parameters.
        """
        closure = closure or self.closure
        if closure is None:
            raise EoMError(
                "EoMOptimizer evaluates the loss itself, at more than one point: call step(closure) with a function "
                "that returns the loss of this batch, or set the attribute .closure before step()"
            )
        roles = self._roles()
        values: Params = {name: role.parameter for name, role in roles.items()}
        check_parameters(values)
        audit = (self.steps + 1) & self.steps == 0
        once = not audit and (
            (self.order == 0 and self._form == "gradient")
            or (self.backend == "hvp" and self._form == "reverse" and self.order == 1)
        )
        # What an audit has seen to be the same at every evaluation is trusted until the next one.
        waiting = {name: p.grad for name, p in values.items() if audit and p.grad is not None}
        with Live(closure, values, once, self._alike and not audit, parallel=self._parallel) as live:
            form = self.hvp if self.backend == "hvp" and self.order else "gradient"
            point = Point.on(live, form, trusted=not audit, once=self.order == 1)
            self._form = point.form
            handed = self._handed(point, live, roles, audit)
            if audit:
                check_repeats(live, point)
                check_scale(waiting, point.gradient)
                if self.backend == "hvp" and self.order and point.form == "difference":
                    check_difference(point)
        self._alike, self._parallel = live.alike, live.parallel
        for name, role in roles.items():  # a parameter that the loss does not use has to stay as it is
            role.parameter.grad = None if name in point.unused else handed[name]
        try:
            self.base.step()
        finally:
            for name, role in roles.items():
                role.parameter.grad = None if name in point.unused else point.gradient[name]
        self.steps += 1
        return point.loss

    def _roles(self) -> dict[str, Role]:
        """Every parameter that may move, by its name or its place."""
        roles: dict[str, Role] = {}
        for i, group in enumerate(self.param_groups):
            rule, sign = _rule_of(group), -1.0 if group["maximize"] else 1.0
            names = group.get("param_names") or [f"parameter {j} of group {i}" for j in range(len(group["params"]))]
            for name, p in zip(names, group["params"], strict=True):
                if p.requires_grad:
                    roles[name] = Role(p, rule, float(group["lr"]), sign)
        return roles

    def _handed(self, point: Point, live: Live, roles: dict[str, Role], audit: bool) -> Params:
        """The gradients with which the base's step goes where it should."""
        if self.order == 0:
            return point.gradient
        theta = live.here
        if self.backend == "gradients" and self.follow == "flow" and self.order in TABLEAUS and (one := _one(roles)):

            def shifted(shift: Terms) -> Params:
                return gradient_at(live, shift=shift)

            return runge_kutta(shifted, point.gradient, theta, one.w, self.order, one.rule.weight_decay, one.sign)
        slope = Slope(roles)
        explicit = slope.derivative(point.derivative, theta)
        field = slope.field(lambda at: gradient_at(live, at), theta, point.gradient)
        if self.follow == "descent":
            if self.backend == "hvp":
                extra = combine([(1.0, xi) for xi in counter_terms(explicit, self.order)])
            else:
                extra = combine(
                    [(-1.0, motion_by_gradients(field, theta, Rule(), 1.0, self.order)), (-1.0, field(theta))]
                )
            return slope.handed([{}, extra], [(1.0, 1.0)] * len(roles), point.gradient, theta)
        if self.backend == "gradients" and self.order in TABLEAUS and not any(r.rule.momentum for r in roles.values()):
            step = flow_gradient_by_gradients(field, theta, 1.0, self.order)
            extra = combine([(1.0, step), (-1.0, field(theta))])
            return slope.handed([{}, extra], [(1.0, 1.0)] * len(roles), point.gradient, theta)
        if self.backend == "hvp":
            powers = list(lie_powers(explicit, self.order))
        else:
            powers = lie_powers_by_gradients(field, theta, self.order)
        coefficients = [self._next(role, name not in point.unused) for name, role in roles.items()]
        handed = slope.handed(powers, coefficients, point.gradient, theta)
        if audit and not self._warned:
            self._warned = check_small(handed, coefficients, powers, point.gradient, roles)
        return handed

    def _next(self, role: Role, used: bool) -> tuple[float, ...]:
        """The coefficients of this parameter's next gradient; its memory moves on."""
        if not role.rule.momentum:
            return _steady(role.rule, role.lr, self.order, None).gradient
        state = self.state.get(role.parameter, {})
        first = state.get("momentum_buffer") is None
        # A buffer that plain steps have left is, to lowest order, speed * gradient.
        memory = None if first else tuple(state.get(MEMORY) or (role.rule.speed, *[0.0] * self.order))
        handed = _steady(role.rule, role.lr, self.order, memory)
        if used:
            self.state[role.parameter][MEMORY] = list(handed.memory)
        return handed.gradient


def _one(roles: dict[str, Role]) -> Role | None:
    """Any of the roles, if all are the same, without momentum: then nothing has to be scaled there and back."""
    first, *others = roles.values()
    if first.rule.momentum or any(role[1:] != first[1:] for role in others):
        return None
    return first


_steady = lru_cache(maxsize=1024)(hand_over)  # parameters of a group share their numbers


_rule = lru_cache(maxsize=64)(Rule)


def _rule_of(group: dict[str, Any]) -> Rule:
    """Of a param group of SGD."""
    return _rule(**rule_named("SGD").flow(group))  # type: ignore[arg-type]


def _check_options(order: int, follow: str, backend: str, hvp: str) -> None:
    check_order(order)
    for name, value, known in (
        ("follow", follow, get_args(Follow)),
        ("backend", backend, get_args(Backend)),
        ("hvp", hvp, FORMS),
    ):
        if value not in known:
            raise EoMError(f"{name} is {value!r}: it has to be one of {', '.join(map(repr, known))}")
    if backend == "gradients" and hvp != "auto":
        raise EoMError(
            f"backend='gradients' takes no Hessian-vector products, so hvp={hvp!r} means nothing: leave it out"
        )


def _check_base(base: Any) -> None:
    if not isinstance(base, Optimizer):
        raise EoMError(
            f"base has to be a torch optimizer, EoMOptimizer(torch.optim.SGD(..)); got {type(base).__name__}"
        )
    if isinstance(base, EoMOptimizer):
        raise EoMError("base follows the flow already: an EoMOptimizer around another corrects twice")
    if not isinstance(base, torch.optim.SGD) or not takes_step_of(base, torch.optim.SGD):
        name = type(base).__name__
        raise EoMError(
            f"{name} cannot be put on a flow by the gradient that it is given: torch.optim.SGD can, with all its "
            "options. Steps have to be linear in the gradient; those of Adam, RMSprop, Lion or Muon hardly depend on "
            "its length. To see the flow that Adam, AdamW or RMSprop follow, use neuromech.eom.flow_of"
        )


def _check_group(group: dict[str, Any], follow: str) -> None:
    if _rule_of(group).momentum and follow == "descent":
        raise EoMError("follow='descent' is Euler's method on the equation of motion: it has no momentum; set it to 0")
