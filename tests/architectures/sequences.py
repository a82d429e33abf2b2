"""Recurrences, state spaces and linear attention, written out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import Net

from architectures.base import architecture, real


@architecture(real(3, 4, 2))
def rnn_by_hand() -> nn.Module:
    """A ReLU recurrence: the state's scale is a conjugation of the recurrent weight."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = torch.zeros(3, 4, dtype=x.dtype)
        for t in range(x.shape[1]):
            h = F.relu(m.a(x[:, t]) + m.w(h))
        return m.o(h)

    return Net(forward, a=nn.Linear(2, 4), w=nn.Linear(4, 4, bias=False), o=nn.Linear(4, 2))


@architecture(real(3, 4, 2))
def gru_by_hand() -> nn.Module:
    def forward(m: Net, x: Tensor) -> Tensor:
        h = torch.zeros(3, 3, dtype=x.dtype)
        for t in range(x.shape[1]):
            r, z, n = m.a(x[:, t]).chunk(3, dim=-1)
            rh, zh, nh = m.w(h).chunk(3, dim=-1)
            r, z = torch.sigmoid(r + rh), torch.sigmoid(z + zh)
            h = (1 - z) * torch.tanh(n + r * nh) + z * h
        return m.o(h)

    return Net(forward, a=nn.Linear(2, 9), w=nn.Linear(3, 9), o=nn.Linear(3, 2))


@architecture(real(3, 4, 2))
def minimal_gated_unit() -> nn.Module:
    """minGRU: gates from the input alone; the state is linear in its candidates."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h, out = torch.zeros(3, 4, dtype=x.dtype), []
        z, c = torch.sigmoid(m.z(x)), m.c(x)
        for t in range(x.shape[1]):
            h = (1 - z[:, t]) * h + z[:, t] * c[:, t]
            out.append(h)
        return m.o(torch.stack(out, dim=1))

    return Net(forward, z=nn.Linear(2, 4), c=nn.Linear(2, 4), o=nn.Linear(4, 2))


@architecture(real(3, 4, 2))
def state_space_diagonal() -> nn.Module:
    """S4D with real poles: B rows against C columns."""

    def forward(m: Net, x: Tensor) -> Tensor:
        a = torch.exp(-torch.exp(m.log_a))
        s, out = torch.zeros(3, 4, dtype=x.dtype), []
        for t in range(x.shape[1]):
            s = a * s + x[:, t] @ m.b
            out.append(s @ m.c + m.d * x[:, t])
        return m.o(F.gelu(torch.stack(out, 1)))

    return Net(forward, log_a=(4,), b=(2, 4), c=(4, 2), d=(2,), o=nn.Linear(2, 2))


@architecture(real(2, 4, 3))
def selective_state_space() -> nn.Module:
    """The heart of Mamba: input-dependent step, B and C; a depthwise convolution before, a gate after."""

    def forward(m: Net, x: Tensor) -> Tensor:
        u, gate = m.inp(x).chunk(2, dim=-1)
        u = F.silu(m.conv(F.pad(u.mT, (2, 0))).mT)
        step, b, c = m.proj(u).split([1, 2, 2], dim=-1)
        step = F.softplus(m.dt(step))
        a = torch.exp(step[..., None] * -torch.exp(m.log_a))
        bu = step[..., None] * b[:, :, None] * u[..., None]
        s, out = torch.zeros(2, 4, 2, dtype=x.dtype), []
        for t in range(4):
            s = a[:, t] * s + bu[:, t]
            out.append(torch.einsum("bdn,bn->bd", s, c[:, t]))
        y = torch.stack(out, 1) + m.d * u
        return m.o(y * F.silu(gate))

    return Net(
        forward, inp=nn.Linear(3, 8), conv=nn.Conv1d(4, 4, 3, groups=4), proj=nn.Linear(4, 5, bias=False),
        dt=nn.Linear(1, 4), log_a=(4, 2), d=(4,), o=nn.Linear(4, 2),
    )  # fmt: skip


@architecture(real(2, 4, 3))
def retention() -> nn.Module:
    """Linear attention with a decay for every head (RetNet)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(2, 4, 2, 2).transpose(1, 2) for p in (m.q, m.k, m.v))
        i = torch.arange(4, dtype=x.dtype)
        decay = torch.tensor([0.9, 0.5], dtype=x.dtype)[:, None, None] ** (i[:, None] - i).clamp(min=0)
        y = (q @ k.mT * decay.tril()) @ v
        return m.o(m.norm(y.transpose(1, 2).reshape(8, 4)).view(2, 4, 4) * F.silu(m.g(x)))

    return Net(forward, **{n: nn.Linear(3, 4) for n in "qkvg"}, norm=nn.GroupNorm(1, 4), o=nn.Linear(4, 2))


@architecture(real(2, 4, 3))
def receptance_weighted() -> nn.Module:
    """RWKV: a mix with the token before, exponential weights, their sum as the denominator."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        before = F.pad(x, (0, 0, 1, -1))
        k, v, r = (p(x * mix + before * (1 - mix)) for p, mix in ((m.k, m.mk), (m.v, m.mv), (m.r, m.mr)))
        above = torch.zeros(2, 3, dtype=x.dtype)
        below, out = above, []
        for t in range(4):
            e, first = torch.exp(k[:, t]), torch.exp(m.u + k[:, t])
            out.append((above + first * v[:, t]) / (below + first))
            decay = torch.exp(-torch.exp(m.w))
            above, below = decay * above + e * v[:, t], decay * below + e
        return m.o(torch.sigmoid(r) * torch.stack(out, 1))

    return Net(forward, stem=nn.Linear(3, 3), **{n: nn.Linear(3, 3, bias=False) for n in "kvro"}, mk=(3,), mv=(3,),
               mr=(3,), u=(3,), w=(3,))  # fmt: skip


@architecture(real(2, 4, 3))
def gated_cumulative_sum() -> nn.Module:
    return Net(lambda m, x: m.o(torch.sigmoid(m.g(x)) * F.relu(m.a(x)).cumsum(1)), g=nn.Linear(3, 4), a=nn.Linear(3, 4),
               o=nn.Linear(4, 2))  # fmt: skip


@architecture(real(2, 4, 3))
def attention_over_recurrence() -> nn.Module:
    """Additive attention over the states of an encoder (Bahdanau)."""

    def forward(m: Net, x: Tensor) -> Tensor:
        states = m.rnn(x)[0]
        scores = m.v(torch.tanh(m.a(states) + m.b(states[:, -1:])))
        return m.o((torch.softmax(scores, dim=1) * states).sum(1))

    return Net(forward, rnn=nn.GRU(3, 3, batch_first=True), a=nn.Linear(3, 4), b=nn.Linear(3, 4), v=nn.Linear(4, 1),
               o=nn.Linear(3, 2))  # fmt: skip


@architecture(real(2, 5, 3))
def long_convolution() -> nn.Module:
    """A convolution over the whole sequence by Fourier transforms (Hyena), gated."""

    def forward(m: Net, x: Tensor) -> Tensor:
        u, g = m.a(x).chunk(2, dim=-1)
        f = torch.fft.rfft(u, n=10, dim=1) * torch.fft.rfft(m.kernel, n=10, dim=0)
        return m.o(torch.fft.irfft(f, n=10, dim=1)[:, :5] * g)

    return Net(forward, a=nn.Linear(3, 6), kernel=(5, 3), o=nn.Linear(3, 2))
