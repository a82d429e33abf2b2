"""Identities that are written by hand: gains of one plus w, softmax with a detached shift, sums that are known."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from architectures.attention import merge, split
from architectures.base import architecture, ids, real


def mlp(*widths: int, bias: bool = True) -> dict[str, nn.Module]:
    """Linear layers a, b, c .. of these widths."""
    return {"abcdef"[i]: nn.Linear(n, m, bias=bias) for i, (n, m) in enumerate(pairwise(widths))}


# -- gains ----------------------------------------------------------------------------------------------------------


@architecture(real(3, 4))
def gain_of_one_plus_w() -> nn.Module:
    return Net(lambda m, x: m.b((1 + m.w) * m.a(x)), **mlp(4, 5, 3), w=(5,))


@architecture(real(3, 4))
def norm_with_a_gain_of_one_plus_w() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(F.relu(F.rms_norm(m.a(x), (5,)) * (1.0 + m.w)))

    return Net(forward, **mlp(4, 5, 3), w=(5,))


@architecture(real(3, 4))
def layer_norm_with_a_gain_of_one_plus_w() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.n(m.a(x)) * (1.0 + m.w) + m.t)

    return Net(forward, **mlp(4, 5, 3), n=nn.LayerNorm(5, elementwise_affine=False), w=(5,), t=(5,))


@architecture(real(3, 4))
def adaptive_norm() -> nn.Module:
    """Gain and shift of a norm from another network (DiT)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        scale, shift, gate = m.c(F.silu(x)).chunk(3, -1)
        h = m.n(m.a(x)) * (1 + scale) + shift
        return m.a(x) + gate * m.b(h)

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(5, 5), c=nn.Linear(4, 15),
               n=nn.LayerNorm(5, elementwise_affine=False))  # fmt: skip


# -- norms and softmax by hand --------------------------------------------------------------------------------------


@architecture(real(3, 4))
def layer_norm_by_hand() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        h = h - h.mean(-1, keepdim=True)
        return m.b(h / h.square().mean(-1, keepdim=True).sqrt() * m.w + m.t)

    return Net(forward, **mlp(4, 5, 3), w=(5,), t=(5,))


@architecture(real(6, 4))
def batch_norm_by_hand() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        h = (h - h.mean(0)) / h.var(0, unbiased=False).sqrt()
        return m.b(F.relu(h * m.w + m.t))

    return Net(forward, **mlp(4, 5, 3), w=(5,), t=(5,))


@architecture(real(3, 4))
def mean_subtraction() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.b(F.relu(h - h.mean(-1, keepdim=True)))

    return Net(forward, **mlp(4, 5, 3))


@architecture(real(3, 4))
def sum_subtraction() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.b(F.gelu(h - h.sum(-1, keepdim=True) / 5))

    return Net(forward, **mlp(4, 5, 3))


