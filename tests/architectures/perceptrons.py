"""Perceptrons, gates, mixtures, encoders in pairs: everything that is neither convolution, attention nor recurrence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from architectures.base import architecture, ids, real


@architecture(real(5, 4), loss="cross entropy")
def mlp_deep() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.LeakyReLU(), nn.Linear(4, 3), nn.ReLU(),
                         nn.Linear(3, 3))  # fmt: skip


@architecture(real(5, 4), loss="mse")
def mlp_powers() -> nn.Module:
    """Degrees other than one: squared ReLU (Primer), a cube, a root."""
    return Net(
        lambda m, x: m.d(m.c(m.b(F.relu(m.a(x)).square()) ** 3).abs().sqrt()),
        a=nn.Linear(4, 3), b=nn.Linear(3, 3), c=nn.Linear(3, 2), d=nn.Linear(2, 2),
    )  # fmt: skip


@architecture(real(5, 4))
def relus_by_hand() -> nn.Module:
    """ReLU as clamp, as maximum with zero, as where, as a product with a sign test."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x).clamp(min=0)
        x = torch.maximum(m.b(x), torch.zeros(()))
        x = m.c(x)
        x = torch.where(x > 0, x, 0.1 * x)
        x = m.d(x)
        return m.e(x * (x > 0))

    return Net(forward, a=nn.Linear(4, 3), b=nn.Linear(3, 3), c=nn.Linear(3, 3), d=nn.Linear(3, 3), e=nn.Linear(3, 2))


@architecture(real(5, 4))
def maxout() -> nn.Module:
    return Net(lambda m, x: m.b(m.a(x).unflatten(1, (3, 2)).amax(-1)), a=nn.Linear(4, 6), b=nn.Linear(3, 2))


@architecture(real(5, 4))
def sorted_channels() -> nn.Module:
    """Channels that are compared share one degree (GroupSort)."""
    return Net(lambda m, x: m.b(m.a(x).sort(dim=1).values), a=nn.Linear(4, 4), b=nn.Linear(4, 2))


@architecture(real(5, 4))
def largest_two() -> nn.Module:
    return Net(lambda m, x: m.b(m.a(x).topk(2, dim=1).values), a=nn.Linear(4, 4), b=nn.Linear(2, 2))


@architecture(real(5, 4))
def gates() -> nn.Module:
    """ReGLU, bilinear and SwiGLU side by side."""
    return Net(
        lambda m, x: m.o(F.relu(m.a(x)) * m.b(x) + m.c(x) * m.d(x)) + m.p(F.silu(m.e(x)) * m.f(x)),
        **{n: nn.Linear(4, 3) for n in "abcdef"}, o=nn.Linear(3, 2), p=nn.Linear(3, 2),
    )  # fmt: skip


