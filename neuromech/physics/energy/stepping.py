"""One step: every step of a discrete-gradient model solves F(u1) = u1 - u0 - dt * velocity(u0, u1) = 0.

Newton's method on the whole batch. Dense: one Jacobian a sample, by differences where the state is small, inverted once
and kept over iterations and steps for as long as it still contracts, corrected by what every iteration tells of it
(Broyden 1965, the good update): several times cheaper than fresh Jacobians. Krylov: the Jacobian is never formed, GMRES
sees its products with vectors, of the whole batch at once and on its device; for states of thousands of entries.

The energy's error a step is <DH, F>, so it is at the level of the tolerance, of no sign, and does not grow by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from neuromech.compat import load_forward_mode
from neuromech.errors import ConvergenceError, PhysicsError
from neuromech.physics.energy.krylov import gmres
from neuromech.physics.energy.model import step_size
from neuromech.physics.energy.states import check_finite

_BY_DIFFERENCES = 64  # entries of a state: Jacobians of more are cheaper by forward derivatives, many columns at once
Velocity = Callable[[Tensor, Tensor], Tensor]
Solve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solver:
    """How implicit steps are solved.

    `tolerance`: of max |F| relative to 1 + max |u|, of every sample. None: as far as F still falls, which ends in its
    rounding; what stops falling above 1000 times the rounding of the dtype (2e-13 in float64) counts as not solved.
    `refresh`: the Jacobian is made anew when an iteration has reduced a residual by less than this factor. `chunk`:
    columns of a Jacobian made at a time. `substeps`: samples whose step is not solved take 2, 4, ... up to so many
    shorter ones for it, each under the same laws, while the others go on; 1: they fail.
    """

    method: Literal["dense", "krylov"] = "dense"
    tolerance: float | None = None
    iterations: int = 50
    refresh: float = 0.5
    chunk: int = 256
    substeps: int = 16

    def __post_init__(self) -> None:
        if self.method not in ("dense", "krylov"):
            raise PhysicsError(f"method {self.method!r} is not one of 'dense', 'krylov'")
        if self.iterations < 1 or (self.tolerance is not None and not self.tolerance > 0):
            raise PhysicsError("a solver makes at least one iteration, to a tolerance above 0")
        if not 0 < self.refresh <= 1 or min(self.chunk, self.substeps) < 1:
            raise PhysicsError("refresh is a factor above 0 and at most 1; chunk and substeps are at least 1")


class ImplicitStep:
    """u0 -> u1 for a velocity between two states, keeping what it has factored from one call to the next.

    `starting(u0)`: the velocity as a function of u1, for many calls without gradients; the same by default.
    """

    def __init__(
        self,
        velocity: Velocity,
        solver: Solver | None = None,
        starting: Callable[[Tensor], Solve] | None = None,
    ) -> None:
        self.velocity, self.solver, self.starting = velocity, solver or Solver(), starting
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
                if self.in_parts.any():
                    some = self.in_parts.nonzero()[:8, 0].tolist()
                    raise PhysicsError(
                        f"samples {some} needed shorter steps, through which no gradients flow: take smaller steps"
                    )
                if self.solver.method == "krylov":
                    raise PhysicsError("gradients do not flow through GMRES: use the dense solver, or torch.no_grad()")
                with torch.no_grad():
                    solve = self._linearise(u0.detach(), u1, steps.detach())
                u1 = u1 - solve(residual)
        return u1

    def _solved(self, u0: Tensor, dt: Tensor, guess: Tensor) -> Tensor:
        """Where the equation is not solved, the solution is followed from short steps on; then these are taken."""
        u1, failed, size = self._iterate(u0, dt, guess)
        self.in_parts = torch.zeros_like(failed)
        if failed.any():
            found, bad = u0, failed
            for part in (16, 8, 4, 2, 1):
                self._solve = None
                found, bad, _ = self._iterate(u0, dt / part, found)
            u1, failed = _where(failed & ~bad, found, u1), failed & bad
        parts = 2
        while failed.any() and parts <= self.solver.substeps:
            found, bad = u0, torch.zeros_like(failed)
            for _ in range(parts):
                self._solve = None
                found, broken, _ = self._iterate(found, dt / parts, found)
                bad = bad | broken
            u1, self.in_parts, failed = _where(failed & ~bad, found, u1), self.in_parts | failed & ~bad, failed & bad
            parts *= 2
        if failed.any():
            self._solve = None
            raise _not_solved(failed, size / (1 + _largest(u1)), self.solver, u0)
        if self.in_parts.any():
            self._solve = None
        return u1

    def _iterate(self, u0: Tensor, dt: Tensor, u1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The solution, where it was not found, and the residuals there."""

        velocity = partial(self.velocity, u0) if self.starting is None else self.starting(u0)

        def residual(u: Tensor) -> Tensor:
            return torch.addcmul(u - u0, dt, velocity(u), value=-1)

        rounding = torch.finfo(u0.dtype).eps
        # Stopped any earlier, what is left of F has the same sign step after step, and the energy drifts.
        floor, ceiling = self.solver.tolerance or 0.0, self.solver.tolerance or 1000 * rounding
        halves = min(0.5, self.solver.refresh)
        f = residual(u1)
        bound = 1 + _largest(u1)
        size, ratio = _largest(f) / bound, torch.ones_like(bound)  # ratio: of a residual to that before
        open_ = ~(size <= floor)  # also where it is nan
        is_all_open, is_certain = bool(open_.all()), False
        if not is_all_open and not open_.any():
            return u1, open_, size * bound
        step: Tensor | None = None
        for _ in range(self.solver.iterations):
            is_fresh = self._solve is None or self.solver.method == "krylov"
            if self._solve is None or is_fresh:
                is_small = self.solver.method == "dense" and u1[0].numel() <= _BY_DIFFERENCES
                self._solve = _Inverse(_differences(residual, u1, f)) if is_small else self._linearise(u0, u1, dt)
            step = self._solve(f) if step is None else step
            if is_certain:  # where this step ends is known: nothing is left but rounding
                return u1 - step, torch.zeros_like(open_), size * bound
            tried = u1 - step
            f_tried = residual(tried)
            size_tried = _largest(f_tried) / bound
            ratio_tried = size_tried / size * (size_tried > 8 * rounding)  # 0 where there is nothing left to gain
            if not is_all_open:
                tried, f_tried = _where(open_, tried, u1), _where(open_, f_tried, f)
                size_tried, ratio_tried = torch.where(open_, size_tried, 0.0), torch.where(open_, ratio_tried, 0.0)
            worst, largest, left = torch.stack([ratio_tried, size_tried, size_tried * ratio_tried]).amax(1).tolist()
            if worst <= halves:  # what nearly always happens: all get better, and nothing more need be looked at
                is_certain = worst < 1 / 8 and largest < rounding**0.5 and left < rounding / 16
                if isinstance(self._solve, _Inverse) and not is_certain:
                    step = self._solve.learn(step, f_tried, size > 1e2 * ceiling)
                else:
                    step = None
                u1, f, size, ratio = tried, f_tried, size_tried, ratio_tried
                if largest <= floor:
                    return u1, torch.zeros_like(open_), size * bound
                continue
            before, step_made, waiting, full = size, step, open_, open_
            ends = (size * ratio < rounding / 16) & (ratio < 1 / 8) & (size < rounding**0.5)  # with this step
            for halving in range(10 if is_fresh else 1):  # a sample that got no better takes half the step
                if halving:
                    tried = u1 - step / 2**halving
                    f_tried = residual(tried)
                    size_tried = _largest(f_tried) / bound
                better = waiting & (size_tried < size)
                u1, f, size = (
                    _where(better, tried, u1),
                    _where(better, f_tried, f),
                    torch.where(better, size_tried, size),
                )
                waiting = waiting & ~better & ~(size <= ceiling)
                full = better if halving == 0 else full
                if not waiting.any():
                    break
            ratio = size / before
            open_ = open_ & ~(size <= floor) & ~((size <= ceiling) & (ratio > 0.5)) & ~ends
            if not open_.any():
                break
            is_all_open, step = False, None
            if (open_ & (ratio > self.solver.refresh)).any():
                self._solve = None
            elif isinstance(self._solve, _Inverse):
                step = self._solve.learn(step_made, f, full & (before > 1e2 * ceiling))
        return u1, open_ & ~(size <= ceiling), size * bound

    def _linearise(self, u0: Tensor, u1: Tensor, dt: Tensor) -> Solve:
        """F -> J^-1 F with J = dF/du1 = 1 - dt dvelocity/du1 at u1."""

        load_forward_mode()

        def times(direction: Tensor) -> Tensor:
            change: Tensor = torch.func.jvp(lambda u: self.velocity(u0, u), (u1,), (direction,))[1]
            return direction - dt * change

        if self.solver.method == "krylov":  # to a hundredth: Newton's iteration around it does the rest
            return partial(gmres, times)
        basis = torch.eye(u1[0].numel(), dtype=u1.dtype, device=u1.device).reshape(-1, 1, *u1.shape[1:])
        columns = torch.func.vmap(times, chunk_size=self.solver.chunk)(basis.expand(-1, *u1.shape))
        return _Inverse(columns.flatten(2))


