"""`EoMOptimizer`: a torch optimizer whose discrete steps stay on the gradient flow.

It hands its base another gradient: g - lr/2 Hg + ... (explicit, "hvp"), or an average of gradients further down, as a
Runge-Kutta method takes them ("gradients"). Whatever else the base does, momentum and decay, it goes on doing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, get_args
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import TensorWeakRef

from neuromech.compat import compiler_loaded, is_compiled, run_eagerly, version
from neuromech.eom.accumulation import Closure, Pending
from neuromech.eom.audit import check_difference, check_kinks, check_repeats, check_slope, check_small, check_waiting
from neuromech.eom.closure import Live
from neuromech.eom.corrected_gradient import Role
from neuromech.eom.derivatives import FORMS, HVPForm, MissingDerivative, Point, gradient_at
from neuromech.eom.landscape import check_parameters
from neuromech.eom.rule import check_order
from neuromech.eom.step_gradient import Follow, roles_of, rule_of, step_gradient
from neuromech.eom.terms import Backend
from neuromech.errors import EoMError
from neuromech.optimizers import takes_step_of
from neuromech.params import Params


class EoMOptimizer(Optimizer):
    """Steps of `base`, a `torch.optim.SGD` with any of its options, that follow the flow theta' = -speed * g.

    `order` is the number of counter terms: after a time of order 1 the distance to the flow is O(lr^(order+1)); order
    0 is `base`. `backend="hvp"` takes Hessian-vector products (order 1 costs about 3 gradients), "gradients" takes
    gradients further down (order 1 costs 2), and is cheaper at every order. "auto": products if the closure returns
    a loss that can be differentiated twice, else gradients (closures that run backward, compiled code, FSDP2, DDP).
    `hvp` is the form of products, see `Point`. `follow="descent"` is for research: Euler steps on the equation of
    motion, g + lr/2 Hg + ..., which double the implicit regularisation of gradient descent instead of removing it;
    base without momentum only.

    `step(closure)`: the closure evaluates the loss of *one* batch, also if it is called again; it need not call
    backward. Micro-batches: `accumulate` each, then `step()`. Where nobody passes a closure (GradScaler), set the
    attribute `closure` before the step; it is not saved. State and parameter groups are those of `base`.

    Steps 1, 2, 4, 8, .. evaluate the closure once more to see that it repeats itself. Miyagawa 2022, read backwards.

    Raises `EoMError` for a base whose steps no gradient can put on a flow, and for wrong options.
    """

    base: Optimizer
    closure: Closure | None
    steps: int

    def __init__(
        self,
        base: Optimizer,
        order: int = 1,
        follow: Follow = "flow",
        backend: Backend | Literal["auto"] = "auto",
        hvp: HVPForm = "auto",
        closure: Closure | None = None,
    ) -> None:
        _check_options(order, follow, backend, hvp)
        _check_base(base)
        for group in base.param_groups:
            _check_group(group, follow)
        self.base, self.closure = base, closure
        self.order, self.follow, self.backend, self.hvp = order, follow, backend, hvp
        self.steps = 0
        self._forget()
        groups, state, defaults = base.param_groups, base.state, base.defaults
        super().__init__([dict(group) for group in groups], dict(defaults))
        # What Optimizer.__init__ has made went through to the base: put back what was there.
        base.param_groups, base.state, base.defaults = groups, state, defaults

    def _forget(self) -> None:
        """Nothing is known yet of the closure."""
        self._pending = Pending()
        self._chosen: Backend | None = None
        self._form, self._warned, self._alike, self._parallel = "unknown", False, False, False
        self._modules = WeakSet[nn.Module]()
        self._used: dict[int, tuple[TensorWeakRef, int]] = {}  # by parameter: the gradient of a step, and its version
        self.base.register_step_post_hook(lambda *_: self._mark_used())
        self._tell()

    def _tell(self) -> None:
        """Whoever watches the base has to know: symmetries of the loss do not protect the gradients it is handed."""
        self.base.follows_flow = self.described() if self.order else {}  # type: ignore[attr-defined]

    def described(self) -> dict[str, Any]:
        """For records. `backend`: used, "auto" before the first step; `plain`: `Rule.charge_drift` if groups agree."""
        drifts = {rule_of(group).charge_drift for group in self.base.param_groups}
        return {
            "class": type(self).__name__,
            "base": type(self.base).__name__,
            "order": self.order,
            "follow": self.follow,
            "backend": self._chosen or self.backend,
            **({"plain": drifts.pop()} if len(drifts) == 1 else {}),
        }

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
            self.__dict__.update(state, closure=None)
            self._forget()
            super().__setstate__({})
        else:  # from Optimizer.load_state_dict
            self.base.__setstate__(state)

    def __repr__(self) -> str:
        options = f"order={self.order}, follow={self.follow!r}, backend={self.backend!r}"
        return f"EoMOptimizer({options}) around {self.base!r}"

    # -- a step --------------------------------------------------------------------------------------------------------

    def accumulate(self, closures: Closure | Iterable[Closure], weights: float | Sequence[float] | None = None) -> None:
        """Add micro-batches to the next step, which follows the flow of their mean, or of sum(weight * loss).

        Each closure is as that of `step`, and is called in the step only: do not run backward meanwhile. Raises
        `EoMError` for what is not a closure, or weights that do not belong to them.
        """
        self._pending.add(closures, weights)

    @property
    def pending(self) -> int:
        """How many micro-batches wait for the next step."""
        return len(self._pending)

    def evaluate(self, closure: Closure) -> Tensor:
        """The loss of a closure where the parameters stand; nothing is changed by it, buffers and generators included.

        Raises `EoMError` for what is not a loss.
        """
        values = {name: role.parameter for name, role in roles_of(self.param_groups).items()}
        before = {name: p.grad for name, p in values.items()}
        try:
            with Live(closure, values, spectator=True) as live:
                return live.look().loss.detach()
        finally:
            for name, p in values.items():
                p.grad = before[name]

    def step(self, closure: Closure | None = None) -> Any:
        """One step; returns the loss where it started. Afterwards `.grad` holds the plain gradient there.

        A closure joins those that were accumulated, if there are any: in their mean, or with weight 1 if they have any.

        Raises `EoMError` without a closure, for one that is not the loss of one batch at unchanged parameters, and if
        other gradients than the closure's wait in `.grad`.
        """
        roles = roles_of(self.param_groups)
        values: Params = {name: role.parameter for name, role in roles.items()}
        check_parameters(values)
        waiting = self._waiting(values)
        if self._pending:
            closure = self._pending.take(values.values(), closure, apart=self._backend() != "hvp")
        loss = closure or self.closure
        if loss is None:
            raise EoMError(
                "EoMOptimizer evaluates the loss itself, at more than one point: call step(closure) with a function "
                "that returns the loss of this batch, or set the attribute .closure before step()"
            )
        audit = (self.steps + 1) & self.steps == 0
        # What an audit has seen to be the same at every evaluation is trusted until the next one.
        once = (
            not audit
            and not waiting
            and self._form in ("gradient", "reverse")
            and self.order <= (self._form == "reverse")
        )
        known = set(self._modules) if compiler_loaded() and not audit else None
        before = {name: p.grad for name, p in values.items()}
        try:
            with (
                run_eagerly() if audit else nullcontext(),
                Live(loss, values, once, self._alike and not audit, parallel=self._parallel, known=known) as live,
            ):
                point, handed = self._evaluated(live, roles, waiting, audit)
                if audit:
                    self._check(live, point)
        except BaseException:
            for name, p in values.items():
                p.grad = before[name]
            raise
        self._alike, self._parallel, self._modules = live.alike, live.parallel, WeakSet(live.modules)
        for name, role in roles.items():  # a parameter that the loss does not use has to stay as it is
            role.parameter.grad = None if name in point.unused else handed[name]
        try:
            self.base.step()
        finally:
            for name, role in roles.items():
                role.parameter.grad = None if name in point.unused else point.gradient[name]
        self._mark_used()
        self.steps += 1
        return point.loss

    def _backend(self) -> Backend | None:
        """The one to take; None: that is still to be seen."""
        chosen: Backend | None = "hvp" if self.hvp != "auto" else self._chosen
        return chosen if self.backend == "auto" else self.backend

    def _mark_used(self) -> None:
        held = ((p, p.grad) for group in self.param_groups for p in group["params"])
        self._used = {id(p): (TensorWeakRef(g), version(g)) for p, g in held if g is not None}

    def _waiting(self, values: Params) -> Params:
        """Gradients in .grad that have been put there since the last step, of whoever's."""
        waiting: Params = {}
        for name, p in values.items():
            used, at = self._used.get(id(p), (None, 0))
            if p.grad is not None and (used is None or used() is not p.grad or at != version(p.grad)):
                waiting[name] = p.grad
        return waiting

    def _evaluated(self, live: Live, roles: dict[str, Role], waiting: Params, audit: bool) -> tuple[Point, Params]:
        """The point where the step starts, and the gradients with which it goes where it should."""
        backend = self._backend()
        form = "gradient" if backend == "gradients" or not self.order else self.hvp
        point = Point.on(live, form, trusted=not audit, once=self.order == 1, lenient=backend is None)
        self._form = point.form
        if waiting:
            check_waiting(waiting, point.gradient, lambda: gradient_at(live, live.here))
        if not self.order:
            return point, point.gradient
        if backend is None:
            backend = "hvp" if point.form == "reverse" and not _compiled(live) else "gradients"
        try:
            made = step_gradient(point, live, roles, self.state, self.order, self.follow, backend)
        except MissingDerivative:
            if self._backend() is not None:
                raise
            backend = "gradients"
            made = step_gradient(point, live, roles, self.state, self.order, self.follow, backend)
        if backend == "gradients":
            self._form = "gradient"
        if backend != self._chosen:
            self._chosen = backend
            self._tell()
        if audit and made.powers and not self._warned:
            self._warned = check_small(made, point.gradient, roles)
        return point, made.gradient

    def _check(self, live: Live, point: Point) -> None:
        check_kinks(check_repeats(live, point), self.order)
        own_backward = point.form in ("gradient", "difference") and self._form != "reverse"
        if own_backward and live.ran_backward and not self._warned:
            self._warned = check_slope(live, point)
        if self._backend() == "hvp" and self.order and point.form == "difference":
            check_difference(point)


def _compiled(live: Live) -> bool:
    """Whether the closure runs compiled code, which is differentiated once only."""
    if not compiler_loaded():
        return False
    return any(is_compiled(m) for m in live.modules)


def _check_options(order: int, follow: str, backend: str, hvp: str) -> None:
    check_order(order)
    for name, value, known in (
        ("follow", follow, get_args(Follow)),
        ("backend", backend, ("auto", *get_args(Backend))),
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
    if rule_of(group).momentum and follow == "descent":
        raise EoMError("follow='descent' is Euler's method on the equation of motion: it has no momentum; set it to 0")
