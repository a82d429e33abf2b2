"""Charges of matrices: products of the rows of weights, gradients and buffers with each other.

A charge C_ab = sum_t weight_t <x_a, x_b>, x_a row a of the matrix X_t of a term, is the bilinear form <X, S_ab X> of a
symmetric generator, so everything that holds for <theta, D theta> holds for it, with

    <A, S_ab B> = (<a_a, b_b> + <a_b, b_a>) / 2

Along directions u (mixing.py) row a is u_a^T X: one product of a few rows with each matrix, whatever its size, and then
all is as for so many rows. Cost of a vector: one reading of what it holds of the parameters in matrix families, and as
many multiplications an element as there are rows; of a pair that many squared for each column.

Rows along directions are added up in float32 where that is the format of the parameters, or they have a coarser one,
and no setting of PyTorch makes products coarser still; so are sums of elements (sums.py), and an update rounds as much.
All else is in float64, which no setting touches (TF32 and bfloat16 products are of float32). A parameter is taken as a
whole, its columns in chunks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuromech.dynamics.forms.sums import Block
from neuromech.dynamics.forms.vectors import Pair, Values, whole
from neuromech.symmetry import Term, mixing

CHUNK_CPU, CHUNK = 2**17, 2**22  # elements that are widened at once


class _Use(NamedTuple):
    """A term of a block; `matrices`: those of its independent ones that are asked for."""

    block: int
    term: Term
    matrices: slice


class Products:
    """The bilinear forms of `blocks`, all of matrix families; those numbered `few` can be asked for alone."""

    def __init__(self, blocks: Sequence[Block], params: Values, few: Collection[int] = ()) -> None:
        self._blocks, self._few = tuple(blocks), frozenset(few)
        self.rows = sum(b.size for b in blocks)
        self._uses: dict[str, list[_Use]] = {}
        self._shape: list[tuple[int, int]] = []  # of each block: matrices that are read, rows of each
        self._own: list[slice] = []  # of each block: its members among those of the matrices that are read
        self._along: list[Tensor | None] = []  # of each block: its directions, as signs
        for i, b in enumerate(blocks):
            n = {mixing.shape_of(t, params[t.parameter].shape)[1] for t in b.terms}.pop()
            m = b.directions or n
            each = m * (m + 1) // 2
            first = params[b.terms[0].parameter]
            members = b.members or range(b.terms[0].size(first.shape) * each)
            read = slice(members.start // each, -(-members.stop // each))
            self._shape.append((read.stop - read.start, m))
            self._own.append(slice(members.start - read.start * each, members.stop - read.start * each))
            # One copy a matrix: a product that broadcasts takes twice as long.
            signs = mixing.directions(n, m).sign().float().T.expand(read.stop - read.start, m, n)
            self._along.append(signs.contiguous().to(first.device) if b.directions else None)
            for t in b.terms:
                self._uses.setdefault(t.parameter, []).append(_Use(i, t, read))
        devices = [params[name].device for name in self._uses]
        self.device = devices[0] if devices else torch.device("cpu")

    def __call__(self, pairs: Sequence[Pair], few: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """<a, D b> for every pair: [pairs, rows]; and |a_a| |b_b|, without signs, for the first one: [rows].

        Of pairs numbered `few`, only the rows of the few blocks are meant.
        """
        out = [torch.zeros(len(pairs), *s, s[1], dtype=torch.float64, device=self.device) for s in self._shape]
        square = [torch.zeros(s, dtype=torch.float64, device=self.device) for s in self._shape]
        for name, uses in self._uses.items():
            wanted = {id(v): v for k, pair in enumerate(pairs) for v in pair if k not in few or self._asked(uses)}
            entries = {key: whole(v, name) for key, v in wanted.items()}
            for block, term, which in uses:
                asked = [k for k in range(len(pairs)) if k not in few or block in self._few]
                vectors = {id(v) for k in asked for v in pairs[k]}
                for rows in self._rows({key: entries[key] for key in vectors}, term, which, self._along[block]):
                    for k in asked:
                        a, b = (rows.get(id(v)) for v in pairs[k])
                        if a is not None and b is not None:
                            x, y = a.to(self.device), b.to(self.device)
                            out[block][k].baddbmm_(x, y.mT, alpha=float(term.weight))
                    a = rows.get(id(pairs[0][0])) if pairs else None
                    if a is not None:
                        square[block].add_(a.square().sum(-1).to(self.device), alpha=float(abs(term.weight)))
        signed, unsigned = [], []
        for i, (kind, own) in enumerate(zip(self._blocks, self._own, strict=True)):
            length = square[i].sqrt()
            sizes = mixing.upper(length[..., :, None] * length[..., None, :])[own]
            if kind.lengths:
                found = [out[i][k].diagonal(dim1=-2, dim2=-1).clamp(min=0.0).sqrt() for k in range(len(pairs))]
                signed.append(torch.stack([mixing.upper(x[..., :, None] * x[..., None, :])[own] for x in found]))
            else:
                signed.append(mixing.upper((out[i] + out[i].mT) / 2)[:, own])
            unsigned.append(sizes)
        none = torch.zeros(len(pairs), 0, dtype=torch.float64, device=self.device)
        return torch.cat([none, *signed], dim=1), torch.cat([none.new_zeros(0), *unsigned])

    def _asked(self, uses: Sequence[_Use]) -> bool:
        return any(use.block in self._few for use in uses)

    @staticmethod
    def _rows(
        entries: dict[int, Tensor | None], term: Term, which: slice, along: Tensor | None
    ) -> Iterator[dict[int, Tensor]]:
        """The rows of each vector's matrices, some columns at a time: [matrices, rows, columns], float64."""
        there = {key: term.matrices(x)[which] for key, x in entries.items() if x is not None}
        if not there:
            return
        first = next(iter(there.values()))
        count, n, columns = first.shape
        single = along is not None and _multiplies_in_single(first.device)
        many = max(1, (CHUNK_CPU if first.device.type == "cpu" else CHUNK) // max(1, count * n))
        for start in range(0, columns, many):
            yield {key: _moved(x[..., start : start + many], along, single) for key, x in there.items()}


def _moved(x: Tensor, along: Tensor | None, single: bool) -> Tensor:
    """The rows of matrices [matrices, n, columns], or u_a^T X for directions with the signs `along`."""
    if along is None:
        return x.double()
    dtype = torch.float32 if single and x.dtype.itemsize <= 4 else torch.float64
    return torch.bmm(along.to(x.device, dtype), x.to(dtype)).double().mul_(x.shape[1] ** -0.5)


def _multiplies_in_single(device: torch.device) -> bool:
    """Whether a product of float32 is rounded to float32, by the settings; elsewhere than on a CPU float64 is asked."""
    if device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    backends = torch.backends, torch.backends.mkldnn, getattr(torch.backends.mkldnn, "matmul", None)
    told = [x for b in backends if (x := getattr(b, "fp32_precision", None)) is not None]
    return all(x in ("none", "ieee") for x in told) if told else torch.get_float32_matmul_precision() == "highest"
