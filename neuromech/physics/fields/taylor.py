"""Derivatives carried through a `Stack` by hand: tangents, Laplacian, cotangents; pure tensor operations.

Shapes: B points, n directions (the last n of the potential's inputs), k features. Tangents are [B, n, k], or
[1, n, k] as long as they are the same at every point. Where the stack has a prefix, `torch.func` opens it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jacrev, jvp, vjp, vmap
from torch.nn import functional as F

from neuromech.compat import load_forward_mode
from neuromech.physics.fields.elementary import TensorMap
from neuromech.physics.fields.layers import Affine, Stack

Pull = Callable[[Tensor | None, Tensor], Tensor]


def directions(x: Tensor, n: int) -> Tensor:
    """The last n unit vectors of the input space: [n, inputs]."""
    return torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[-n:]


def tangents(stack: Stack, x: Tensor, n: int, skip_last: bool = False) -> tuple[Tensor, Tensor]:
    """Value and n first derivatives: [B, k], [B, n, k]. `skip_last` stops before the last step."""
    h, t = _open(stack, x, n)
    for step in stack.steps[: len(stack.steps) - skip_last]:
        if isinstance(step, Affine):
            h, t = F.linear(h, step.weight, step.bias), F.linear(t, step.weight)
        else:
            h, slope, _ = step(h)
            t = slope.unsqueeze(1) * t
    return h, t


def gradients(stack: Stack, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Value [B, k] and the gradient of every output [B, k, n], by cotangents: for few outputs."""
    h, pull = _open_backwards(stack, x)
    slopes = []
    for step in stack.steps:
        if isinstance(step, Affine):
            h = F.linear(h, step.weight, step.bias)
        else:
            h, slope, _ = step(h)
            slopes.append(slope)
    c = torch.eye(h.shape[-1], dtype=x.dtype, device=x.device).unsqueeze(0)
    for step in reversed(stack.steps):
        c = c @ step.weight if isinstance(step, Affine) else c * slopes.pop().unsqueeze(1)
    if pull is not None:
        c = pull(c)
    return h, c[..., -n:].expand(len(x), -1, -1)


def laplacian_minus_grad_div(stack: Stack, x: Tensor, n: int) -> Tensor:
    """Lap b - grad div b of the stack's n outputs: [B, n].

    Forward, one pass carries value, tangents T_j and Laplacian; backward, one adjoint pass takes the gradient of
    div b = sum_j <e_j, T_j>, in which both the tangents and the value have cotangents.
    """
    h, t, lap, pull = _open_twice(stack, x, n)
    tape: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in stack.steps:
        if isinstance(step, Affine):
            h, t = F.linear(h, step.weight, step.bias), F.linear(t, step.weight)
            lap = None if lap is None else F.linear(lap, step.weight)
        else:
            h, slope, bend = step(h)
            curved = bend * (t * t).sum(1)
            lap = curved if lap is None else slope * lap + curved
            tape.append((slope, bend, t))
            t = slope.unsqueeze(1) * t
    if lap is None:
        return torch.zeros_like(x[:, -n:])  # affine in x
    ct, ch = directions(h, n).unsqueeze(0), None
    for step in reversed(stack.steps):
        if not isinstance(step, Affine):
            slope, bend, t = tape.pop()
            curved = bend * (ct * t).sum(1)
            ch = curved if ch is None else slope * ch + curved
            if tape or pull:
                ct = slope.unsqueeze(1) * ct
        else:
            ch = None if ch is None else ch @ step.weight
            if tape or pull:
                ct = ct @ step.weight
    if pull:
        ch = pull(ch, ct)
    assert ch is not None
    return lap - ch[:, -n:]


def _open(stack: Stack, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    e = directions(x, n)
    if stack.prefix is None:
        return x, e.unsqueeze(0)
    return _pushed(stack.prefix, x, e)


def _pushed(f: TensorMap, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) [B, k] and its derivatives along the n directions `e`: [B, n, k]."""
    load_forward_mode()
    values, tangents = vmap(lambda v: jvp(f, (x,), (v.expand_as(x),)))(e)  # type: ignore[misc]
    return values[0], tangents.movedim(0, 1)


def _open_backwards(stack: Stack, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
    if stack.prefix is None:
        return x, None
    value, pull = vjp(stack.prefix, x)  # type: ignore[misc]
    return value, lambda c: vmap(lambda row: pull(row)[0], in_dims=1, out_dims=1)(c.expand(len(x), -1, -1))


def _open_twice(stack: Stack, x: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor | None, Pull | None]:
    """Value, tangents, Laplacian, and the adjoint of (value, tangents)."""
    f, e = stack.prefix, directions(x, n)
    if f is None:
        return x, e.unsqueeze(0), None, None

    def second(v: Tensor) -> Tensor:
        v = v.expand_as(x)
        second: Tensor = jvp(lambda y: jvp(f, (y,), (v,))[1], (x,), (v,))[1]
        return second

    (h, t), pull = vjp(lambda y: _pushed(f, y, e), x)  # type: ignore[misc]
    lap = vmap(second)(e).sum(0)

    def back(ch: Tensor | None, ct: Tensor) -> Tensor:
        pulled: Tensor = pull((torch.zeros_like(h) if ch is None else ch, ct.expand_as(t)))[0]
        return pulled

    return h, t, lap, back


def hessians(stack: Stack, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value [B, k], first [B, m, k] and second derivatives [B, m, m, k] by all m inputs; the stack has no prefix."""
    assert stack.prefix is None
    h, t = x, directions(x, x.shape[-1]).unsqueeze(0)
    m = len(t[0])
    rows, columns = torch.triu_indices(m, m, device=x.device)
    second: Tensor | None = None  # one row a pair of inputs
    for step in stack.steps:
        if isinstance(step, Affine):
            h, t = F.linear(h, step.weight, step.bias), F.linear(t, step.weight)
            second = None if second is None else F.linear(second, step.weight)
        else:
            h, slope, bend = step(h)
            # Slices, as the backward of an index with repetitions is slow.
            pairs = torch.cat([t[:, i : i + 1] * t[:, i:] for i in range(m)], 1)
            curved = bend.unsqueeze(1) * pairs
            second = curved if second is None else slope.unsqueeze(1) * second + curved
            t = slope.unsqueeze(1) * t
    if second is None:
        second = torch.zeros(1, len(rows), h.shape[-1], dtype=x.dtype, device=x.device)
    where = torch.zeros(m, m, dtype=torch.long, device=x.device)
    where[rows, columns] = where[columns, rows] = torch.arange(len(rows), device=x.device)
    full = second.index_select(1, where.flatten()).unflatten(1, (m, m))
    return h, t.expand(len(x), -1, -1), full.expand(len(x), -1, -1, -1)


def jacobian(f: TensorMap, x: Tensor, forward: bool = False) -> Tensor:
    """Of a function of each point by itself, [B, m] -> [B, k]: its Jacobians [B, k, m].

    `forward`: by m tangents, which is cheaper, and right as long as f has no fused operation (see `elementary`).
    """
    jacobian: Tensor
    if not forward:
        jacobian = vmap(jacrev(lambda y: f(y.unsqueeze(0))[0]))(x)
        return jacobian
    load_forward_mode()
    e = directions(x, x.shape[-1])
    jacobian = vmap(lambda v: jvp(f, (x,), (v.expand_as(x),))[1])(e).movedim(0, -1)
    return jacobian
