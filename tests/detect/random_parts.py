"""More operators for random networks: parts of tensors, gates, attention, comparisons, norms by hand.

Importing this file enters them into `random_nets.OPERATORS`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detect.random_nets import RandomNet, Step, operator


@operator
def halves(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """The channels in two, put together again or against each other."""
    c = x.shape[1]
    if c < 2 or (c % 2 and k < 6):
        return None
    functions = (
        lambda a, b: torch.cat([b, a], 1), lambda a, b: torch.cat([F.relu(a), b], 1), lambda a, b: a * b,
        lambda a, b: a * torch.sigmoid(b), lambda a, b: F.relu(a) * b, lambda a, b: a + b,
    )  # fmt: skip
    if k < 6:
        return lambda x, _: functions[k](*x.chunk(2, dim=1))
    if k == 6:
        return lambda x, _: torch.cat([F.relu(x[:, :1]), x[:, 1:] * 2], dim=1)
    return lambda x, _: torch.cat(x.split([1, c - 1], dim=1)[::-1], dim=1)


@operator
def split_layers(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """A layer of its own for each part of the last axis."""
    n = x.shape[-1]
    if n < 2:
        return None
    a, b = m.module(nn.Linear(1, 2, bias=k % 2 == 0)), m.module(nn.Linear(n - 1, 2, bias=k % 2 == 0))
    joined = (
        torch.add,
        torch.mul,
        lambda a, b: torch.cat([a, b], -1),
        lambda a, b: torch.stack([a, b], -1).flatten(-2),
    )
    return lambda x, _: joined[k // 2](a(x[..., :1]), b(x[..., 1:]))


@operator
def joined(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """Beside an earlier tensor, its negative, a constant or a parameter."""
    fit = [i for i, y in enumerate(seen) if y.shape[:1] + y.shape[2:] == x.shape[:1] + x.shape[2:]]
    i = fit[k % len(fit)]
    if k < 3:
        return (lambda x, seen: torch.cat([x, seen[i]], 1)) if x.shape[1] + seen[i].shape[1] < 9 else None
    if k == 3:
        return lambda x, _: torch.cat([x, -x], dim=1)
    if k == 4:
        return lambda x, _: torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    if k == 5:
        return lambda x, _: torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
    w = m.weight(1, 1, *x.shape[2:])
    return lambda x, _: torch.cat([w().expand(len(x), *w().shape[1:]), x], dim=1)


@operator
def shifted(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """The same channels at other places, or only some of them."""
    c = x.shape[1]
    order = torch.randperm(c, generator=torch.Generator().manual_seed(k))
    functions = (
        lambda x: x.roll(1, 1), lambda x: x.flip(1), lambda x: x[:, order], lambda x: x.index_select(1, order[:2]),
        lambda x: x[:, ::2], lambda x: F.pad(x, (0, 1)), lambda x: x[..., -1:], lambda x: x.repeat_interleave(2, 1),
    )  # fmt: skip
    return (lambda x, _: functions[k](x)) if c < 7 else None


@operator
def compared(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    functions = (
        lambda x: x.clamp(min=0), lambda x: torch.where(x > 0, x, 0.2 * x), lambda x: torch.maximum(x, -0.5 * x),
        lambda x: x * (x > 0), lambda x: x.sort(1).values, lambda x: x.max(1, keepdim=True).values,
        lambda x: x.topk(1, 1).values, lambda x: torch.minimum(x, x.square()),
    )  # fmt: skip
    return lambda x, _: functions[k](x)


@operator
def norm_by_hand(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """Centred, divided by a root mean square, by a standard deviation, by a sum."""
    dim = (-1, 1)[k % 2]
    if x.shape[dim] < 3:
        return None
    functions = (
        lambda x: x * torch.rsqrt(x.square().mean(dim, keepdim=True) + m.eps),
        lambda x: x - x.mean(dim, keepdim=True),
        lambda x: (x - x.mean(dim, keepdim=True)) / (x.var(dim, keepdim=True, unbiased=False) + m.eps).sqrt(),
        lambda x: x.square() / x.square().sum(dim, keepdim=True),
    )
    return lambda x, _: functions[k // 2](x)


@operator
def attention(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """Over the last but one axis, with one head or two, of several kernels."""
    if x.numel() > 60 or (x.ndim == 4 and x.shape[-2] < 2):
        return None
    heads = 1 + k % 2
    q, key, v = (m.module(nn.Linear(x.shape[-1], 2 * heads, bias=k >= 4)) for _ in range(3))
    kernels = (
        lambda s: torch.softmax(s, -1), lambda s: s, F.relu, lambda s: s.square() / s.square().sum(-1, keepdim=True),
    )  # fmt: skip

    def step(x: Tensor, _: list[Tensor]) -> Tensor:
        a, b, c = (p(x).unflatten(-1, (heads, 2)).transpose(-2, -3) for p in (q, key, v))
        return (kernels[k // 2](a @ b.mT / 2) @ c).transpose(-2, -3).flatten(-2)

    return step


@operator
def fused_attention(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    if x.ndim < 4 or x.numel() > 60 or x.shape[-2] < 2:
        return None
    qkv = m.module(nn.Linear(x.shape[-1], 6, bias=k >= 4))
    return lambda x, _: F.scaled_dot_product_attention(*qkv(x).chunk(3, dim=-1), is_causal=k % 2 == 0)


@operator
def product(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """Einsums, outer products, bilinear forms, a low rank."""
    n = x.shape[-1]
    if k < 2:
        w = m.weight(n, 3) if k else m.weight(2, n)
        return lambda x, _: torch.einsum("...i,ij->...j" if k else "...i,ji->...j", x, w())
    if k == 2 and x.ndim == 2 and n < 4:
        return lambda x, _: (x[:, :, None] * x[:, None]).flatten(1)
    if k == 3 and x.ndim == 2:
        layer = m.module(nn.Bilinear(n, n, 2))
        return lambda x, _: layer(x, x)
    if k in (4, 5):
        a, b = m.weight(n, 2), m.weight(2, 3)
        return lambda x, _: x @ (a() @ b())
    w = m.weight(n)
    return lambda x, _: torch.tensordot(x, w(), dims=1)[..., None] if k == 6 else x * w().exp()


@operator
def other_convolution(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    if x.ndim < 4 or x.shape[1] > 4:
        return None
    c = x.shape[1]
    layers = (
        nn.ConvTranspose2d(c, 2, 2, bias=False), nn.ConvTranspose2d(c, c, 1, groups=c),
        nn.Conv2d(c, 2, 3, padding=1, padding_mode="circular"), nn.Conv2d(c, 4, 1),
    )  # fmt: skip
    if k % 4 == 2 and min(x.shape[2:]) < 2:
        return None
    layer = m.module(layers[k % 4])
    return (lambda x, _: F.pixel_shuffle(layer(x), 2)) if k == 7 else lambda x, _: layer(x)


@operator
def recurrence(m: RandomNet, x: Tensor, k: int, seen: list[Tensor]) -> Step | None:
    """A few steps along the channels of one weight, from a state of zeros."""
    if x.ndim != 2 or x.shape[1] > 4:
        return None
    a, w = m.module(nn.Linear(1, 2, bias=k >= 4)), m.module(nn.Linear(2, 2, bias=k % 2 == 0))

    def step(x: Tensor, _: list[Tensor]) -> Tensor:
        h = torch.zeros(len(x), 2, dtype=x.dtype)
        for t in range(x.shape[1]):
            h = (F.relu if k % 4 < 2 else torch.tanh)(a(x[:, t : t + 1]) + w(h))
        return h

    return step
