"""Two generators: an energy E that is conserved and an entropy S that never falls (GENERIC; Grmela and Oettinger 1997).

    du/dt = L(u) grad E + M(u) grad S,    L skew, M symmetric and not negative,    L grad S = 0,    M grad E = 0

The two degeneracies decide both laws, and no network has them by itself. Here they hold by construction, in discrete
time as well: L and M are built from the discrete gradients of E and S between the two states of a step, so that

    L x = P_S (A - A^T) P_S x            P_S: off the discrete gradient of S
    M x = P_E R R^T P_E x                P_E: off the discrete gradient of E

Then <DE, u1 - u0> = 0 = E(u1) - E(u0), and S(u1) - S(u0) = dt <DS, M DS> >= 0, for every step size and all parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics.energy.discrete import DiscreteGradient, GradientForm
from neuromech.physics.energy.model import gradient
from neuromech.physics.energy.prediction import Rollout
from neuromech.physics.energy.stepping import ImplicitStep, Solver


def without(direction: Tensor, x: Tensor) -> Tensor:
    """x [B, n] with what lies along `direction` [B, n] taken off; where there is no direction, x."""
    square = (direction * direction).sum(-1, keepdim=True)
    along = (direction * x).sum(-1, keepdim=True)
    return x - torch.where(square > 0, along / torch.where(square > 0, square, 1.0), 0.0) * direction


class Metriplectic(nn.Module):
    """Energy and entropy are modules of states [B, n] to [B]; A [n, n] and R [n, rank] are learned, or of the state.

    `operators`: a module of states [B, n] to [B, n (n + rank)] that gives A and R at the midpoint; None: constant ones.

        model(u0, u1)        the velocity between two states: what training compares with (u1 - u0)/dt
        model.rollout(...)   prediction
    """

    def __init__(
        self,
        energy: nn.Module,
        entropy: nn.Module,
        size: int,
        rank: int | None = None,
        operators: nn.Module | None = None,
        form: GradientForm = "chain",
    ) -> None:
        super().__init__()
        if size < 2 or (rank is not None and not 1 <= rank <= size):
            raise PhysicsError(f"a state of {size} entries, M of rank {rank}: expected 2 or more, and a rank up to it")
        self.energy, self.entropy, self.size, self.rank = energy, entropy, size, rank or size
        self.operators = operators
        if operators is None:
            self.skew = nn.Parameter(size**-0.5 * torch.randn(size, size))
            self.root = nn.Parameter(size**-0.5 * torch.randn(size, self.rank))
        self._of_energy, self._of_entropy = DiscreteGradient(energy, form), DiscreteGradient(entropy, form)

    @property
    def of_energy(self) -> DiscreteGradient:
        """The discrete gradient of `energy`, whatever it is by now."""
        return self._of_energy.following(self.energy)

    @property
    def of_entropy(self) -> DiscreteGradient:
        """That of `entropy`."""
        return self._of_entropy.following(self.entropy)

    def forward(self, u0: Tensor, u1: Tensor) -> Tensor:
        self._check(u0)
        return self._flow(self.of_energy(u1, u0), self.of_entropy(u1, u0), (u0 + u1) / 2)

    def velocity(self, u: Tensor) -> Tensor:
        """In continuous time: [B, n]."""
        self._check(u)
        return self._flow(gradient(self.energy, u), gradient(self.entropy, u), u)

    def between(self, u0: Tensor, u1: Tensor) -> Tensor:
        """`forward` without a look at states and modules."""
        of_energy, of_entropy = self.of_energy.unchecked(u1, u0), self.of_entropy.unchecked(u1, u0)
        return self._flow(of_energy, of_entropy, (u0 + u1) / 2)

    def rollout(self, u0: Tensor, dt: float, steps: int, solver: Solver | None = None) -> Rollout:
        """States [steps + 1, B, n] from u0 [B, n]. Raises `ConvergenceError`, whose `states` are those reached."""
        self._check(u0)
        self.of_energy.look(u0)
        self.of_entropy.look(u0)
        step, states = ImplicitStep(self.between, solver), [u0]
        for _ in range(steps):
            states.append(step(states[-1], dt))
        return Rollout(dt * torch.arange(steps + 1, dtype=u0.dtype, device=u0.device), torch.stack(states))

    def _flow(self, e: Tensor, s: Tensor, u: Tensor) -> Tensor:
        skew, root = self._at(u)

        def times(matrix: Tensor, x: Tensor) -> Tensor:
            return (matrix @ x.unsqueeze(-1)).squeeze(-1)

        reversible = without(s, times(skew - skew.mT, without(s, e)))
        return reversible + without(e, times(root, times(root.mT, without(e, s))))

    def _at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.operators is None:
            return self.skew, self.root
        n, entries = self.size, self.operators(u)
        if entries.shape[-1] != n * (n + self.rank):
            raise PhysicsError(
                f"the operators are {entries.shape[-1]} numbers a state; A is {n} x {n} and R {n} x {self.rank}: "
                f"expected {n * (n + self.rank)}"
            )
        skew, root = entries.split([n * n, n * self.rank], -1)
        return skew.unflatten(-1, (n, n)), root.unflatten(-1, (n, self.rank))

    def _check(self, u: Tensor) -> None:
        if not isinstance(u, Tensor) or u.ndim != 2 or u.shape[1] != self.size:
            found = tuple(u.shape) if isinstance(u, Tensor) else type(u).__name__
            raise PhysicsError(f"states are [B, {self.size}], not {found}")
