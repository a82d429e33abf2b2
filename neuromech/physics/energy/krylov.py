"""GMRES for a batch of equations, on the device of the data; the matrix is seen by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gmres(
    times: Callable[[Tensor], Tensor], f: Tensor, tolerance: float = 1e-2, size: int = 50, restarts: int = 20
) -> Tensor:
    """x with |A x - f| <= tolerance |f| of every sample [B, ...], A x = `times(x)` (Saad and Schultz 1986).

    All samples at once, where they are: a product with A serves the whole batch, each sample has a basis of its own.
    """
    x, r = torch.zeros_like(f), f
    norm = _norms(f)
    for _ in range(restarts):
        x = x + _cycle(times, r, tolerance * norm, min(size, f[0].numel()))
        r = f - times(x)
        if bool((_norms(r) <= tolerance * norm).all()):
            break
    return x


def _norms(x: Tensor) -> Tensor:
    norm: Tensor = x.flatten(1).norm(dim=1)
    return norm


def _cycle(times: Callable[[Tensor], Tensor], r: Tensor, wanted: Tensor, size: int) -> Tensor:
    """The correction in the Krylov space of r that leaves the least of it; Arnoldi's basis by Gram-Schmidt, twice."""
    beta = _norms(r)
    tiny = torch.finfo(r.dtype).tiny
    basis = [(r.flatten(1) / beta.clamp_min(tiny)[:, None])]  # [B, n] each
    h = r.new_zeros(len(r), size + 1, size)
    y = r.new_zeros(len(r), 0)
    for k in range(size):
        w = times(basis[k].reshape(r.shape)).flatten(1)
        known, before = torch.stack(basis, 1), w.norm(dim=1)
        for _ in range(2):
            along = (known @ w.unsqueeze(-1)).squeeze(-1)
            h[:, : k + 1, k] += along
            w = w - (along.unsqueeze(1) @ known).squeeze(1)
        left = w.norm(dim=1)
        left = torch.where(left > 10 * torch.finfo(r.dtype).eps * before, left, 0.0)  # the space is whole
        h[:, k + 1, k] = left
        basis.append(torch.where(left[:, None] > 0, w / left.clamp_min(tiny)[:, None], 0.0))
        right = r.new_zeros(len(r), k + 2)
        right[:, 0] = beta
        part = h[:, : k + 2, : k + 1]
        y = (torch.linalg.pinv(part) @ right.unsqueeze(-1)).squeeze(-1)
        if bool((((part @ y.unsqueeze(-1)).squeeze(-1) - right).norm(dim=1) <= wanted).all()):
            break
    return (y.unsqueeze(1) @ torch.stack(basis[: y.shape[1]], 1)).reshape(r.shape)
