"""How a divergence-free field is differentiated out of its potential: the schemes, and which one is cheapest.

Matrix form (Richter-Powell et al. 2022, eq. 4): the potential gives the n(n-1)/2 entries above the diagonal of an
antisymmetric A(x), row by row, and v_i = sum_j d_j A_ij. Vector form (eq. 6): the potential gives b(x) in R^n and
A = J_b - J_b^T, so that v = Lap b - grad div b.

    reverse     one cotangent an entry of A                      matrix form
    forward     n tangents, the linear readout contracted        matrix form
    laplacian   value, n tangents and Laplacian, then an adjoint vector form
    nested      derivatives of derivatives, by torch.func        both; slow and obviously right, for checks
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn import functional as F

from neuromech.physics.fields.domain import FreeSpace
from neuromech.physics.fields.elementary import elementary
from neuromech.physics.fields.layers import stack_of
from neuromech.physics.fields.taylor import gradients, laplacian_minus_grad_div, tangents

PotentialForm = Literal["matrix", "vector"]
DerivativeScheme = Literal["reverse", "forward", "laplacian", "nested"]
SCHEMES: dict[str, tuple[DerivativeScheme, ...]] = {
    "matrix": ("reverse", "forward", "nested"),
    "vector": ("laplacian", "nested"),
}


def outputs_of(form: PotentialForm, n: int) -> int:
    """How many outputs the potential must have."""
    return n * (n - 1) // 2 if form == "matrix" else n


def cheapest(form: PotentialForm, n: int) -> DerivativeScheme:
    """n(n-1)/2 cotangents are fewer than n tangents for n = 2, as many for n = 3; measured, see benchmarks."""
    if form == "vector":
        return "laplacian"
    return "reverse" if n == 2 else "forward"


def antisymmetric(entries: Tensor, n: int) -> Tensor:
    """[..., n(n-1)/2] above the diagonal, row by row -> antisymmetric [..., n, n]."""
    index, sign = _layout(n, entries)
    matrix: Tensor = entries.index_select(-1, index.flatten()).unflatten(-1, (n, n)) * sign
    return matrix


def _layout(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Which entry stands at (i, j), and its sign (0 on the diagonal): two [n, n] tables."""
    rows, columns = torch.triu_indices(n, n, 1, device=like.device)
    index = torch.zeros(n, n, dtype=torch.long, device=like.device)
    index[rows, columns] = index[columns, rows] = torch.arange(len(rows), device=like.device)
    upper = torch.ones(n, n, dtype=like.dtype, device=like.device).triu(1)
    return index, upper - upper.T


def matrix_field(potential: nn.Module, x: Tensor, n: int, scheme: DerivativeScheme) -> Tensor:
    """v [B, n] of the matrix form at points x [B, inputs], whose last n columns are differentiated."""
    if scheme == "nested":
        f = elementary(potential)
        return _trace_of_rows(lambda y: antisymmetric(f(y.unsqueeze(0))[0], n), x, n)
    stack = stack_of(potential)
    readout = stack.readout
    if scheme == "forward" and readout is not None:
        _, t = tangents(stack, x, n, skip_last=True)
        rows = antisymmetric(readout.weight.T, n).permute(2, 0, 1).flatten(0, 1)  # [(j, k), i]
        return t.expand(len(x), -1, -1).flatten(1) @ rows
    return matrix_derivatives(potential, x, n, scheme)[1].sum(-1)


def matrix_derivatives(potential: nn.Module, x: Tensor, n: int, scheme: DerivativeScheme) -> tuple[Tensor, Tensor]:
    """A [B, n, n], and d_j A_ij [B, n, n] before it is summed over j."""
    stack = stack_of(potential)
    index, sign = _layout(n, x)
    if scheme == "reverse":
        value, g = gradients(stack, x, n)
        return antisymmetric(value, n), _pick(g.transpose(1, 2), index, sign)
    readout = stack.readout
    if readout is None:
        value, t = tangents(stack, x, n)
        return antisymmetric(value, n), _pick(t, index, sign)
    h, t = tangents(stack, x, n, skip_last=True)
    entries = h @ readout.weight.T + (0 if readout.bias is None else readout.bias)
    rows = antisymmetric(readout.weight.T, n)  # [k, i, j]
    return antisymmetric(entries, n), torch.einsum("bjk,kij->bij", t.expand(len(x), -1, -1), rows)


def field_of_jet(
    value: Tensor, first: Tensor, second: Tensor, n: int, domain: FreeSpace | None = None, x: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """v [B, n] of the matrix form and its derivatives by all m inputs [B, n, m], of which the last n are space.

    From the entries of A [B, k] and their derivatives [B, m, k], [B, m, m, k] (`taylor.hessians`); A is multiplied with
    the gates of the `domain` at x [B, n], if it has walls.
    """
    rest = slice(first.shape[1] - n, None)
    if domain is not None and domain.walls and x is not None:
        rows, columns = torch.triu_indices(n, n, 1, device=value.device)
        gate = domain.gates(x)[0][:, rows, columns]
        dg, ddg = (g[..., rows, columns] for g in domain.gate_bends(x))
        g, dg = gate[:, None, None], F.pad(dg, (0, 0, rest.start, 0))
        both = first.unsqueeze(1) * dg.unsqueeze(2)  # both[l, j] = g_l d_j A
        second = g * second + both + both.transpose(1, 2)
        second = second + F.pad(ddg, (0, 0, rest.start, 0, rest.start, 0)) * value[:, None, None]
        first = gate.unsqueeze(1) * first + dg * value.unsqueeze(1)
    v = torch.einsum("bjij->bi", antisymmetric(first[:, rest], n))
    return v, torch.einsum("bljij->bil", antisymmetric(second[:, :, rest], n))


def _pick(t: Tensor, index: Tensor, sign: Tensor) -> Tensor:
    """From d_j of every entry, [B, j, entries], the derivatives d_j A_ij: [B, i, j]."""
    columns = torch.arange(len(index), device=t.device).expand_as(index)
    return t[:, columns, index] * sign


def vector_field(potential: nn.Module, x: Tensor, n: int, scheme: DerivativeScheme) -> Tensor:
    """v [B, n] of the vector form at points x [B, inputs], whose last n columns are differentiated."""
    if scheme == "laplacian":
        return laplacian_minus_grad_div(stack_of(potential), x, n)

    f = elementary(potential)

    def a(y: Tensor) -> Tensor:
        j = jacrev(lambda z: f(z.unsqueeze(0))[0])(y)[:, -n:]
        field: Tensor = j - j.T
        return field

    return _trace_of_rows(a, x, n)


def _trace_of_rows(a: Callable[[Tensor], Tensor], x: Tensor, n: int) -> Tensor:
    """sum_j d_j A_ij, of a function point -> A, by the full Jacobian of A."""

    def v(y: Tensor) -> Tensor:
        jacobian = jacrev(a)(y)[..., -n:]
        return torch.einsum("ijj->i", jacobian)

    return vmap(v)(x)
