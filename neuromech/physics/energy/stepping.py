"""Prediction: every step of a discrete-gradient model solves F(u1) = u1 - u0 - dt * velocity(u0, u1) = 0.

Newton's method on the whole batch. Dense: one Jacobian a sample, inverted once and kept over iterations and steps for
as long as it still contracts, corrected by what every iteration tells of it (Broyden 1965, the good update): several
times cheaper than fresh Jacobians. Krylov: the Jacobian is never formed, scipy's GMRES sees its products with vectors;
for states of thousands of entries.

The energy's error a step is <DH, F>, so it is at the level of the tolerance, of no sign, and does not grow by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from neuromech.compat import load_forward_mode
from neuromech.errors import ConvergenceError, PhysicsError
from neuromech.physics.energy.discrete import check_finite
from neuromech.physics.energy.model import EnergyModel, step_size

if TYPE_CHECKING:
    import numpy as np

Velocity = Callable[[Tensor, Tensor], Tensor]
Solve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solver:
    """How implicit steps are solved.

    `tolerance`: of max |F| relative to 1 + max |u|, of every sample. None: as far as F still falls, which ends in its
    rounding; what stops falling above 1000 times the rounding of the dtype (2e-13 in float64) counts as not solved.
    `refresh`: the Jacobian is made anew when an iteration has reduced a residual by less than this factor. `chunk`:
    columns of a Jacobian made at a time.
    """

    method: Literal["dense", "krylov"] = "dense"
    tolerance: float | None = None
    iterations: int = 50
    refresh: float = 0.5
    chunk: int = 256

    def __post_init__(self) -> None:
        if self.method not in ("dense", "krylov"):
            raise PhysicsError(f"method {self.method!r} is not one of 'dense', 'krylov'")
        if self.iterations < 1 or (self.tolerance is not None and not self.tolerance > 0):
            raise PhysicsError("a solver makes at least one iteration, to a tolerance above 0")
        if not 0 < self.refresh <= 1 or self.chunk < 1:
            raise PhysicsError("refresh is a factor above 0 and at most 1, and chunk at least one column")


@dataclass(frozen=True)
class Rollout:
    """States `u` [steps + 1, B, ...] at the times `t` [steps + 1]."""

    t: Tensor
    u: Tensor


class ImplicitStep:
    """u0 -> u1 for a velocity between two states, keeping what it has factored from one call to the next."""

    def __init__(self, velocity: Velocity, solver: Solver | None = None) -> None:
        self.velocity, self.solver = velocity, solver or Solver()
        self._solve: Solve | None = None
        self._at: tuple[object, ...] = ()

    def __call__(self, u0: Tensor, dt: float | Tensor, guess: Tensor | None = None) -> Tensor:
        """The state [B, ...] after a step. With gradients on, they flow by the implicit function theorem.

        Raises `ConvergenceError` naming the samples whose equation was not solved, and `PhysicsError` for a bad `dt` or
        a state that is not finite.
        """
        steps = step_size(dt, u0)
        check_finite(u0, "the state before the step")
        if self._at != (made := (u0.shape, u0.dtype, u0.device, steps.shape, *steps.reshape(-1).tolist()[:1])):
            self._solve, self._at = None, made
        with torch.no_grad():
            u1 = self._solved(u0.detach(), steps.detach(), u0.detach() if guess is None else guess.detach())
        if torch.is_grad_enabled():  # one more Newton step, of which only F is differentiated
            residual = u1 - u0 - steps * self.velocity(u0, u1)
            if residual.requires_grad:
                if self.solver.method == "krylov":
                    raise PhysicsError("gradients do not flow through GMRES: use the dense solver, or torch.no_grad()")
                with torch.no_grad():
                    solve = self._linearise(u0.detach(), u1, steps.detach())
                u1 = u1 - solve(residual)
        return u1

    def _solved(self, u0: Tensor, dt: Tensor, guess: Tensor) -> Tensor:
        try:
            return self._iterate(u0, dt, guess)
        except ConvergenceError:  # follow the solution from short steps to the whole one
            u1 = u0
            for part in (16, 8, 4, 2, 1):
                self._solve = None
                u1 = self._iterate(u0, dt / part, u1)
            return u1

    def _iterate(self, u0: Tensor, dt: Tensor, u1: Tensor) -> Tensor:
        def residual(u: Tensor) -> Tensor:
            return u - u0 - dt * self.velocity(u0, u)

        rounding = torch.finfo(u0.dtype).eps
        # Stopped any earlier, what is left of F has the same sign step after step, and the energy drifts.
        floor, ceiling = self.solver.tolerance or 0.0, self.solver.tolerance or 1000 * rounding
        f = residual(u1)
        size, bound = _largest(f), 1 + _largest(u1)
        open_ = ~(size <= floor * bound)  # also where it is nan
        for _ in range(self.solver.iterations):
            if not open_.any():
                return u1
            is_fresh = self._solve is None or self.solver.method == "krylov"
            if self._solve is None or is_fresh:
                self._solve = self._linearise(u0, u1, dt)
            step, before, waiting = self._solve(f), size, open_
            u_before, f_before = u1, f
            for halving in range(10 if is_fresh else 1):  # a sample that got no better takes half the step
                tried = u1 - step / 2**halving
                f_tried = residual(tried)
                size_tried = _largest(f_tried)
                better = waiting & (size_tried < size)
                chosen = better.reshape([-1] + [1] * (u1.ndim - 1))
                u1, f = torch.where(chosen, tried, u1), torch.where(chosen, f_tried, f)
                size = torch.where(better, size_tried, size)
                waiting = waiting & ~better & ~(size <= ceiling * bound)
                if not waiting.any():
                    break
            if isinstance(self._solve, _Inverse):  # where F changed by more than its rounding
                self._solve.learn(u1 - u_before, f - f_before, open_ & (before > 1e2 * ceiling * bound))
            bound = 1 + _largest(u1)
            has_stopped = (size <= ceiling * bound) & (size > before / 2)
            open_ = open_ & ~(size <= floor * bound) & ~has_stopped
            if (open_ & (size > self.solver.refresh * before)).any():
                self._solve = None
        if not open_.any():
            return u1
        failed = torch.nonzero(open_).reshape(-1)
        raise ConvergenceError(
            f"the implicit step was not solved for {len(failed)} of {len(u0)} samples, {failed.tolist()[:8]}: after "
            f"{self.solver.iterations} iterations their residuals are {[float(f'{x:.2g}') for x in size[failed][:8]]}, "
            f"the tolerance {ceiling:.2g}. Take smaller steps, more iterations, or a tolerance well above the rounding "
            f"of {u0.dtype}, {rounding:.0e}"
        )

    def _linearise(self, u0: Tensor, u1: Tensor, dt: Tensor) -> Solve:
        """F -> J^-1 F with J = dF/du1 = 1 - dt dvelocity/du1 at u1."""

        load_forward_mode()

        def times(direction: Tensor) -> Tensor:
            change: Tensor = torch.func.jvp(lambda u: self.velocity(u0, u), (u1,), (direction,))[1]
            return direction - dt * change

        return _krylov(times) if self.solver.method == "krylov" else _Inverse(times, u1, self.solver.chunk)


def _largest(x: Tensor) -> Tensor:
    """max |x| of every sample: [B]."""
    return x.reshape(len(x), -1).abs().amax(1)


class _Inverse:
    """F -> J^-1 F with the Jacobian [B, n, n] of every sample: one product a column for the whole batch, inverted."""

    def __init__(self, times: Solve, like: Tensor, chunk: int) -> None:
        n = like[0].numel()
        basis = torch.eye(n, dtype=like.dtype, device=like.device).reshape(n, 1, *like.shape[1:])
        columns = torch.func.vmap(times, chunk_size=chunk)(basis.expand(n, *like.shape))
        self.inverse = torch.linalg.inv_ex(columns.reshape(n, len(like), n).permute(1, 2, 0)).inverse

    def __call__(self, f: Tensor) -> Tensor:
        return (self.inverse @ f.reshape(len(f), -1, 1)).reshape(f.shape)

    def learn(self, step: Tensor, change: Tensor, where: Tensor) -> None:
        """The least correction after which `change` [B, ...] of F is answered by the `step` that made it."""
        s, y = step.reshape(len(step), -1, 1), change.reshape(len(change), -1, 1)
        answered = self.inverse @ y
        row = s.mT @ self.inverse
        along = row @ y
        sound = where[:, None, None] & (along.abs() > 0.1 * (s.mT @ s)) & torch.isfinite(along)
        self.inverse = self.inverse + torch.where(sound, (s - answered) / torch.where(sound, along, 1.0), 0.0) @ row


def _krylov(times: Solve) -> Solve:
    """GMRES to a hundredth of the residual: Newton's iteration around it does the rest."""

    def solve(f: Tensor) -> Tensor:
        from scipy.sparse.linalg import LinearOperator, gmres

        def product(x: np.ndarray) -> np.ndarray:
            out: np.ndarray = times(torch.from_numpy(x.copy()).to(f).reshape(f.shape)).reshape(-1).cpu().numpy()
            return out

        right = f.detach().reshape(-1).cpu().numpy()
        operator = LinearOperator((right.size, right.size), matvec=product, dtype=right.dtype)
        solution, _ = gmres(operator, right, rtol=1e-2, restart=50, maxiter=20)
        return torch.from_numpy(solution).to(f).reshape(f.shape)

    return solve


