"""Matrix symmetries: what writes n values is multiplied by an invertible matrix M, what reads them by its inverse.

Where nothing but linear maps lie in between, W2 W1 = (W2 M^-1)(M W1), so the whole group GL(n) leaves a network's
function alone. Its members are taken from its Lie algebra gl(n) in two families: the symmetric generators

    S_jk = (E_jk + E_kj) / 2,  j <= k         theta -> exp(alpha S) theta for writers, exp(-alpha S) theta for readers

whose charges are the entries of the matrix C = W1 W1^T - W2^T W2, conserved by gradient flow (Arora, Cohen & Hazan,
ICML 2018; Du, Hu & Lee, NeurIPS 2018), and the skew-symmetric generators, rotations,

    A_jk = (E_jk - E_kj) / 2,  j < k          theta -> exp(alpha A) theta for writers and readers

which have no charge: the angular momentum that belongs to a rotation is zero under gradient flow, always.

A family may also be followed along k < n directions u: the generators (u_a u_b^T + u_b u_a^T) / 2, a <= b, are members
of gl(n) too, and their charges are u_a^T C u_b. The directions are fixed random signs / sqrt(n), the same in every
block and, drawn as integers, on every machine. In the mean over independent a and b, n^2 (u_a^T C u_b)^2 is |C|^2.

Shapes: a family has `blocks` independent matrices of n x n (attention heads, for example), and members (block, j, k) in
this order. A term's `matrices` are [blocks, n, rest]: rows are mixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from neuromech.errors import SymmetryError
from neuromech.params import Params
from neuromech.symmetry.term import Term

SEED = 0x51D  # of a generator of our own: every run looks along the same directions


def directions(n: int, k: int) -> Tensor:
    """The k directions along which matrices of n x n are followed: [n, k], float64, columns of length one."""
    drawn = torch.randint(2, (n, k), generator=torch.Generator().manual_seed(SEED))
    return (2.0 * drawn.double() - 1.0) / math.sqrt(n)


def members(blocks: int, n: int, skew: bool) -> int:
    """The size of a family of n x n matrices, or of one along n directions."""
    return blocks * (n * (n - 1) // 2 if skew else n * (n + 1) // 2)


def shape_of(term: Term, shape: Sequence[int]) -> tuple[int, int]:
    """(blocks, n) of a term in a parameter of `shape`. Raises `SymmetryError` if it mixes no axis."""
    if term.along is None:
        raise SymmetryError(f"{term}: a term of a matrix symmetry says which axis is mixed (along)")
    return term.size(shape), term.view(shape)[term.along]


def assemble(entries: Tensor, n: int, skew: bool) -> Tensor:
    """Entries [size], one a member, as matrices [blocks, n, n]: symmetric with these entries on and above the diagonal,
    or skew-symmetric with them above it."""
    j, k = torch.triu_indices(n, n, offset=int(skew), device=entries.device)
    out = entries.new_zeros(entries.numel() // len(j), n, n)
    out[:, j, k] = entries.reshape(len(out), -1)
    out[:, k, j] = out[:, j, k] * (-1 if skew else 1)
    return out


def algebra(alpha: Tensor, n: int, skew: bool, along: int = 0) -> Tensor:
    """The element sum_i alpha_i G_i of the Lie algebra, G_i = S_jk or A_jk, for `alpha` [size]: [blocks, n, n].

    `along`: so many directions take the place of the axes; 0: none do."""
    whole = assemble(alpha, along or n, skew) / 2
    whole = whole + torch.diag_embed(whole.diagonal(dim1=1, dim2=2))
    if not along:
        return whole
    u = directions(n, along).to(whole)
    return u @ whole @ u.T


def tangent(terms: Sequence[Term], params: Mapping[str, Tensor], alpha: Tensor, skew: bool, along: int = 0) -> Params:
    """d theta under the generators of `alpha` [size], over the parameters that move."""
    acting = _Acting(terms, params, alpha, skew, along)
    out: Params = {}
    for t in terms:
        p = params[t.parameter]
        moved = t.with_matrices(torch.zeros_like(p), acting.on(t, p) @ t.matrices(p))
        out[t.parameter] = out[t.parameter] + moved if t.parameter in out else moved
    return out


def transform(terms: Sequence[Term], params: Mapping[str, Tensor], alpha: Tensor, skew: bool, along: int = 0) -> Params:
    """The parameters that move, moved by exp of the generators of `alpha` [size]."""
    acting = _Acting(terms, params, alpha, skew, along, torch.linalg.matrix_exp)
    out: Params = {}
    for t in terms:  # terms of one parameter act on different axes, and so commute
        p = out.get(t.parameter, params[t.parameter])
        out[t.parameter] = t.with_matrices(p, acting.on(t, p) @ t.matrices(p))
    return out


def charge(terms: Sequence[Term], params: Mapping[str, Tensor], skew: bool, along: int = 0) -> Tensor:
    """The entries C_jk, j <= k, of sum_t weight_t X_t X_t^T, member by member, or u_a^T C u_b for the directions
    `along`; zeros for rotations. [size], float64."""
    first = params[terms[0].parameter]
    blocks, n = shape_of(terms[0], first.shape)
    if skew:
        return torch.zeros(members(blocks, n, skew), dtype=torch.float64, device=first.device)
    total = torch.zeros(blocks, n, n, dtype=torch.float64, device=first.device)
    for t in terms:
        x = t.matrices(params[t.parameter].detach().double())
        total += float(t.weight) * x @ x.mT
    if along:
        u = directions(n, along).to(first.device)
        total = u.T @ total @ u
    return upper(total)


def upper(matrices: Tensor) -> Tensor:
    """What a symmetric matrix holds: the entries on and above its diagonal, row by row; [..., blocks, n, n] to
    [..., size]."""
    j, k = torch.triu_indices(matrices.shape[-1], matrices.shape[-1], device=matrices.device)
    return matrices[..., j, k].flatten(-2)


class _Acting:
    """The generator, or a function of it, as it acts on the rows of a term's matrices: made once for all terms alike,
    as the stream of a deep network is in all of its layers."""

    def __init__(
        self, terms: Sequence[Term], params: Mapping[str, Tensor], alpha: Tensor, skew: bool, along: int,
        function: Callable[[Tensor], Tensor] = torch.clone,
    ) -> None:  # fmt: skip
        _, n = shape_of(terms[0], params[terms[0].parameter].shape)
        self._generator, self._skew, self._function = algebra(alpha, n, skew, along), skew, function
        self._made: dict[tuple[bool, torch.dtype, torch.device], Tensor] = {}

    def on(self, t: Term, p: Tensor) -> Tensor:
        """On the parameter p of a term: that of the inverse transpose for readers."""
        forwards = t.weight > 0 or self._skew
        key = forwards, p.dtype, p.device
        if key not in self._made:
            g = self._generator.to(dtype=p.dtype, device=p.device)
            self._made[key] = self._function(g if forwards else -g)
        return self._made[key]