@architecture(real(3, 4))
def dueling() -> nn.Module:
    """A value and advantages about their mean (dueling Q-networks)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = F.relu(m.a(x))
        adv = m.b(h)
        return m.v(h) + adv - adv.mean(-1, keepdim=True)

    return Net(forward, **mlp(4, 5, 3), v=nn.Linear(5, 1))


@architecture(real(2, 4, 5))
def softmax_by_hand() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        s = m.q(x) @ m.k(x).mT
        e = (s - s.amax(-1, keepdim=True).detach()).exp()
        return m.o(e / e.sum(-1, keepdim=True) @ m.v(x))

    return Net(forward, q=nn.Linear(5, 4), k=nn.Linear(5, 4), v=nn.Linear(5, 4), o=nn.Linear(4, 3))


@architecture(real(2, 4, 5))
def softmax_without_a_shift() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        e = (m.q(x) @ m.k(x).mT).exp()
        return m.o(e / e.sum(-1, keepdim=True) @ m.v(x))

    return Net(forward, q=nn.Linear(5, 4), k=nn.Linear(5, 4), v=nn.Linear(5, 4), o=nn.Linear(4, 3))


@architecture(real(2, 4, 5))
def softmax_of_shifted_scores() -> nn.Module:
    """What is subtracted is attached, and a softmax does not see it either."""

    def forward(m: Net, x: Tensor) -> Tensor:
        s = m.q(x) @ m.k(x).mT
        s = s - s.max(-1, keepdim=True).values
        return m.o(s.softmax(-1) @ m.v(x))

    return Net(forward, q=nn.Linear(5, 4), k=nn.Linear(5, 4), v=nn.Linear(5, 4), o=nn.Linear(4, 3))


@architecture(real(2, 4, 5))
def softmax_of_detached_shifts() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        s = m.q(x) @ m.k(x).mT
        s = s - s.amax(-1, keepdim=True).detach()
        return m.o(s.softmax(-1) @ m.v(x))

    return Net(forward, q=nn.Linear(5, 4), k=nn.Linear(5, 4), v=nn.Linear(5, 4), o=nn.Linear(4, 3))


@architecture(real(3, 4))
def log_softmax_by_hand() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.b(F.relu(m.a(x)))
        return y - y.logsumexp(-1, keepdim=True)

    return Net(forward, **mlp(4, 5, 3))


@architecture(real(4, 4))
def graph_attention_by_hand() -> nn.Module:
    """Softmax over the edges that end in one node, as torch-geometric writes it."""
    source, target = torch.tensor([0, 1, 2, 3, 0, 2]), torch.tensor([1, 2, 3, 0, 2, 1])

    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        e = F.leaky_relu(m.s(h)[source] + m.t(h)[target], 0.2)
        at = target[:, None].expand_as(e)
        top = e.new_zeros(4, 1).scatter_reduce(0, at, e.detach(), "amax", include_self=False)
        e = (e - top.index_select(0, target)).exp()
        total = e.new_zeros(4, 1).scatter_add(0, at, e)
        w = e / total.index_select(0, target)
        out = h.new_zeros(4, 5).scatter_add(0, target[:, None].expand(6, 5), w * h[source])
        return m.b(F.relu(out))

    return Net(forward, **mlp(4, 5, 3), s=nn.Linear(5, 1, bias=False), t=nn.Linear(5, 1, bias=False))


# -- sums that are known, and parts that nobody reads ---------------------------------------------------------------


@architecture(ids(5, 3))
def one_hot_layer() -> nn.Module:
    return Net(lambda m, i: m.b(F.relu(m.a(F.one_hot(i, 5).to(m.a.weight.dtype)))), **mlp(5, 6, 3))


@architecture(real(3, 4))
def parameter_read_twice() -> nn.Module:
    """A layer on an input that stands twice in a row: its columns trade."""
    return Net(lambda m, x: m.b(F.relu(m.a(torch.cat([x, x], -1)))), **mlp(8, 5, 3))


@architecture(real(3, 4))
def weights_added() -> nn.Module:
    return Net(lambda m, x: m.b(F.relu(F.linear(x, m.a.weight + m.c.weight, m.a.bias))), **mlp(4, 5, 3),
               c=nn.Linear(4, 5))  # fmt: skip


@architecture(real(3, 2, 5, 5))
def parallel_kernels() -> nn.Module:
    """Two kernels of one input, of 3 x 3 and of 1 x 1, added (RepVGG without norms)."""
    return Net(lambda m, x: m.o(F.relu(m.a(x) + m.b(x))), a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(2, 3, 1),
               o=nn.Conv2d(3, 2, 1))  # fmt: skip


@architecture(real(2, 4, 6))
def class_token_after_a_norm() -> nn.Module:
    """Of the last block only the class token is read."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = torch.cat([m.token.expand(len(x), 1, 6), m.e(x)], 1) + m.positions
        n = m.n(h)
        a = F.scaled_dot_product_attention(*(split(p(n), 2) for p in (m.q, m.k, m.v)))
        h = h + m.o(merge(a))
        return m.head(m.last(h)[:, 0])

    return Net(
        forward, e=nn.Linear(6, 6), q=nn.Linear(6, 6), k=nn.Linear(6, 6), v=nn.Linear(6, 6), o=nn.Linear(6, 6),
        n=nn.LayerNorm(6), last=nn.LayerNorm(6), head=nn.Linear(6, 3),
        token=(1, 1, 6), positions=(5, 6),
    )  # fmt: skip


@architecture(real(2, 4, 6))
def class_token_alone() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = torch.cat([m.token.expand(len(x), 1, 6), m.e(x)], 1)
        return m.head(m.n(h).mean(1))

    return Net(forward, e=nn.Linear(6, 6), n=nn.LayerNorm(6), head=nn.Linear(6, 3),
               token=(1, 1, 6))  # fmt: skip


@architecture(real(2, 4, 6))
def last_token_read() -> nn.Module:
    return Net(lambda m, x: m.b(m.n(m.a(x.cumsum(1)) + m.position)[:, -1]), a=nn.Linear(6, 5), n=nn.LayerNorm(5),
               b=nn.Linear(5, 3), position=(5,))  # fmt: skip


