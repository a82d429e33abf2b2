"""Energies that write in place, as people fill mass matrices, against their own values and autograd."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.energy import discrete_gradient

Energy = Callable[[Tensor], Tensor]


def mass_matrix(u: Tensor) -> Tensor:
    q, p = u[:, :2], u[:, 2:]
    m = torch.zeros(len(u), 2, 2, dtype=u.dtype)
    m[:, 0, 0] = 2 + q[:, 1].cos()
    m[:, 0, 1] = m[:, 1, 0] = 1 + 0.5 * q[:, 1].cos()
    m[:, 1, 1] = 1.0
    return 0.5 * (p * torch.linalg.solve(m, p)).sum(-1) + q.cos().sum(-1)


def diagonal(u: Tensor) -> Tensor:
    m = torch.zeros(len(u), 2, 2, dtype=u.dtype)
    m.diagonal(dim1=1, dim2=2).copy_(u[:, :2] ** 2 + 1)
    m[:, 0, 1].add_(u[:, 2])
    return m.square().sum((1, 2))


def slices(u: Tensor) -> Tensor:
    y = u.clone()
    y[:, ::2] *= 2
    y[:, 1:3] -= u[:, 0:2]
    y[:, -1].fill_(3.0)
    return y.pow(2).sum(-1)


def another_name(u: Tensor) -> Tensor:
    y = u.clone()
    z = y[:, 0]
    y.mul_(2)
    return z**2 + y[:, 1]


def turned(u: Tensor) -> Tensor:
    m = torch.zeros(len(u), 4, 2, dtype=u.dtype)
    m.transpose(1, 2)[:, 0] = u
    m.view(-1, 8)[:, 1] = u[:, 1] ** 3
    return m.square().sum((1, 2))


def broadcast(u: Tensor) -> Tensor:
    y = torch.zeros(len(u), 3, dtype=u.dtype)
    y[:] = u[:, :1]
    y.sub_(u[:, 1:2], alpha=2)
    return y.pow(4).sum(-1)


def one_by_one(u: Tensor) -> Tensor:
    y = torch.empty(len(u), 3, dtype=u.dtype)
    for k in range(3):
        y[:, k] = u[:, k] * u[:, k + 1]
    return y.square().sum(-1)


def names_of_names(u: Tensor) -> Tensor:
    y = u.clone()
    a = y[:, :2]
    b = a[:, 0]
    b += 1
    a *= 2
    y += 1
    return (y * y).sum(-1) + b * a[:, 1]


def check(energy: Energy, seed: int = 0) -> None:
    """The identity to rounding, and the gradient where both states are one."""
    u, v = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).unbind(0)
    dg = discrete_gradient(energy)
    change = energy(v.clone()) - energy(u.clone())
    torch.testing.assert_close((dg(u, v) * (v - u)).sum(-1), change, rtol=1e-12, atol=1e-12)
    at = u.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(at * 1).sum(), at)
    torch.testing.assert_close(dg(u, u), gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "energy", [mass_matrix, diagonal, slices, another_name, turned, broadcast, one_by_one, names_of_names]
)
def test_what_is_written_in_place_keeps_the_identity(energy: Energy) -> None:
    check(energy)


def written_at_random(seed: int) -> Energy:
    """Views of views of one tensor, written one after the other, of which some are read."""
    draw = random.Random(seed)
    views: list[tuple[int, Callable[[Tensor], Tensor]]] = []
    kinds: list[Callable[[Tensor], Tensor]] = [
        lambda x: x[:, 0], lambda x: x[:, -2:], lambda x: x[:, ::2], lambda x: x.mT, lambda x: x.unsqueeze(1),
        lambda x: x.diagonal(dim1=-2, dim2=-1), lambda x: x.flatten(1),
    ]  # fmt: skip
    ops: list[Callable[[Tensor, Tensor], object]] = [
        lambda x, s: x.mul_(1.5), lambda x, s: x.add_(s), lambda x, s: x.copy_(s.expand_as(x)), lambda x, s: x.tanh_(),
        lambda x, s: x.zero_(), lambda x, s: x.fill_(0.5), lambda x, s: x.sub_(s, alpha=0.3),
    ]  # fmt: skip
    for _ in range(6):
        views.append((draw.randrange(len(views) + 1), draw.choice(kinds)))
    writes = [(draw.randrange(len(views) + 1), draw.choice(ops), draw.randrange(4)) for _ in range(5)]

    def energy(u: Tensor) -> Tensor:
        names = [(u[:, :, None] * u[:, None, :]).contiguous()]
        for of, kind in views:
            try:
                names.append(kind(names[of]))
            except (RuntimeError, IndexError):  # it has no such view
                names.append(names[of])
        for k, op, which in writes:
            x = names[k]
            op(x, u[:, which].reshape(-1, *[1] * (x.ndim - 1)))
        return names[0].sin().sum((1, 2)) + names[-1].reshape(len(u), -1).square().sum(1) + u.square().sum(1)

    return energy


def is_differentiable(energy: Energy) -> bool:
    """Whether autograd stands for it: it needs some of the values that are written over."""
    at = torch.randn(5, 4, dtype=torch.float64).requires_grad_()
    try:
        torch.autograd.grad(energy(at * 1).sum(), at)
    except RuntimeError:
        return False
    return True


def test_random_writes() -> None:
    sound = [seed for seed in range(40) if is_differentiable(written_at_random(seed))]
    assert len(sound) > 15
    for seed in sound:
        check(written_at_random(seed), seed)


def test_what_reaches_memory_in_other_ways_is_refused() -> None:
    def strided(u: Tensor) -> Tensor:
        y = u.clone()
        y.as_strided((len(u), 2), (4, 1)).mul_(2)
        return y.square().sum(1)

    with pytest.raises(PhysicsError, match="writes in place into memory that has other names"):
        discrete_gradient(strided)(torch.randn(4, 4), torch.randn(4, 4))