def rollout(
    model: EnergyModel,
    u0: Tensor,
    dt: float | Sequence[float] | Tensor,
    steps: int | None = None,
    *,
    inputs: Tensor | None = None,
    order: Literal[2, 4] = 2,
    solver: Solver | None = None,
) -> Rollout:
    """Predict from `u0` [B, ...] with `steps` steps of `dt`, or with the steps listed in `dt`.

    `inputs` [steps, B, k] for structures with ports. `order` 4: three steps of order 2 for one (Yoshida's triple jump;
    the middle one goes back in time, so the structure must conserve). With gradients on, they flow through all steps.
    Raises `ConvergenceError` (whose `states` are those reached until then) and `PhysicsError`.
    """
    sizes = _sizes(dt, steps)
    model.check(u0)
    if inputs is not None:
        if len(inputs) != len(sizes):
            raise PhysicsError(f"there are inputs for {len(inputs)} steps, and {len(sizes)} steps to take")
        model.check(u0, inputs[0])
    if solver is not None and not isinstance(solver, Solver):
        raise PhysicsError(f"the solver is {type(solver).__name__}; expected a Solver, as Solver('krylov')")
    if order not in (2, 4):
        raise PhysicsError(f"steps are of order 2 or 4, not {order}")
    if order == 4 and model.structure.law != "conserves":
        raise PhysicsError("order 4 steps back in time, where a structure that dissipates is unstable: use order 2")
    fractions = (1.0,) if order == 2 else _TRIPLE_JUMP
    steppers = {c: ImplicitStep(model, solver) for c in fractions}
    states = [u0]
    for k, size in enumerate(sizes):
        model.discrete_gradient.guard(u0)
        given = None if inputs is None else inputs[k]
        u = states[-1]
        guess = u + (u - states[-2]) * (size / sizes[k - 1]) if k else None
        for c in fractions:
            steppers[c].velocity = partial(model.between, inputs=given)
            try:
                u = steppers[c](u, c * size, guess if order == 2 else None)
            except ConvergenceError as error:
                error.states = torch.stack(states)
                error.add_note(f"in step {k + 1} of {len(sizes)}; the states before it are in the error's `states`")
                raise
        states.append(u)
    t = torch.tensor([0.0, *itertools.accumulate(sizes)], dtype=u0.dtype, device=u0.device)
    return Rollout(t, torch.stack(states))


_TRIPLE_JUMP = (1 / (2 - 2 ** (1 / 3)), 1 - 2 / (2 - 2 ** (1 / 3)), 1 / (2 - 2 ** (1 / 3)))


def _sizes(dt: float | Sequence[float] | Tensor, steps: int | None) -> list[float]:
    if isinstance(dt, (int, float)) or (isinstance(dt, Tensor) and dt.ndim == 0):
        if not isinstance(steps, int) or steps < 0:
            raise PhysicsError(f"say how many steps, or list their sizes in dt; {steps!r} is no number of steps")
        return [float(dt)] * steps
    if isinstance(dt, str) or not isinstance(dt, (Sequence, Tensor)):
        raise PhysicsError(f"dt is {dt!r}; expected a number, or the sizes of the steps")
    if steps is not None and steps != len(dt):
        raise PhysicsError(f"dt lists {len(dt)} steps, and steps is {steps}: leave one of them out")
    return [float(x) for x in dt]