@architecture(real(2, 3, 6))
def bounded_scores() -> nn.Module:
    """Scores kept within bounds by tanh, and clipped (Gemma 2, PaLM)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        s = m.q(x) @ m.k(x).mT
        s = 5 * torch.tanh(s / 5)
        return m.o(s.softmax(-1) @ m.v(x)).clamp(-2, 2)

    return Net(forward, q=nn.Linear(6, 4), k=nn.Linear(6, 4), v=nn.Linear(6, 4), o=nn.Linear(4, 3))


@architecture(real(3, 4))
def bounds_that_scale() -> nn.Module:
    """Clipped at multiples of the mean size: the bounds move with what they bound."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        top = 1.5 * h.abs().mean(0, keepdim=True)
        return m.b(torch.minimum(torch.maximum(h, -top), top))

    return Net(forward, **mlp(4, 5, 3))


@architecture(real(3, 4))
def activation_with_learned_slopes() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.b(torch.where(h > 0, h, m.slope * h))

    return Net(forward, **mlp(4, 5, 3), slope=(5,))


# -- channels that change places ------------------------------------------------------------------------------------


@architecture(real(2, 4, 3, 3))
def shuffled_channels() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = F.relu(m.a(x)).view(2, 2, 3, 3, 3).transpose(1, 2).reshape(2, 6, 3, 3)
        return m.b(F.relu(m.g(h)))

    return Net(forward, a=nn.Conv2d(4, 6, 1), g=nn.Conv2d(6, 6, 1, groups=3), b=nn.Conv2d(6, 2, 1))


@architecture(real(2, 4, 3, 3))
def shuffled_and_cut() -> nn.Module:
    """ShuffleNet V2: halves go separate ways and are shuffled together."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = F.relu(m.a(x))
        left, right = h.chunk(2, 1)
        h = F.channel_shuffle(torch.cat([left, F.relu(m.c(right))], 1), 2)
        left, right = h.chunk(2, 1)
        h = torch.cat([left, F.relu(m.d(right))], 1)
        return m.b(h)

    return Net(forward, a=nn.Conv2d(4, 6, 1), c=nn.Conv2d(3, 3, 1), d=nn.Conv2d(3, 3, 1), b=nn.Conv2d(6, 2, 1))


@architecture(real(2, 4))
def interleaved_halves() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = torch.stack([F.relu(m.a(x)), m.c(x)], -1).flatten(1)
        return m.b(h[:, ::2] * h[:, 1::2])

    return Net(forward, **mlp(4, 5, 3), c=nn.Linear(4, 5))


@architecture(real(2, 4))
def chosen_channels() -> nn.Module:
    order = torch.tensor([3, 1, 4, 0, 2])
    return Net(lambda m, x: m.b(F.relu(F.relu(m.a(x))[:, order]) + F.relu(m.c(x))), **mlp(4, 5, 3), c=nn.Linear(4, 5))


# -- what is low in rank, linear or complex -------------------------------------------------------------------------


@architecture(real(2, 4, 6))
def latent_attention_with_rotary_keys() -> nn.Module:
    """Multi-head latent attention (DeepSeek): keys and values from a normalised latent, one rotary key for all."""
    angle = torch.arange(4.0)[:, None]
    cos, sin = angle.cos(), angle.sin()

    def turned(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        c, s = cos.to(x.dtype), sin.to(x.dtype)
        return torch.cat([a * c - b * s, a * s + b * c], -1)

    def forward(m: Net, x: Tensor) -> Tensor:
        q = split(m.q_up(m.q_norm(m.q_down(x))), 2)
        q, q_turned = q.split([3, 2], -1)
        latent, k_turned = m.kv_down(x).split([4, 2], -1)
        k, v = split(m.kv_up(m.kv_norm(latent)), 2).split([3, 3], -1)
        k_turned = turned(k_turned[:, None]).expand(-1, 2, -1, -1)
        scores = torch.cat([q, turned(q_turned)], -1) @ torch.cat([k, k_turned], -1).mT / math.sqrt(5)
        return m.o(merge(scores.softmax(-1) @ v))

    return Net(
        forward, q_down=nn.Linear(6, 3, bias=False), q_norm=nn.RMSNorm(3), q_up=nn.Linear(3, 10, bias=False),
        kv_down=nn.Linear(6, 6, bias=False), kv_norm=nn.RMSNorm(4), kv_up=nn.Linear(4, 12, bias=False),
        o=nn.Linear(6, 4, bias=False),
    )  # fmt: skip


@architecture(real(2, 6, 4))
def spectral_convolution() -> nn.Module:
    """Fourier neural operator in one dimension: the lowest modes meet a matrix each."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        modes = torch.fft.rfft(h, dim=1)
        low = torch.einsum("bki,kio->bko", modes[:, :2], torch.view_as_complex(m.w))
        out = torch.zeros(2, 4, 5, dtype=low.dtype)
        out[:, :2] = low
        return m.b(F.relu(torch.fft.irfft(out, n=6, dim=1) + m.c(h)))

    return Net(forward, a=nn.Linear(4, 5), b=nn.Linear(5, 3), c=nn.Linear(5, 5),
               w=(2, 5, 5, 2))  # fmt: skip


