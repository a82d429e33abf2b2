"""What detection misses, in words that a person can read: sparse null-space vectors, parameter by parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from detect.oracle import NullSpace


def missing(null: NullSpace, claimed: Tensor, model: nn.Module) -> Iterator[str]:
    """The directions that nobody claimed, in words: sparse ones, in echelon form, parameter by parameter."""
    claimed = claimed[null.alive] * null.size[:, None]
    known = _orthonormal(claimed[:, null.contains(claimed)])
    for row in _echelon(null.basis / null.size[:, None]):
        new = row * null.size
        new = (new - known @ (known.T @ new)) / new.norm()
        if new.norm() > 1e-6:
            known = torch.cat([known, (new / new.norm())[:, None]], dim=1)
            full = torch.zeros(len(null.alive), dtype=torch.float64)
            full[null.alive] = row
            yield in_words(full, model)


def _orthonormal(vectors: Tensor) -> Tensor:
    """A basis of their span."""
    u, s, _ = torch.linalg.svd(vectors, full_matrices=False)
    return u[:, s > 1e-9 * s.amax()] if s.numel() else vectors


def _echelon(basis: Tensor) -> list[Tensor]:
    """The reduced row echelon form of the span of some columns; its rows tend to be sparse."""
    rows = basis.T.clone()
    done = 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        k = done + int(rows[done:, column].abs().argmax())
        if rows[k, column].abs() < 1e-6 * rows.abs().amax():
            continue
        rows[[done, k]] = rows[[k, done]]
        rows[done] /= rows[done, column].clone()
        others = torch.arange(len(rows)) != done
        rows[others] -= rows[others, column, None] * rows[done]
        done += 1
    return [torch.where(row.abs() < 1e-6, 0, row) for row in rows[:done]]


def in_words(direction: Tensor, model: nn.Module) -> str:
    """`fc1.weight[2]: 1, fc2.weight[:, 2]: -1`, where a parameter moves by one number on a block of indices."""
    words, at = [], 0
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        part = direction[at : at + p.numel()].reshape(p.shape)
        at += p.numel()
        for value in sorted({round(float(v), 4) for v in part[part != 0]}):
            words.append(f"{name}{_block((part - value).abs() < 1e-4)}: {value:g}")
    return ", ".join(words)


def _block(where: Tensor) -> str:
    axes = []
    for d, n in enumerate(where.shape):
        here = where.movedim(d, 0).reshape(n, -1).any(1).nonzero().flatten().tolist()
        if len(here) == n and n > 1:
            axes.append(":")
        elif len(here) > 1 and len({b - a for a, b in pairwise(here)}) == 1:
            axes.append(f"{here[0]}:{here[-1] + 1}:{here[1] - here[0]}".removesuffix(":1"))
        else:
            axes.append(str(here[0]) if len(here) == 1 else str(here))
    full = math.prod(where.movedim(d, 0).reshape(n, -1).any(1).sum().item() for d, n in enumerate(where.shape))
    return f"[{', '.join(axes)}]" * bool(axes) + ("" if full == where.sum() else f" ({int(where.sum())} of them)")
