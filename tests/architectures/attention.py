"""Attention in its varieties, and the blocks around it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from architectures.base import architecture, ids, real


def split(x: Tensor, heads: int) -> Tensor:
    """[batch, tokens, heads * d] -> [batch, heads, tokens, d]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def projections(d: int, kv: int | None = None, bias: bool = True) -> dict[str, nn.Module]:
    kv = kv or d
    shapes = {"q": (d, d), "k": (d, kv), "v": (d, kv), "o": (d, d)}
    return {name: nn.Linear(*s, bias=bias) for name, s in shapes.items()}


@architecture(real(2, 4, 5), loss="cross entropy")
def attention_multi_head() -> nn.Module:
    return Net(
        lambda m, x: m.o(merge(F.scaled_dot_product_attention(*(split(p(x), 2) for p in (m.q, m.k, m.v))))),
        q=nn.Linear(5, 6), k=nn.Linear(5, 6), v=nn.Linear(5, 6), o=nn.Linear(6, 3),
    )  # fmt: skip


@architecture(real(2, 4, 5))
def attention_causal_unfused() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (split(p(x), 2) for p in (m.q, m.k, m.v))
        scores = q @ k.mT / math.sqrt(3)
        mask = torch.ones(4, 4, dtype=torch.bool).tril()
        weights = F.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)
        return m.o(merge(weights @ v))

    return Net(forward, q=nn.Linear(5, 6), k=nn.Linear(5, 6), v=nn.Linear(5, 6), o=nn.Linear(6, 3))


@architecture(real(2, 4, 6))
def attention_fused_qkv() -> nn.Module:
    """One projection for all three, split afterwards (GPT-2, ViT)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).split(6, dim=-1)
        y = F.scaled_dot_product_attention(*(split(t, 3) for t in (q, k, v)), is_causal=True)
        return m.o(merge(y))

    return Net(forward, qkv=nn.Linear(6, 18), o=nn.Linear(6, 4))


@architecture(real(2, 4, 6))
def attention_fused_qkv_unbind() -> nn.Module:
    """One projection for all three, reshaped and unbound (timm's ViT)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).reshape(2, 4, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        return m.o(merge((q * 3**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v))

    return Net(forward, qkv=nn.Linear(6, 18), o=nn.Linear(6, 4))


@architecture(real(2, 4, 6))
def attention_grouped_query() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = split(m.q(x), 4), split(m.k(x), 2), split(m.v(x), 2)
        k, v = (t.repeat_interleave(2, dim=1) for t in (k, v))
        return m.o(merge(F.scaled_dot_product_attention(q, k, v)))

    return Net(forward, q=nn.Linear(6, 8), k=nn.Linear(6, 4), v=nn.Linear(6, 4), o=nn.Linear(8, 3))


@architecture(real(2, 4, 6))
def attention_grouped_query_expanded() -> nn.Module:
    """As Hugging Face repeats key and value heads: expand, then reshape."""

    def repeated(t: Tensor, n: int) -> Tensor:
        b, h, s, d = t.shape
        return t[:, :, None].expand(b, h, n, s, d).reshape(b, h * n, s, d)

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = split(m.q(x), 4), repeated(split(m.k(x), 2), 2), repeated(split(m.v(x), 2), 2)
        return m.o(merge(torch.softmax(q @ k.mT, -1) @ v))

    return Net(forward, q=nn.Linear(6, 8), k=nn.Linear(6, 4), v=nn.Linear(6, 4), o=nn.Linear(8, 3))


@architecture(real(2, 4, 6))
def attention_grouped_query_native() -> nn.Module:
    """The repetition left to the fused operator."""
    return Net(
        lambda m, x: m.o(merge(F.scaled_dot_product_attention(
            split(m.q(x), 4), split(m.k(x), 2), split(m.v(x), 2), enable_gqa=True, is_causal=True))),
        q=nn.Linear(6, 8), k=nn.Linear(6, 4), v=nn.Linear(6, 4), o=nn.Linear(8, 3),
    )  # fmt: skip


@architecture(real(2, 4, 6))
def attention_multi_query() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = split(m.q(x), 3), m.k(x)[:, None], m.v(x)[:, None]
        return m.o(merge(torch.softmax(q @ k.mT, -1) @ v))

    return Net(forward, q=nn.Linear(6, 6), k=nn.Linear(6, 2), v=nn.Linear(6, 2), o=nn.Linear(6, 3))


def rotary(x: Tensor, interleaved: bool = False, part: int | None = None) -> Tensor:
    """Rotate pairs of the last axis by an angle that grows with the position."""
    x, rest = x[..., :part], x[..., part:] if part else None
    n, d = x.shape[-2:]
    angles = torch.arange(n, dtype=x.dtype)[:, None] * 100.0 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        c, s = angles.cos(), angles.sin()
        y = torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2)
    else:
        c, s = (torch.cat([f, f], dim=-1) for f in (angles.cos(), angles.sin()))
        a, b = x.chunk(2, dim=-1)
        y = x * c + torch.cat([-b, a], dim=-1) * s
    return y if rest is None else torch.cat([y, rest], dim=-1)


