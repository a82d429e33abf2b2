"""`DivergenceFree`: a vector field whose divergence vanishes identically, whatever its parameters are."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from neuromech.compat import load_forward_mode
from neuromech.errors import PhysicsError
from neuromech.physics.fields.domain import (
    FreeSpace,
    check_domain,
    check_dtype,
    check_inside,
    check_periodic,
    check_points,
    inspecting,
)
from neuromech.physics.fields.elementary import TensorMap, check_forward_rules
from neuromech.physics.fields.layers import stack_of
from neuromech.physics.fields.schemes import (
    SCHEMES,
    DerivativeScheme,
    PotentialForm,
    antisymmetric,
    cheapest,
    field_of_jet,
    matrix_derivatives,
    matrix_field,
    outputs_of,
    vector_field,
)
from neuromech.physics.fields.smooth import check_modules, check_values
from neuromech.physics.fields.taylor import hessians, jacobian


class DivergenceFree(nn.Module):
    """v(x) in R^n with div v = 0 by construction (Richter-Powell, Lipman, Chen, NeurIPS 2022, eqs. 4 and 6).

    `potential`: any smooth module from points [B, conditions + n] to [B, m], of each point by itself.
        form "matrix": m = n(n-1)/2, the antisymmetric matrix A above its diagonal, row by row; v_i = sum_j d_j A_ij.
        form "vector": m = n, a vector field b; A = J_b - J_b^T, so v = Lap b - grad div b.
    `conditions`: the first so many columns (time, parameters) are given to the potential, but not differentiated.
    `scheme`: how derivatives are taken, see `schemes`; None: the cheapest for this form and n.
    `domain`: where x lives. In a `Box` or `Ball` A is multiplied with functions that vanish on the wall, so that v does
        not cross it (entry ij, in a box, with one for the faces across axes i and j); form "matrix" only. On a `Torus`
        the potential must have its period.
    `base`: a divergence-free function [B, conditions + n] -> [B, n] of yours that is added: a flow through the domain,
        or one that has the speed of the walls. Looked at on first use.
    `scale`: what v, but for the base, is multiplied with; `calibrate` sets it.

    Called with points [B, conditions + n] (or one point without B) it returns v [B, n]. Potentials that end in linear
    layers and known activations (`layers`) are differentiated by hand, which is fastest.

    Raises `PhysicsError` for n < 2, a potential that is not smooth or mixes points, wrong shapes, and points outside
    the domain.
    """

    scale: Tensor

    def __init__(
        self,
        potential: nn.Module,
        n: int,
        form: PotentialForm = "matrix",
        scheme: DerivativeScheme | None = None,
        conditions: int = 0,
        domain: FreeSpace | None = None,
        base: TensorMap | None = None,
    ) -> None:
        super().__init__()
        check_dimension(n)
        if form not in get_args(PotentialForm):
            raise PhysicsError(f"form={form!r}: expected one of {', '.join(get_args(PotentialForm))}")
        if scheme is not None and scheme not in SCHEMES[form]:
            raise PhysicsError(f"scheme={scheme!r} is none of the {form} form's: {', '.join(SCHEMES[form])}, or None")
        if conditions < 0:
            raise PhysicsError(f"conditions={conditions}: expected the number of leading columns, 0 or more")
        if not isinstance(potential, nn.Module):
            raise PhysicsError(f"expected a torch.nn.Module as the potential, got {type(potential).__name__}")
        check_modules(potential)
        domain = FreeSpace(n) if domain is None else domain
        check_domain(domain)
        if domain.d != n:
            raise PhysicsError(f"{domain} has {domain.d} dimensions, the field {n}: make them agree")
        if domain.walls and form == "vector":
            raise PhysicsError(f"the vector form has no walls: in {domain} use form='matrix', which has as many fields")
        self.potential, self.n, self.form, self.conditions = potential, n, form, conditions
        self.domain, self.base = domain, base
        self.scheme: DerivativeScheme = scheme or cheapest(form, n)
        self.register_buffer("scale", torch.ones(()))
        self._checked = False

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        points = x if x.ndim == 2 else x.unsqueeze(0)
        if self.domain.walls:
            v = self.derivatives(points)[1].sum(-1)
        else:
            field = matrix_field if self.form == "matrix" else vector_field
            v = self.scale * field(self.potential, points, self.n, self.scheme)
        if self.base is not None:
            v = v + self.base(points)
        return v if x.ndim == 2 else v[0]

    def derivatives(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Matrix form: A [B, n, n] and d_j A_ij [B, n, n], whose sum over j is v, but for the base."""
        self._check(x)
        a, d = matrix_derivatives(self.potential, x, self.n, self.scheme)
        if self.domain.walls:
            gate, steep = self.domain.gates(x[:, self.conditions :])
            a, d = gate * a, gate * d + steep * a
        return self.scale * a, self.scale * d

    def jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """v [B, n] and its derivatives by all inputs, [B, n, conditions + n]: what a differential equation asks for.

        Matrix form over layers with known derivatives: by hand, in one pass. Else by `torch.func`.
        """
        self._check(x)
        stack = stack_of(self.potential)
        a_point = x.shape[-1] ** 2 * outputs_of("matrix", self.n)  # numbers: second derivatives of all entries of A
        if self.form == "vector" or stack.prefix is not None:
            return self(x), jacobian(self, x)
        if a_point > MOST:
            return self(x), _jacobian_by_tangents(self, x)
        parts = [
            field_of_jet(*hessians(stack, y), self.n, self.domain, y[:, self.conditions :])
            for y in x.split(max(1, MOST // a_point))
        ]
        v, of_v = (self.scale * torch.cat(p) for p in zip(*parts, strict=True))
        return (v, of_v) if self.base is None else (v + self.base(x), of_v + jacobian(self.base, x))

    def matrix(self, x: Tensor) -> Tensor:
        """Matrix form: A(x), antisymmetric, [B, n, n]."""
        self._check(x)
        gate = self.domain.gates(x[..., self.conditions :])[0]
        return self.scale * gate * antisymmetric(self.potential(x), self.n)

    @torch.no_grad()
    def calibrate(self, x: Tensor, size: float = 1.0) -> DivergenceFree:
        """Set `scale` so that v has root mean square `size` over the points x. An unscaled start is slow to train."""
        self.scale.fill_(1.0)
        rms = self(x).square().mean().sqrt()
        if not torch.isfinite(rms) or rms == 0:
            raise PhysicsError(f"the field has root mean square {float(rms)} over these points: it cannot be scaled")
        self.scale.copy_(size / rms)
        return self

    def extra_repr(self) -> str:
        how = f"n={self.n}, form={self.form!r}, scheme={self.scheme!r}, conditions={self.conditions}"
        return f"{how}, domain={self.domain}"

    def _check(self, x: Tensor) -> None:
        check_points(x, self.conditions + self.n, "DivergenceFree", single=True)
        check_dtype(self.potential, x, "DivergenceFree")
        if self.domain.walls:
            check_inside(self.domain, x.reshape(-1, x.shape[-1])[:, self.conditions :], "DivergenceFree")
        if not self._checked and x.numel() and inspecting(x):
            what = (
                f"n(n-1)/2 = {outputs_of('matrix', self.n)} entries of the antisymmetric matrix"
                if self.form == "matrix"
                else f"n = {self.n} components of the vector potential"
            )
            points = x if x.ndim == 2 else x.unsqueeze(0)
            check_values(self.potential, points, outputs_of(self.form, self.n), what)
            check_periodic(self.potential, self.domain, points[:, self.conditions :], points[:, : self.conditions])
            if self.base is not None:
                _check_base(self.base, points[:3], self.n, self.conditions)
            prefix = stack_of(self.potential).prefix
            if prefix is not None and self.scheme != "nested":
                load_forward_mode()
                check_forward_rules(prefix, points[:2])
            self._checked = True


MOST = 20_000_000  # numbers that a jacobian holds at once


def _jacobian_by_tangents(field: TensorMap, x: Tensor) -> Tensor:
    """[B, n, m], a column at a time: for so many dimensions that all second derivatives are too much to hold."""
    load_forward_mode()
    columns = []
    for direction in torch.eye(x.shape[-1], dtype=x.dtype, device=x.device):
        columns.append(torch.func.jvp(field, (x,), (direction.expand_as(x),))[1])
    return torch.stack(columns, -1)


def _check_base(base: TensorMap, x: Tensor, n: int, conditions: int) -> None:
    """Raise `PhysicsError` unless the base has a vector a point, and no divergence."""
    with torch.no_grad():
        value = base(x)
    if value.shape != (len(x), n):
        raise PhysicsError(f"the base has shape {list(value.shape)} at {len(x)} points; expected {[len(x), n]}")
    of = jacobian(base, x.detach())[:, :, conditions:]
    off = float(of.diagonal(dim1=1, dim2=2).sum(-1).abs().max().detach())
    if not off <= 1e4 * torch.finfo(x.dtype).eps * (1 + float(of.abs().max().detach())):
        raise PhysicsError(f"the base has the divergence {off:.2g}; expected 0: the sum would not be divergence-free")


def check_dimension(n: int) -> None:
    """Raise `PhysicsError` unless there is room for a divergence-free field."""
    if not isinstance(n, int) or n < 2:
        raise PhysicsError(
            f"n={n}: a divergence-free field needs n >= 2 dimensions (in one dimension it is a constant). For a "
            "conservation law in one space dimension, time is the second: use NeuralConservationLaw"
        )
