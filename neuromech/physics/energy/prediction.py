"""Prediction: a model stepped on from given states, each step looked at if one likes.

Times, inputs and conditions may change from step to step: what a step sees of them is their value in its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuromech.compat import uncompiled
from neuromech.errors import ConvergenceError, PhysicsError
from neuromech.physics.energy.model import EnergyModel, step_size
from neuromech.physics.energy.states import check_tensors
from neuromech.physics.energy.stepping import ImplicitStep, Solver

StepSizes = float | Sequence[float] | Tensor
Acting = Tensor | Callable[[Tensor], Tensor]
_TRIPLE_JUMP = (1 / (2 - 2 ** (1 / 3)), 1 - 2 / (2 - 2 ** (1 / 3)), 1 / (2 - 2 ** (1 / 3)))


@dataclass(frozen=True)
class Rollout:
    """States `u` [steps + 1, B, ...] at the times `t` [steps + 1], or [steps + 1, B] where each sample has its own.

    `identity` [steps, B]: of a rollout that was verified, |<DH, u1 - u0> - (H(u1) - H(u0))| of each step, relative to
    the size of its terms. `law` [steps, B]: what the step added to the energy beside the power of inputs, 0 where it
    conserves, not positive where it dissipates.
    """

    t: Tensor
    u: Tensor
    identity: Tensor | None = None
    law: Tensor | None = None


def rollout(
    model: nn.Module,
    u0: Tensor,
    dt: StepSizes | None = None,
    steps: int | None = None,
    *,
    t: Sequence[float] | Tensor | None = None,
    inputs: Acting | None = None,
    condition: Acting | None = None,
    order: Literal[2, 4] = 2,
    solver: Solver | None = None,
    verify: bool = False,
) -> Rollout:
    """Predict from `u0` [B, ...] with `steps` steps of `dt`, the steps listed in `dt`, or at the times `t`.

    `dt`: a number; [steps]; or [steps, B], steps of each sample's own. `t`: times instead, [T] or [T, B], the first is
    that of u0. `inputs`: of structures with ports, [steps, B, k] or a function of time to [B, k]. `condition`: what the
    energy takes beside the state, [B, ...], [steps, B, ...] or a function of time. `order` 4: three steps of order 2
    for one (Yoshida's triple jump; the middle one goes back in time, so the structure must conserve). With gradients
    on, they flow through all steps. `verify`: look at the identity and the law of every step of every sample; it costs
    about two evaluations of the energy and one of its gradient a step.

    Raises `ConvergenceError` (whose `states` are those reached until then) and `PhysicsError`.
    """
    model = unwrapped(model)
    if solver is not None and not isinstance(solver, Solver):
        raise PhysicsError(f"the solver is {type(solver).__name__}; expected a Solver, as Solver('krylov')")
    if order not in (2, 4):
        raise PhysicsError(f"steps are of order 2 or 4, not {order}")
    if order == 4 and model.structure.law != "conserves":
        raise PhysicsError("order 4 steps back in time, where a structure that dissipates is unstable: use order 2")
    model.check_states(u0)
    plan = schedule(u0, dt, steps, t, inputs, condition)
    sizes = plan.sizes
    if not sizes:
        model.check(u0, None if model.structure.inputs == 0 else u0.new_zeros(len(u0), model.structure.inputs))
    fractions = (1.0,) if order == 2 else _TRIPLE_JUMP
    steppers = {c: ImplicitStep(model.between, solver) for c in fractions}
    states, seen, extrapolation = [u0], [], Extrapolation()
    for k, size in enumerate(sizes):
        given = plan.acting(k)
        u = states[-1]
        if k == 0 or callable(inputs) or callable(condition):  # else nothing of the user's runs in between
            model.check(u0, **given)
            look = model.discrete_gradient.look if k == 0 else model.discrete_gradient.guard
            look(u, given["condition"])
        guess = extrapolation.next(u, size) if order == 2 else None
        for c in fractions:
            steppers[c].velocity = partial(model.between, **given)  # type: ignore[arg-type]
            steppers[c].starting = partial(model.starting, **given)  # type: ignore[arg-type]
            last = u
            try:
                u = steppers[c](last, c * size, guess)
            except ConvergenceError as error:
                error.states = torch.stack(states)
                error.add_note(f"in step {k + 1} of {len(sizes)}; the states before it are in the error's `states`")
                raise
            if verify or k == 0:
                seen.append(check_step(model, last, u, _over(c * size, u), k, **given))
        states.append(u)
    identity = law = None
    if verify and seen:
        identity = torch.stack([x for x, _ in seen]).unflatten(0, (-1, len(fractions))).amax(1)
        law = torch.stack([x for _, x in seen]).unflatten(0, (-1, len(fractions))).sum(1)
    return Rollout(torch.stack(plan.times), torch.stack(states), identity, law)


class Extrapolation:
    """Where the next state will be, by the polynomial through the last ones that would have foretold this one best."""

    HIGHEST = 7

    def __init__(self) -> None:
        self.differences: Tensor | None = None  # of the states, backward, from order 0 on: [order, B, ...]
        self.size: Tensor | None = None

    @torch.no_grad()
    def next(self, u: Tensor, size: Tensor) -> Tensor:
        """The guess for the state a step `size` after `u`."""
        last, before, u = self.differences, self.size, u.detach()
        self.size = size
        if last is None or before is None:
            self.differences = u[None]
            return u
        if size is not before and not torch.equal(size, before):  # a straight line
            self.differences = u[None]
            return u + _over(size, u) / _over(before, u) * (u - last[0])
        made = self.differences = torch.cat([u[None], u - last[: self.HIGHEST].cumsum(0)])
        if len(made) == 2:
            return u + made[1]
        missed = made[1:].abs().flatten(1).amax(1).tolist()
        return made[: 1 + min(range(len(missed)), key=missed.__getitem__)].sum(0)


def unwrapped(model: nn.Module) -> EnergyModel:
    """The energy model inside of what replicates or compiles it."""
    inner: object = model
    while not isinstance(inner, EnergyModel):
        plain = uncompiled(inner) if isinstance(inner, nn.Module) else None
        inner = getattr(inner, "module", None) if plain is None else plain
        if inner is None:
            own = "; it has its own, model.rollout(u0, dt, steps)" if hasattr(model, "rollout") else ""
            raise PhysicsError(f"a rollout is of an EnergyModel, not of {type(model).__name__}{own}")
    return inner


def _over(size: Tensor, u: Tensor) -> Tensor:
    return size.reshape([-1] + [1] * (u.ndim - 1)) if size.ndim else size


@dataclass(frozen=True)
class Schedule:
    """When steps are made and what acts in them: `times` of the states, `sizes` of the steps, each () or [B]."""

    times: list[Tensor]
    sizes: list[Tensor]
    inputs: Acting | None
    condition: Acting | None
    samples: int

    def acting(self, k: int) -> dict[str, Tensor | None]:
        """Inputs and condition of step k, taken in its middle."""
        at, steps = self.times[k] + self.sizes[k] / 2, len(self.sizes)
        return {
            "inputs": _acting(self.inputs, "inputs", steps, self.samples, k, at),
            "condition": _acting(self.condition, "condition", steps, self.samples, k, at),
        }


def schedule(
    u0: Tensor,
    dt: StepSizes | None,
    steps: int | None,
    t: Sequence[float] | Tensor | None,
    inputs: Acting | None,
    condition: Acting | None,
) -> Schedule:
    """What `rollout` is asked for. Raises `PhysicsError` where it is not a plan."""
    start, sizes = _sizes(u0, dt, steps, t)
    times = [start]
    for size in sizes:
        times.append(times[-1] + size)
    for values, name in ((inputs, "inputs"), (condition, "condition")):
        if not callable(values):
            _acting(values, name, len(sizes), len(u0), 0, start)
    return Schedule(times, sizes, inputs, condition, len(u0))


def _sizes(
    u0: Tensor, dt: StepSizes | None, steps: int | None, t: Sequence[float] | Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """The first time and the size of every step, each () or [B]."""
    like = partial(torch.as_tensor, dtype=u0.dtype, device=u0.device)
    if t is not None:
        if dt is not None or steps is not None:
            raise PhysicsError("times t say all about the steps: leave dt and steps out")
        try:
            times = like(t)
        except (TypeError, ValueError) as error:
            raise PhysicsError(f"t is not a list of times ({error})") from error
        if times.ndim not in (1, 2) or len(times) < 1 or (times.ndim == 2 and times.shape[1] != len(u0)):
            raise PhysicsError(f"times have shape {tuple(times.shape)}; expected [T], or [T, {len(u0)}], one a sample")
        sizes = times.diff(dim=0)
        if not torch.isfinite(times).all() or not (sizes != 0).all():
            bad = (~torch.isfinite(sizes) | (sizes == 0)).nonzero()[:1].tolist()
            raise PhysicsError(f"two times in a row are equal, or one is not finite, the first at {bad}: drop it")
        return times[0], list(sizes)
    if dt is None:
        raise PhysicsError("say how long a step is (dt), or at which times to predict (t)")
    start = like(0.0)
    if isinstance(dt, (int, float)) or (isinstance(dt, Tensor) and dt.ndim == 0):
        if not isinstance(steps, int | np.integer) or isinstance(steps, bool) or steps < 0:
            raise PhysicsError(f"say how many steps, or list their sizes in dt; {steps!r} is not a number of steps")
        return start, [like(dt)] * int(steps)
    if isinstance(dt, str) or not isinstance(dt, (Sequence, Tensor, np.ndarray)):
        raise PhysicsError(f"dt is {dt!r}; expected a number, or the sizes of the steps")
    if steps is not None and steps != len(dt):
        raise PhysicsError(f"dt lists {len(dt)} steps, and steps is {steps}: leave one of them out")
    try:
        sizes = like(dt)
    except (TypeError, ValueError) as error:
        raise PhysicsError(f"dt is not a list of step sizes ({error})") from error
    if sizes.ndim > 2 or (sizes.ndim == 2 and sizes.shape[1] != len(u0)):
        raise PhysicsError(
            f"dt has shape {tuple(sizes.shape)}; expected a number, [steps], or [steps, {len(u0)}], one a sample"
        )
    for size in sizes:
        step_size(size, u0)
    return torch.zeros_like(sizes[0]) if len(sizes) else start, list(sizes)


def _acting(values: Acting | None, name: str, steps: int, samples: int, k: int, at: Tensor) -> Tensor | None:
    """What acts in step k, whose middle is at the time `at`."""
    if values is None:
        return None
    if callable(values):
        found = values(at)
        if not isinstance(found, Tensor):
            raise PhysicsError(f"{name}(t) gives {type(found).__name__}; expected a tensor, one row a sample")
        return found
    check_tensors(**{name: values})
    if name == "condition" and values.ndim and len(values) == samples and (values.ndim < 3 or steps != len(values)):
        return values
    if not values.ndim or len(values) != steps:
        count = len(values) if values.ndim else 0
        raise PhysicsError(f"there are {name} for {count} steps, and {steps} steps to take")
    return values[k] if steps else None


def check_step(
    model: EnergyModel, u0: Tensor, u1: Tensor, dt: Tensor, k: int, inputs: Tensor | None, condition: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The identity and the law of a step, of every sample: see `Rollout`. Raises `PhysicsError` where one is broken."""
    dg, structure = model.discrete_gradient, model.structure
    with torch.no_grad():
        u0, u1 = u0.detach(), u1.detach()
        g = dg.unchecked(u1, u0, condition)
        before, after = dg.value(u0, condition), dg.value(u1, condition)
        one_a_sample = before.ndim > 0

        def inner(x: Tensor) -> Tensor:
            return x.flatten(1).sum(1) if one_a_sample else x.sum()

        middle = (u0 + u1) / 2
        flow, free = structure(g, middle, inputs), structure(g, middle, None)
        terms, change = g * (u1 - u0), after - before
        size = before.abs() + after.abs() + inner(terms.abs())
        identity = (inner(terms) - change).abs() / size.clamp_min(torch.finfo(u0.dtype).tiny)
        law = change - inner(dt * g * (flow - free))
        slack = inner((g * (u1 - u0 - dt * flow)).abs()) + 1e4 * torch.finfo(u0.dtype).eps * size
    promise = getattr(getattr(structure, "structure", structure), "law", "open")
    broken = identity > torch.finfo(u0.dtype).eps ** 0.5 if dg.form != "average" else torch.zeros_like(identity).bool()
    lost = {"conserves": law.abs(), "dissipates": law}.get(promise, torch.zeros_like(law)) > slack
    if dg.form != "average" and (bool(broken.any()) or bool(lost.any())):
        where = (broken | lost).reshape(-1).nonzero().reshape(-1).tolist()
        raise PhysicsError(
            f"step {k + 1} breaks its promise for samples {where[:8]}: the identity is off by up to "
            f"{float(identity.max()):.2g} (relative), and the energy, which the structure {promise}, changes by "
            f"{float(law.reshape(-1)[where[0]]):.2g} beside its inputs. Does the energy, or the structure, change "
            "while the model is stepped?"
        )
    return identity.reshape(-1), law.reshape(-1)
