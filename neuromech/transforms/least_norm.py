"""The point of least norm on an orbit.

    minimise over a    F(a) = sum_e m_e exp(2 sum_k w_ek a_k),    m_e = theta_e^2

a sum of exponentials of linear functions, so convex (geometric programming); dF/da_k = 2 sum_e w_ek m_e exp(...) is
twice the charge of member k: at the minimum every conserved charge of a rescale symmetry vanishes. For two layers with
one family this is the closed form exp(2 a_i) = |W2[:, i]| / |W1[i]|, and F = 2 sum_i |W1[i]| |W2[:, i]| (AM-GM).

Newton's method with backtracking: F is smooth and convex, so each step decreases it and the iterates converge to a
minimum wherever one exists, at last superlinearly (Boyd & Vandenberghe, section 9.5.3). The system is solved by
conjugate gradients, preconditioned with its diagonal, to an accuracy that grows with that of the point (Dembo,
Eisenstat & Steihaug 1982). Families may overlap: along directions that move nothing the Hessian is singular, gradient
and steps vanish, and the minimum is that of the least change.

A member whose elements are all zero on one side has no minimum: its other side would shrink for ever. It stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.errors import SymmetryError
from neuromech.transforms.moving import Orbit

TOLERANCE = 1e-12  # largest charge of a member, in units of the squares that make it up
STEPS, INNER = 200, 1000
FARTHEST = 40.0  # |log factor|: beyond e^40 lies no minimum of anything that was trained


class Solution(NamedTuple):
    """`log_factors` [members], 0 where not `moved` [members]; what remains of the condition; the number of steps."""

    log_factors: Tensor
    moved: Tensor
    residual: float
    steps: int


def squares(x: Tensor) -> Tensor:
    """How elements that move alike count together."""
    return x.square().sum(-1)


def minimise(orbit: Orbit) -> Solution:
    """The factors that bring an orbit of `squares` to its least norm.

    Raises `SymmetryError` if the charges do not vanish within the tolerance that float64 allows.
    """
    masses = [cell.values for cell in orbit.cells]
    up, down = orbit.gather(masses, lambda w: float(w > 0)), orbit.gather(masses, lambda w: float(w < 0))
    free = (up > 0) & (down > 0)
    while True:
        solution = _newton(orbit, free)
        far = solution.log_factors.abs() > FARTHEST
        if not bool(far.any()):
            break
        free &= ~far  # zeros elsewhere leave these without a minimum, too
    if solution.residual > 1e-6:
        raise SymmetryError(
            f"no minimum of the norm was reached in {solution.steps} steps: a charge of {solution.residual:.0e} of the "
            "squares that make it up is left. Are there numbers of very different size in one row?"
        )
    return solution


def _newton(orbit: Orbit, free: Tensor) -> Solution:
    a = torch.zeros(orbit.size, dtype=torch.float64, device=orbit.device)
    here, steps = _Iterate(orbit, a, free), 0
    while steps < STEPS and here.residual > TOLERANCE and float(a.abs().amax()) <= FARTHEST:
        direction = here.newton_direction()
        slope = float(here.gradient @ direction)
        t = 1.0
        while not (there := _Iterate(orbit, a + t * direction, free)).improves(here, t, slope, direction):
            t /= 2
            if t < 1e-9:  # rounding errors: this is as far as float64 goes
                return Solution(a, free, here.residual, steps)
        a, here, steps = a + t * direction, there, steps + 1
    return Solution(a, free, here.residual, steps)


class _Iterate:
    """F, its gradient and its Hessian at a; members that are not `free` stay."""

    def __init__(self, orbit: Orbit, a: Tensor, free: Tensor) -> None:
        self.orbit, self.free = orbit, free
        self.masses = [cell.values * (2 * orbit.exponents(cell, a)).exp() for cell in orbit.cells]
        self.value = float(sum(m.sum() for m in self.masses))
        self.gradient = torch.where(free, 2 * orbit.gather(self.masses, lambda w: w), 0.0)

    @property
    def residual(self) -> float:
        """The largest charge of a member, in units of the squares that make it up; 0 if nothing may move."""
        size = 2 * self.orbit.gather(self.masses, abs)
        return float(torch.where(self.free, self.gradient.abs() / size, 0.0).amax()) if self.orbit.size else 0.0

    def hessian(self, v: Tensor) -> Tensor:
        bent = [m * self.orbit.exponents(cell, v) for cell, m in zip(self.orbit.cells, self.masses, strict=True)]
        return torch.where(self.free, 4 * self.orbit.gather(bent, lambda w: w), 0.0)

    def newton_direction(self) -> Tensor:
        diagonal = torch.where(self.free, 4 * self.orbit.gather(self.masses, lambda w: w * w), 1.0)
        return conjugate_gradients(self.hessian, -self.gradient, diagonal, min(0.1, math.sqrt(self.residual)))

    def improves(self, start: _Iterate, t: float, slope: float, direction: Tensor) -> bool:
        """Sufficient decrease; where rounding hides the decrease, by the derivative (Hager & Zhang 2005, eq. 4.1)."""
        if not math.isfinite(self.value):
            return False
        if self.value <= start.value + 1e-4 * t * slope:
            return True
        return self.value <= start.value * (1 + 1e-13) and float(self.gradient @ direction) <= -0.8 * slope


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, diagonal: Tensor, accuracy: float) -> Tensor:
    """x with |A x - b| <= accuracy |b| in the norm of 1/diagonal, for a symmetric positive semidefinite A."""
    x, r = torch.zeros_like(b), b.clone()
    z = r / diagonal
    p, rz = z.clone(), float(r @ z)
    enough = rz * accuracy**2
    for _ in range(INNER):
        if rz <= enough:
            break
        ap = apply(p)
        curvature = float(p @ ap)
        if curvature <= 0:  # a direction that moves nothing, up to rounding
            break
        x, r = x + rz / curvature * p, r - rz / curvature * ap
        z = r / diagonal
        rz, old = float(r @ z), rz
        p = z + rz / old * p
    return x if bool(x.any()) else b / diagonal