@architecture(real(2, 6, 4))
def fourier_filter() -> nn.Module:
    """A filter for every channel, applied among the frequencies (GFNet)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = torch.fft.rfft(m.a(x), dim=1, norm="ortho") * torch.view_as_complex(m.w)
        return m.b(F.relu(torch.fft.irfft(h, n=6, dim=1, norm="ortho")))

    return Net(forward, **mlp(4, 5, 3), w=(4, 5, 2))


@architecture(real(2, 4, 4))
def fourier_of_two_axes() -> nn.Module:
    return Net(lambda m, x: m.b(F.gelu(torch.fft.fft2(m.a(x)).real)), **mlp(4, 5, 3))


# -- padding --------------------------------------------------------------------------------------------------------


@architecture(real(3, 2, 4, 4))
def padded_to_one_side_before_a_norm() -> nn.Module:
    """TensorFlow's "same": one more row below than above."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.n(m.a(F.pad(m.p(x), (0, 1, 0, 1))))
        return m.b(F.relu(h))

    return Net(forward, p=nn.Conv2d(2, 3, 1), a=nn.Conv2d(3, 3, 3, 2, bias=False), n=nn.BatchNorm2d(3),
               b=nn.Conv2d(3, 2, 1))  # fmt: skip


@architecture(real(3, 2, 6))
def causal_convolution_with_a_norm() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = F.relu(m.n(m.a(F.pad(x, (2, 0)))))
        return m.b(m.c(F.pad(h, (2, 0))))

    return Net(forward, a=nn.Conv1d(2, 3, 3), n=nn.GroupNorm(1, 3), c=nn.Conv1d(3, 3, 3), b=nn.Conv1d(3, 2, 1))


# -- experts --------------------------------------------------------------------------------------------------------


def _experts(grouped: bool) -> nn.Module:
    """Two of three experts for every token, sorted by expert (torchtitan, transformers)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        weights, chosen = m.router(x).softmax(-1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        tokens = order // 2
        h = x[tokens]
        counts = torch.bincount(flat, minlength=3)
        if grouped:
            ends = counts.cumsum(0).to(torch.int32)
            up = F.grouped_mm(h, m.up, offs=ends)
            out = F.grouped_mm(F.relu(up), m.down, offs=ends)
        else:
            parts, at = [], 0
            for e, n in enumerate(counts.tolist()):
                parts.append(F.relu(h[at : at + n] @ m.up[e]) @ m.down[e])
                at += n
            out = torch.cat(parts)
        out = out * weights.flatten()[order][:, None]
        return torch.zeros(len(x), 3, dtype=out.dtype).index_add(0, tokens, out)

    return Net(forward, router=nn.Linear(4, 3), up=(3, 4, 5),
               down=(3, 5, 3))  # fmt: skip


@architecture(real(6, 4))
def experts_batched() -> nn.Module:
    """Two of three experts, their weights looked up for every token."""

    def forward(m: Net, x: Tensor) -> Tensor:
        weights, chosen = m.router(x).softmax(-1).topk(2, -1)
        h = x[:, None, None, :].expand(-1, 2, 1, -1)
        out = F.relu(h @ m.up[chosen]) @ m.down[chosen]
        return (out.squeeze(2) * weights[..., None]).sum(1)

    return Net(forward, router=nn.Linear(4, 3), up=(3, 4, 5),
               down=(3, 5, 3))  # fmt: skip


@architecture(real(6, 4))
def experts_sorted_by_number() -> nn.Module:
    return _experts(grouped=False)


@architecture(real(6, 4))
def experts_grouped() -> nn.Module:
    return _experts(grouped=True)