@architecture(real(5, 4))
def fused_gate() -> nn.Module:
    """Gate and value from one projection (Phi-3)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        gate, up = m.a(x).chunk(2, dim=-1)
        return m.o(up * F.silu(gate))

    return Net(forward, a=nn.Linear(4, 6), o=nn.Linear(3, 2))


@architecture(real(5, 3))
def highway() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        t = torch.sigmoid(m.t(x))
        return m.o(F.relu(m.h(x)) * t + x * (1 - t))

    return Net(forward, stem=nn.Linear(3, 4), t=nn.Linear(4, 4), h=nn.Linear(4, 4), o=nn.Linear(4, 2))


@architecture(real(5, 4), real(5, 2))
def feature_modulation() -> nn.Module:
    """FiLM: a gain and a shift made by another network."""

    def forward(m: Net, x: Tensor, z: Tensor) -> Tensor:
        gain, shift = m.film(z).chunk(2, dim=1)
        return m.o(F.relu(gain * m.a(x) + shift))

    return Net(forward, a=nn.Linear(4, 3), film=nn.Linear(2, 6), o=nn.Linear(3, 2))


@architecture(real(4, 3), real(4, 2))
def hypernetwork() -> nn.Module:
    """The weights of a layer made by another network."""

    def forward(m: Net, x: Tensor, z: Tensor) -> Tensor:
        w = m.make(F.relu(m.embed(z))).view(4, 3, 3)
        return m.o(F.relu(torch.bmm(w, x[:, :, None])[..., 0]))

    return Net(forward, embed=nn.Linear(2, 3), make=nn.Linear(3, 9), o=nn.Linear(3, 2))


@architecture(real(5, 4))
def low_rank_adapters() -> nn.Module:
    """LoRA: a frozen weight beside a product of two trainable ones."""
    return Net(
        lambda m, x: m.o(F.relu(m.w(x) + 2.0 * m.up(m.down(x)))), w=nn.Linear(4, 4).requires_grad_(False),
        down=nn.Linear(4, 2, bias=False), up=nn.Linear(2, 4, bias=False), o=nn.Linear(4, 2),
    )  # fmt: skip


@architecture(real(5, 4))
def weight_decomposed_adapters() -> nn.Module:
    """DoRA: a trainable length for every row of the adapted weight."""

    def forward(m: Net, x: Tensor) -> Tensor:
        w = m.w + m.b @ m.a
        return m.o(F.relu(x @ (m.g * w / w.norm(dim=1, keepdim=True)).mT))

    return Net(forward, w=torch.randn(3, 4), b=(3, 2), a=(2, 4), g=(3, 1), o=nn.Linear(3, 2))


@architecture(real(2, 3, 4))
def mlp_mixer() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.t2(F.gelu(m.t1(m.n1(x).mT))).mT
        return m.head(m.n3(x + m.c2(F.relu(m.c1(m.n2(x))))).mean(1))

    return Net(
        forward, stem=nn.Linear(4, 4), n1=nn.LayerNorm(4), n2=nn.LayerNorm(4), n3=nn.LayerNorm(4), t1=nn.Linear(3, 2),
        t2=nn.Linear(2, 3), c1=nn.Linear(4, 3), c2=nn.Linear(3, 4), head=nn.Linear(4, 2),
    )  # fmt: skip


@architecture(real(2, 4, 4))
def fourier_mixing() -> nn.Module:
    """FNet: the real part of a Fourier transform over tokens and channels."""
    return Net(lambda m, x: m.o(F.relu(torch.fft.fft2(m.a(x)).real)), a=nn.Linear(4, 4), o=nn.Linear(4, 2))


@architecture(real(5, 4), loss="cross entropy")
def tied_autoencoder_with_bias() -> nn.Module:
    return Net(lambda m, x: F.relu(F.linear(x, m.w, m.b)) @ m.w + m.c, w=(3, 4), b=(3,), c=(4,))


@architecture(real(5, 4))
def siamese() -> nn.Module:
    """One encoder for two inputs, and the distance between."""
    return Net(lambda m, x: (m.b(F.relu(m.a(x))) - m.b(F.relu(m.a(x.flip(0))))).square().sum(1) * m.s,
               a=nn.Linear(4, 3), b=nn.Linear(3, 2), s=())  # fmt: skip


@architecture(real(5, 3), real(5, 4), loss="cross entropy")
def dual_encoder() -> nn.Module:
    """Contrastive (CLIP): towers of unit length, and a temperature."""

    def forward(m: Net, x: Tensor, y: Tensor) -> Tensor:
        a, b = m.a(F.relu(m.a0(x))), m.b(y)
        a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
        return m.scale.exp() * a @ b.T

    return Net(forward, a0=nn.Linear(3, 3), a=nn.Linear(3, 4), b=nn.Linear(4, 4), scale=())


@architecture(real(5, 3), real(5, 4), loss="cross entropy")
def dual_encoder_by_products() -> nn.Module:
    """Without unit length (dense retrieval): the bias of the tower that is summed over is absorbed."""
    return Net(lambda m, x, y: m.a(x) @ m.b(y).T, a=nn.Linear(3, 4), b=nn.Linear(4, 4))


@architecture(ids(4, 5), ids(3, 5))
def matrix_factorisation() -> nn.Module:
    return Net(lambda m, i, j: (m.u(i) * m.v(j)).sum(1) + m.bi(i)[:, 0] + m.bj(j)[:, 0] + m.mean, u=nn.Embedding(4, 3),
               v=nn.Embedding(3, 3), bi=nn.Embedding(4, 1), bj=nn.Embedding(3, 1), mean=())  # fmt: skip


@architecture(ids(4, 5), ids(3, 5), real(5, 2))
def tables_and_numbers() -> nn.Module:
    """Categorical and numerical features, concatenated (wide and deep)."""
    return Net(
        lambda m, i, j, x: m.b(F.relu(m.a(torch.cat([m.u(i), m.v(j), x], dim=1)))) + m.wide(i),
        u=nn.Embedding(4, 2), v=nn.Embedding(3, 3), a=nn.Linear(7, 4), b=nn.Linear(4, 2), wide=nn.Embedding(4, 2),
    )  # fmt: skip


@architecture(real(5, 4))
def factorisation_machine() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.w(x)[:, 0] + 0.5 * ((x @ m.v).square() - x.square() @ m.v.square()).sum(1)

    return Net(forward, w=nn.Linear(4, 1), v=(4, 3))


@architecture(real(5, 2, 3), loss="cross entropy")
def set_network() -> nn.Module:
    """Deep sets: an encoder, a sum, a decoder."""
    return Net(lambda m, x: m.d(F.relu(m.c(m.b(F.relu(m.a(x))).sum(1)))), a=nn.Linear(3, 4), b=nn.Linear(4, 3),
               c=nn.Linear(3, 4), d=nn.Linear(4, 2))  # fmt: skip


@architecture(real(4, 3), loss="cross entropy")
def graph_convolution() -> nn.Module:
    """A normalised adjacency between two layers."""
    a = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.2, 0.3, 0], [0, 0.3, 0.3, 0.4], [0, 0, 0.4, 0.6]], dtype=torch.float64)
    return Net(lambda m, x: m.adjacency @ m.b(F.relu(m.adjacency @ m.a(x))), adjacency=a, a=nn.Linear(3, 4),
               b=nn.Linear(4, 3))  # fmt: skip


@architecture(real(4, 3), loss="cross entropy")
def graph_attention() -> nn.Module:
    """GAT: scores from a sum of two vectors, through a leaky ReLU."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.w(x)
        scores = F.leaky_relu(m.left(h) + m.right(h).T, 0.2)
        return m.o(F.relu(torch.softmax(scores, -1) @ h))

    return Net(forward, w=nn.Linear(3, 4), left=nn.Linear(4, 1), right=nn.Linear(4, 1), o=nn.Linear(4, 2))


