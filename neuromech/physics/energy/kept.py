"""Structures that keep more than the energy: Casimirs, functions C(u) that no Hamiltonian can change.

A skew G whose kernel holds grad C keeps C. For C linear or quadratic in the state the midpoint's gradient is its
discrete gradient, so C is kept in discrete time too, exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.energy.structure import EnergyLaw, Structure


class LiePoisson(Structure):
    """u x grad H, of the rotations so(3): the free rigid body, a spin. Keeps |u|^2 beside the energy."""

    size = 3

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        flow: Tensor = torch.linalg.cross(u.expand_as(g), g)
        return flow


class Keeping(Structure):
    """Any structure, with Casimirs C_k(u) = <a_k, u> + <u, Q_k u>/2 kept: P G P, P off all their gradients.

    `linear` [k, n]; `quadratic` [k, n, n] symmetric, None for none. Its law is that of the structure.
    """

    def __init__(self, structure: Structure, linear: Tensor, quadratic: Tensor | None = None) -> None:
        super().__init__()
        if linear.ndim != 2 or (quadratic is not None and quadratic.shape != (*linear.shape, linear.shape[1])):
            found = None if quadratic is None else tuple(quadratic.shape)
            raise PhysicsError(
                f"Casimirs are linear [k, n] and quadratic [k, n, n]; found {tuple(linear.shape)}, {found}"
            )
        if quadratic is not None and not torch.equal(quadratic, quadratic.mT):
            raise PhysicsError("the quadratic parts of Casimirs are symmetric matrices: take (Q + Q^T)/2")
        if structure.inputs:
            raise PhysicsError(
                "inputs act on what would be kept: put the ports around it, PortHamiltonian(Keeping(...))"
            )
        self.law: EnergyLaw = structure.law
        self.structure, self.size = structure, linear.shape[1]
        self.register_buffer("linear", linear)
        self.register_buffer("quadratic", quadratic)

    linear: Tensor
    quadratic: Tensor | None

    def values(self, u: Tensor) -> Tensor:
        """C [..., k] of states [..., n]."""
        total = u @ self.linear.T
        if self.quadratic is None:
            return total
        return total + torch.einsum("...i,kij,...j->...k", u, self.quadratic, u) / 2

    def forward(self, g: Tensor, u: Tensor, inputs: Tensor | None = None) -> Tensor:
        a = self.linear.expand(*u.shape[:-1], *self.linear.shape)
        if self.quadratic is not None:
            a = a + torch.einsum("kij,...j->...ki", self.quadratic, u)
        inverse = torch.linalg.pinv(a @ a.mT, hermitian=True)

        def off(x: Tensor) -> Tensor:
            along = inverse @ (a @ x.unsqueeze(-1))
            rest: Tensor = x - (a.mT @ along).squeeze(-1)
            return rest

        return off(self.structure(off(g), u))