def _where(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(rows.reshape([-1] + [1] * (x.ndim - 1)), x, y)


def _not_solved(failed: Tensor, size: Tensor, solver: Solver, u0: Tensor) -> ConvergenceError:
    rounding = torch.finfo(u0.dtype).eps
    where = torch.nonzero(failed).reshape(-1)
    tried = f", nor {solver.substeps} shorter ones in its place" if solver.substeps > 1 else ""
    if solver.tolerance is not None and bool((size[where] < 1e3 * rounding).all()):
        advice = f"Take a tolerance well above the rounding of {u0.dtype}, {rounding:.0e}"
    elif bool((size[where] < rounding**0.5).all()):
        advice = "They are small already: take more iterations"
    else:
        advice = (
            "Take smaller steps, or Solver(substeps=) above that; a motion that runs into a singularity, as a "
            "collision, or away to infinity, ends there at any size"
        )
    return ConvergenceError(
        f"the implicit step was not solved for {len(where)} of {len(u0)} samples, {where.tolist()[:8]}{tried}: after "
        f"{solver.iterations} iterations their residuals are {[float(f'{x:.2g}') for x in size[where][:8]]} of the "
        f"state's size, the tolerance {solver.tolerance or 1000 * rounding:.2g}. {advice}"
    )


def _largest(x: Tensor) -> Tensor:
    """max |x| of every sample: [B]."""
    largest: Tensor = torch.linalg.vector_norm(x.flatten(1), math.inf, 1)
    return largest


def _differences(function: Solve, u: Tensor, f: Tensor) -> Tensor:
    """The columns [n, B, n] of the Jacobian of `function`, whose value at u is f: right to half the digits."""
    far = torch.finfo(u.dtype).eps ** 0.5 * (1 + _largest(u))
    columns = []
    for k in range(u[0].numel()):
        moved = u.flatten(1).clone()
        moved[:, k] += far
        columns.append((function(moved.view_as(u)) - f).flatten(1) / far[:, None])
    return torch.stack(columns)


class _Inverse:
    """F -> J^-1 F with the Jacobian of every sample, given by its columns [n, B, n], inverted."""

    def __init__(self, columns: Tensor) -> None:
        self.inverse = torch.linalg.inv_ex(columns.permute(1, 2, 0)).inverse

    def __call__(self, f: Tensor) -> Tensor:
        return self._times(f).reshape(f.shape)

    def _times(self, f: Tensor) -> Tensor:
        """As a row times the transpose, which is several times faster than the matrix times a column: [B, 1, n]."""
        product: Tensor = f.flatten(1).unsqueeze(1) @ self.inverse.mT
        return product

    def learn(self, step: Tensor, f: Tensor, where: Tensor) -> Tensor:
        """The next step, from where a `step` has led to `f`; with the least correction that would have foretold f."""
        s, p = step.flatten(1).unsqueeze(1), self._times(f)
        square, turned = s @ s.mT, s @ p.mT
        along = square - turned
        column = p * torch.where(where[:, None, None] & (along > 0.1 * square), 1 / along, 0.0)
        self.inverse.addcmul_(column.mT, s @ self.inverse)
        return torch.addcmul(p, column, turned).reshape(f.shape)