@architecture(real(4, 3), loss="cross entropy")
def message_passing() -> nn.Module:
    """Messages along edges, gathered and scattered."""
    source, target = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 2, 3, 0, 2])

    def forward(m: Net, x: Tensor) -> Tensor:
        h = F.relu(m.a(x))
        messages = m.message(h[source])
        return m.b(torch.zeros_like(h).index_add(0, target, messages) + h)

    return Net(forward, a=nn.Linear(3, 4), message=nn.Linear(4, 4), b=nn.Linear(4, 2))


# -- mixtures of experts --------------------------------------------------------------------------------------------


@architecture(real(5, 3))
def experts_soft() -> nn.Module:
    """All experts run and are weighted by a softmax."""

    def forward(m: Net, x: Tensor) -> Tensor:
        weights = torch.softmax(m.router(x), -1)
        return sum(weights[:, e, None] * m.get_submodule(f"e{e}")(x) for e in range(3))

    experts = {f"e{e}": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)) for e in range(3)}
    return Net(forward, router=nn.Linear(3, 3), **experts)


@architecture(real(5, 3))
def experts_stacked() -> nn.Module:
    """The weights of all experts in one tensor, by einsum."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = F.relu(torch.einsum("bd,edh->beh", x, m.up) + m.bias)
        y = torch.einsum("beh,eho->beo", h, m.down)
        return torch.einsum("be,beo->bo", torch.softmax(m.router(x), -1), y)

    return Net(forward, router=nn.Linear(3, 2), up=(2, 3, 4), bias=(2, 4), down=(2, 4, 2))


@architecture(real(6, 3))
def experts_switched() -> nn.Module:
    """Each token goes to its best expert, with the router's probability."""

    def forward(m: Net, x: Tensor) -> Tensor:
        p, chosen = torch.softmax(m.router(x), -1).max(-1)
        out = torch.zeros(6, 2, dtype=x.dtype)
        for e in range(2):
            rows = torch.where(chosen == e)[0]
            out.index_add_(0, rows, p[rows, None] * m.get_submodule(f"e{e}")(x[rows]))
        return out

    experts = {f"e{e}": nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)) for e in range(2)}
    return Net(forward, router=nn.Linear(3, 2), **experts)


@architecture(real(6, 3))
def experts_top_two_of_three() -> nn.Module:
    """Renormalised weights of the best two; every expert runs on every token under a mask."""

    def forward(m: Net, x: Tensor) -> Tensor:
        logits = m.router(x)
        top, index = logits.topk(2, dim=-1)
        weights = torch.zeros_like(logits).scatter(1, index, torch.softmax(top, -1))
        h = torch.stack([m.get_submodule(f"e{e}")(x) for e in range(3)], dim=1)
        return (weights[..., None] * h).sum(1)

    experts = {f"e{e}": nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)) for e in range(3)}
    return Net(forward, router=nn.Linear(3, 3), **experts)


@architecture(real(5, 3))
def kernel_expansion() -> nn.Module:
    """Radial basis functions: centres, widths, weights."""
    return Net(
        lambda m, x: m.o(torch.exp(-(m.a(x)[:, None] - m.centres).square().sum(-1) * m.width)),
        a=nn.Linear(3, 2), centres=(4, 2), width=(4,), o=nn.Linear(4, 2),
    )  # fmt: skip


@architecture(real(5, 3))
def variational_autoencoder() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        mean, log_variance = m.encode(F.relu(m.a(x))).chunk(2, dim=-1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        kl = (mean.square() + log_variance.exp() - log_variance - 1).sum(-1, keepdim=True)
        return torch.cat([m.decode(z), kl], dim=1)

    return Net(
        forward,
        a=nn.Linear(3, 4),
        encode=nn.Linear(4, 4),
        decode=nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3)),
    )


@architecture(real(5, 3))
def vector_quantised() -> nn.Module:
    """The nearest code by distance, with the gradient copied past the choice."""

    def forward(m: Net, x: Tensor) -> Tensor:
        z = m.a(x)
        nearest = m.codes[(z[:, None] - m.codes).square().sum(-1).argmin(-1)]
        return torch.cat([m.b(z + (nearest - z).detach()), (nearest - z.detach()).square()], dim=1)

    return Net(forward, a=nn.Linear(3, 2), codes=(4, 2), b=nn.Linear(2, 2))