def rotary_attention(interleaved: bool, part: int | None) -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k = (rotary(split(p(x), 2), interleaved, part) for p in (m.q, m.k))
        return m.o(merge(torch.softmax(q @ k.mT, -1) @ split(m.v(x), 2)))

    return Net(forward, **{n: nn.Linear(6, 12) for n in "qk"}, v=nn.Linear(6, 4), o=nn.Linear(4, 3))


@architecture(real(2, 4, 6))
def attention_rotary_halves() -> nn.Module:
    return rotary_attention(False, None)


@architecture(real(2, 4, 6))
def attention_rotary_interleaved() -> nn.Module:
    return rotary_attention(True, None)


@architecture(real(2, 4, 6))
def attention_rotary_partial() -> nn.Module:
    return rotary_attention(False, 4)


@architecture(real(2, 4, 6))
def attention_rotary_complex() -> nn.Module:
    """Rotations as products of complex numbers (the first Llama)."""

    def rotated(x: Tensor) -> Tensor:
        n, d = x.shape[-2:]
        angles = torch.arange(n, dtype=x.dtype)[:, None] * 100.0 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
        z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(z * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k = (rotated(split(p(x), 2)) for p in (m.q, m.k))
        return m.o(merge(torch.softmax(q @ k.mT, -1) @ split(m.v(x), 2)))

    return Net(forward, **{n: nn.Linear(6, 8) for n in "qk"}, v=nn.Linear(6, 4), o=nn.Linear(4, 3))


@architecture(real(2, 4, 6))
def attention_alibi() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (split(p(x), 2) for p in (m.q, m.k, m.v))
        i = torch.arange(4.0, dtype=x.dtype)
        bias = -(i[:, None] - i).abs() * torch.tensor([0.5, 0.25], dtype=x.dtype)[:, None, None]
        return m.o(merge(torch.softmax(q @ k.mT + bias, -1) @ v))

    return Net(forward, **projections(6))


@architecture(real(2, 4, 6))
def attention_relative_bias() -> nn.Module:
    """A table of biases by relative position and head (T5, Swin)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (split(p(x), 2) for p in (m.q, m.k, m.v))
        i = torch.arange(4)
        bias = m.table(i[:, None] - i + 3).permute(2, 0, 1)
        return m.o(merge(torch.softmax(q @ k.mT + bias, -1) @ v))

    return Net(forward, **projections(6), table=nn.Embedding(7, 2))


@architecture(real(2, 4, 6))
def attention_relative_keys() -> nn.Module:
    """Keys for relative positions, read by an einsum (Shaw et al.)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (split(p(x), 2) for p in (m.q, m.k, m.v))
        i = torch.arange(4)
        positional = torch.einsum("bhqd,qkd->bhqk", q, m.table[i[:, None] - i + 3])
        return m.o(merge(torch.softmax((q @ k.mT + positional) / 2, -1) @ v))

    return Net(forward, **projections(6), table=(7, 3))


class RMSNorm(nn.Module):
    """Written out, as in the models of Hugging Face."""

    def __init__(self, d: int, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.eps, self.offset = nn.Parameter(torch.ones(d)), 1e-6, offset

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return y * (self.weight + self.offset) if self.offset else y * self.weight


@architecture(real(2, 4, 6))
def attention_query_key_norm() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k = rotary(m.qn(split(m.q(x), 2))), rotary(m.kn(split(m.k(x), 2)))
        return m.o(merge(F.scaled_dot_product_attention(q, k, split(m.v(x), 2))))

    sizes = {n: nn.Linear(6, 8) for n in "qkv"}
    return Net(forward, **sizes, o=nn.Linear(8, 3), qn=RMSNorm(4), kn=RMSNorm(4))


@architecture(real(2, 4, 6))
def attention_cosine() -> nn.Module:
    """Queries and keys of unit length, with a temperature for every head (Swin v2)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k = (F.normalize(split(p(x), 2), dim=-1) for p in (m.q, m.k))
        return m.o(merge(torch.softmax(q @ k.mT * m.scale.clamp(max=4.6).exp(), -1) @ split(m.v(x), 2)))

    return Net(forward, **projections(6), scale=(2, 1, 1))


@architecture(real(2, 4, 6))
def attention_linear_relu() -> nn.Module:
    """A ReLU kernel, normalised by its sum."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k = (F.relu(split(p(x), 2)) for p in (m.q, m.k))
        v = split(m.v(x), 2)
        y = q @ (k.mT @ v) / (q @ k.sum(2, keepdim=True).mT)
        return m.o(merge(y.nan_to_num(0.0)))

    return Net(forward, **projections(6))


@architecture(real(2, 4, 6))
def attention_without_softmax() -> nn.Module:
    return Net(lambda m, x: m.o(merge(split(m.q(x), 2) @ split(m.k(x), 2).mT @ split(m.v(x), 2) / 4)), **projections(6))


@architecture(real(2, 4, 6))
def attention_sigmoid() -> nn.Module:
    return Net(
        lambda m, x: m.o(merge(torch.sigmoid(split(m.q(x), 2) @ split(m.k(x), 2).mT - 1) @ split(m.v(x), 2))),
        **projections(6),
    )


@architecture(real(2, 4, 6))
def attention_with_a_sink() -> nn.Module:
    """A trainable logit for every head that attends to nothing (gpt-oss)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (split(p(x), 2) for p in (m.q, m.k, m.v))
        logits = torch.cat([q @ k.mT, m.sink.reshape(1, -1, 1, 1).expand(2, -1, 4, 1)], dim=-1)
        return m.o(merge(torch.softmax(logits, -1)[..., :-1] @ v))

    return Net(forward, **projections(6), sink=(2,))


@architecture(real(2, 4, 6), real(2, 3, 5))
def attention_cross() -> nn.Module:
    def forward(m: Net, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = split(m.q(x), 2), split(m.k(y), 2), split(m.v(y), 2)
        return m.o(merge(F.scaled_dot_product_attention(q, k, v)))

    return Net(forward, q=nn.Linear(6, 6), k=nn.Linear(5, 6), v=nn.Linear(5, 6), o=nn.Linear(6, 3))


@architecture(real(2, 5, 4))
def perceiver() -> nn.Module:
    """Trainable queries that read the input."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = torch.softmax(m.q(m.latents) @ m.k(x).mT, -1) @ m.v(x)
        return m.o(y + m.latents)

    return Net(forward, latents=(3, 4), q=nn.Linear(4, 3), k=nn.Linear(4, 3), v=nn.Linear(4, 4), o=nn.Linear(4, 2))


@architecture(real(2, 4, 6))
def latent_attention() -> nn.Module:
    """Keys and values through a low-rank bottleneck with a norm, part of the key shared and rotated (DeepSeek)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        latent, shared = m.down(x).split([3, 2], dim=-1)
        k, v = m.up(m.norm(latent)).unflatten(-1, (2, 5)).transpose(1, 2).split([2, 3], dim=-1)
        k = torch.cat([k, rotary(shared[:, None]).expand(-1, 2, -1, -1)], dim=-1)
        q, turned = split(m.q(x), 2).split([2, 2], dim=-1)
        q = torch.cat([q, rotary(turned)], dim=-1)
        return m.o(merge(F.scaled_dot_product_attention(q, k, v, is_causal=True)))

    return Net(
        forward, down=nn.Linear(6, 5, bias=False), norm=RMSNorm(3), up=nn.Linear(3, 10, bias=False),
        q=nn.Linear(6, 8, bias=False), o=nn.Linear(6, 4, bias=False),
    )  # fmt: skip


@architecture(real(2, 4, 4, 3))
def attention_windowed() -> nn.Module:
    """Windows cut out of an image that was shifted (Swin)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = torch.roll(m.stem(x), (-1, -1), (1, 2))
        w = x.view(2, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4)
        q, k, v = (split(p(w), 2) for p in (m.q, m.k, m.v))
        y = m.o(merge(F.scaled_dot_product_attention(q, k, v)))
        y = y.view(2, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(2, 4, 4, 4)
        return m.head(x + torch.roll(y, (1, 1), (1, 2)))

    return Net(forward, stem=nn.Linear(3, 4), **projections(4), head=nn.Linear(4, 2))


class Block(nn.Module):
    """Pre-norm or post-norm transformer block."""

    def __init__(
        self, d: int, heads: int, post: bool = False, act: nn.Module | None = None, causal: bool = True
    ) -> None:
        super().__init__()
        self.n1, self.n2, self.post, self.heads, self.causal = nn.LayerNorm(d), nn.LayerNorm(d), post, heads, causal
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(d, 5), act or nn.GELU(), nn.Linear(5, d))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (split(p(x), self.heads) for p in (self.q, self.k, self.v))
        return self.o(merge(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)))

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.n1(x + self.attend(x))
            return self.n2(x + self.mlp(x))
        x = x + self.attend(self.n1(x))
        return x + self.mlp(self.n2(x))


class Transformer(nn.Module):
    def __init__(
        self, blocks: list[nn.Module], d: int, norm: nn.Module, tied: bool = False, table: bool = True
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, d)
        self.positions = nn.Parameter(torch.randn(4, d)) if table else None
        self.blocks, self.norm = nn.Sequential(*blocks), norm
        self.head = nn.Linear(d, 7, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) if self.positions is None else self.tokens(x) + self.positions
        return self.head(self.norm(self.blocks(h)))


@architecture(ids(7, 2, 4), loss="cross entropy")
def transformer_pre_norm() -> nn.Module:
    return Transformer([Block(4, 2), Block(4, 2)], 4, nn.LayerNorm(4))


@architecture(ids(7, 2, 4), loss="cross entropy")
def transformer_tied() -> nn.Module:
    return Transformer([Block(4, 2, act=nn.ReLU())], 4, nn.LayerNorm(4), tied=True)


@architecture(ids(7, 2, 4), loss="cross entropy")
def transformer_post_norm() -> nn.Module:
    return Transformer([Block(4, 2, post=True, act=nn.ReLU()), Block(4, 2, post=True)], 4, nn.Identity())


class SwiGLU(nn.Module):
    def __init__(self, d: int, h: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(d, h, bias=False), nn.Linear(d, h, bias=False)
        self.down = nn.Linear(h, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class LlamaBlock(nn.Module):
    def __init__(self, d: int, heads: int, kv: int, offset: float = 0.0, parallel: bool = False) -> None:
        super().__init__()
        self.n1, self.n2 = RMSNorm(d, offset), nn.Identity() if parallel else RMSNorm(d, offset)
        self.heads, self.kv, self.parallel = heads, kv, parallel
        self.q, self.o = nn.Linear(d, 4 * heads, bias=False), nn.Linear(4 * heads, d, bias=False)
        self.k, self.v = nn.Linear(d, 4 * kv, bias=False), nn.Linear(d, 4 * kv, bias=False)
        self.mlp = SwiGLU(d, 5)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = rotary(split(self.q(x), self.heads)), rotary(split(self.k(x), self.kv)), split(self.v(x), self.kv)
        return self.o(merge(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)))

    def forward(self, x: Tensor) -> Tensor:
        if self.parallel:
            y = self.n1(x)
            return x + self.attend(y) + self.mlp(y)
        x = x + self.attend(self.n1(x))
        return x + self.mlp(self.n2(x))


@architecture(ids(7, 2, 4), loss="cross entropy")
def llama() -> nn.Module:
    return Transformer([LlamaBlock(6, 4, 2), LlamaBlock(6, 4, 2)], 6, RMSNorm(6), table=False)


@architecture(ids(7, 2, 4), loss="cross entropy")
def gemma() -> nn.Module:
    """Gains of 1 + w, which have no scale symmetry."""
    return Transformer([LlamaBlock(6, 2, 1, offset=1.0)], 6, RMSNorm(6, 1.0), table=False, tied=True)


@architecture(ids(7, 2, 4), loss="cross entropy")
def transformer_parallel_blocks() -> nn.Module:
    blocks: list[nn.Module] = [LlamaBlock(4, 2, 1, parallel=True) for _ in range(2)]
    return Transformer(blocks, 4, RMSNorm(4), table=False)


class PatchTransformer(nn.Module):
    """Patches by a convolution, a class token, trainable positions (ViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(2, 4, 2, 2), nn.Parameter(torch.randn(1, 1, 4))
        self.positions = nn.Parameter(torch.randn(1, 5, 4))
        self.block, self.norm, self.head = Block(4, 2, causal=False), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.cls.expand(len(x), -1, -1), patches], dim=1) + self.positions
        return self.head(self.norm(self.block(h))[:, 0])


@architecture(real(3, 2, 4, 4), loss="cross entropy")
def vision_transformer() -> nn.Module:
    return PatchTransformer()


@architecture(ids(7, 3, 4), loss="cross entropy")
def sentence_classifier() -> nn.Module:
    """Embeddings that a norm reads directly, averaged, then classified."""
    return Net(
        lambda m, x: m.head(m.norm(m.tokens(x)).mean(1)), tokens=nn.Embedding(7, 4), norm=nn.LayerNorm(4),
        head=nn.Linear(4, 3),
    )  # fmt: skip
