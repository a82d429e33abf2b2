"""Energies as people write them: states [B, 12] to [B], or to one number. Each is made anew."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

Made = Callable[[Tensor], Tensor]
N = 12
EDGES = torch.tensor(list(itertools.permutations(range(6), 2))).T  # of six bodies, all to all


class Of(nn.Module):
    """Parts, and a function of them and the state."""

    def __init__(self, function: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, u: Tensor) -> Tensor:
        return self.function(self, u)


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), act())]
    return nn.Sequential(*layers[:-1])


def net(act: Callable[[], nn.Module]) -> Made:
    return mlp(N, 16, 16, 1, act=act)


def bodies(u: Tensor) -> Tensor:
    return u.reshape(-1, 6, 2)


def image(u: Tensor) -> Tensor:
    return u.reshape(-1, 1, 3, 4)


def line(u: Tensor) -> Tensor:
    return u.unsqueeze(1)


def total(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def mass(m: Any, q: Tensor) -> Tensor:
    """Mass matrices [B, 6, 6] of positions [B, 6]."""
    root = m.net(q).reshape(-1, 6, 6)
    return root @ root.mT + torch.eye(6)


def robot(function: Callable[[Any, Tensor, Tensor], Tensor]) -> Made:
    return Of(lambda m, u: function(m, mass(m, u[:, :6]), u[:, 6:]) + m.potential(u[:, :6])[:, 0],
              net=mlp(6, 16, 36), potential=mlp(6, 16, 1))  # fmt: skip


def messages(aggregate: Callable[[Any, Tensor], Tensor]) -> Made:
    """phi(x_i, x_j) of every edge, gathered at i, then a function of every node."""

    def function(m: Any, u: Tensor) -> Tensor:
        x = bodies(u)
        edge = m.edge(torch.cat([x[:, EDGES[0]], x[:, EDGES[1]]], -1))  # [B, E, 4]
        return total(m.node(torch.cat([x, aggregate(m, edge)], -1)))

    return Of(function, edge=mlp(4, 8, 4), node=mlp(6, 8, 1))


def _index(e: Tensor) -> Tensor:
    return EDGES[0][None, :, None].expand_as(e)


class Attention(nn.Module):
    """A graph attention layer as in torch_geometric, by scatter softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.a = nn.Linear(2, 8, bias=False), nn.Linear(16, 1)

    def forward(self, u: Tensor) -> Tensor:
        h = self.w(bodies(u))
        score = F.leaky_relu(self.a(torch.cat([h[:, EDGES[0]], h[:, EDGES[1]]], -1)), 0.2).exp()
        norm = h.new_zeros(len(h), 6, 1).index_add(1, EDGES[0], score)
        out = h.new_zeros(h.shape).index_add(1, EDGES[0], score / norm[:, EDGES[0]] * h[:, EDGES[1]])
        return total(out**2)


class Convolution(nn.Module):
    """A graph convolution as in torch_geometric: D^-1/2 A D^-1/2 X W, its degrees made in place."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(2, 8)

    def forward(self, u: Tensor) -> Tensor:
        x = bodies(u)
        degree = torch.zeros(6).scatter_add_(0, EDGES[0], torch.ones(EDGES.shape[1]))
        scale = degree.pow_(-0.5)
        scale.masked_fill_(scale == float("inf"), 0.0)
        weight = scale[EDGES[0]] * scale[EDGES[1]]
        h = self.w(x)
        return total(torch.tanh(torch.zeros_like(h).index_add_(1, EDGES[1], weight[:, None] * h[:, EDGES[0]])))


class Equivariant(nn.Module):
    """E(n)-equivariant: of squared distances alone."""

    def __init__(self) -> None:
        super().__init__()
        self.phi, self.out = mlp(1, 8, 8, act=nn.SiLU), mlp(8, 8, 1, act=nn.SiLU)

    def forward(self, u: Tensor) -> Tensor:
        x = bodies(u)
        square = (x[:, EDGES[0]] - x[:, EDGES[1]]).square().sum(-1, keepdim=True)
        m = self.phi(square)
        return total(self.out(m.new_zeros(len(u), 6, 8).scatter_add(1, _index(m), m)))


class Spline(nn.Module):
    """Cubic B-splines of every coordinate, as Kolmogorov-Arnold networks have them (Cox-de Boor)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-4, 4, 12))
        self.weight = nn.Parameter(torch.randn(N, 8))

    knots: Tensor

    def forward(self, u: Tensor) -> Tensor:
        x, t = u.unsqueeze(-1), self.knots
        basis = ((x >= t[:-1]) & (x < t[1:])).to(u.dtype)
        for k in range(1, 4):
            left = (x - t[: -k - 1]) / (t[k:-1] - t[: -k - 1]) * basis[..., :-1]
            basis = left + (t[k + 1 :] - x) / (t[k + 1 :] - t[1:-k]) * basis[..., 1:]
        return total(basis * self.weight)


class Fourier(nn.Module):
    """A Fourier neural operator's layer in one or two dimensions, on a channel."""

    def __init__(self, ndim: int) -> None:
        super().__init__()
        self.ndim, modes = ndim, (7,) if ndim == 1 else (3, 3)
        self.weight = nn.Parameter(torch.randn(*modes, dtype=torch.complex128))
        self.local = (nn.Conv1d if ndim == 1 else nn.Conv2d)(1, 1, 1)

    def forward(self, u: Tensor) -> Tensor:
        x = line(u) if self.ndim == 1 else image(u)
        dims = (-1,) if self.ndim == 1 else (-2, -1)
        y = torch.fft.irfftn(torch.fft.rfftn(x, dim=dims) * self.weight, s=x.shape[2:], dim=dims)
        return total(F.gelu(y + self.local(x)))


def recurrent(kind: Any) -> Made:
    return Of(lambda m, u: m.last(m.body(u.reshape(-1, 6, 2))[0][:, -1])[:, 0],
              body=kind(2, 8, batch_first=True), last=nn.Linear(8, 1))  # fmt: skip


def convolution(*layers: nn.Module, shape: Callable[[Tensor], Tensor] = line) -> Made:
    return Of(lambda m, u: total(m.body(shape(u)).square()), body=nn.Sequential(*layers))


def encoder(**settings: Any) -> Made:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **settings)
    return Of(
        lambda m, u: total(m.last(m.body(m.first(bodies(u))))), first=nn.Linear(2, 8), body=layer, last=nn.Linear(8, 1)
    )


def attended(**given: Any) -> Made:
    return Of(lambda m, u: total(m.body(*[m.first(bodies(u))] * 3, need_weights=False, **given)[0].square()),
              first=nn.Linear(2, 8), body=nn.MultiheadAttention(8, 2, batch_first=True))  # fmt: skip


def normed(wrap: Callable[[nn.Module], Any], training: bool = True) -> Made:
    return nn.Sequential(wrap(nn.Linear(N, 16)), nn.Tanh(), nn.Linear(16, 1)).train(training)


def distances(u: Tensor) -> Tensor:
    x = bodies(u)
    return (x.unsqueeze(1) - x.unsqueeze(2)).square().sum(-1) + 0.1 + torch.eye(6)


def _in_place(u: Tensor) -> Tensor:
    y = u * 2
    y **= 2
    y += 1
    y.mul_(0.5)
    return (y**2).sum(1)


def _assigned(u: Tensor) -> Tensor:
    y = torch.zeros_like(u)
    y[:, :6] = u[:, :6] ** 2
    y[:, 6:] = u[:, :6] * u[:, 6:]
    return y.sum(1)


def _loop(u: Tensor) -> Tensor:
    e = u.new_zeros(len(u))
    x = bodies(u)
    for i in range(6):
        for j in range(i):
            e = e + 1 / ((x[:, i] - x[:, j]).norm(dim=-1) + 0.1)
    return e


def sparse(u: Tensor) -> Tensor:
    matrix = torch.sparse_coo_tensor(EDGES, torch.ones(EDGES.shape[1]), (6, 6))
    return torch.sparse.mm(matrix, u[:, :6].T).T.square().sum(1)


def upper(u: Tensor) -> Tensor:
    i = torch.triu_indices(6, 6, 1)
    return distances(u)[:, i[0], i[1]].rsqrt().sum(1)


MASK = torch.arange(N) % 3 != 0
ENERGIES: dict[str, Callable[[], Made]] = {
    # networks
    **{
        f"network of {act.__name__}": (lambda act=act: net(act))
        for act in (
            nn.Tanh,
            nn.Softplus,
            nn.SiLU,
            nn.GELU,
            nn.ELU,
            nn.Sigmoid,
            nn.ReLU,
            nn.LeakyReLU,
            nn.Mish,
            nn.Softsign,
            nn.Hardswish,
            nn.CELU,
            nn.SELU,
            nn.LogSigmoid,
            nn.Tanhshrink,
            nn.ReLU6,
            nn.Hardtanh,
            nn.PReLU,
            nn.Softshrink,
        )
    },
    "sines": lambda: Of(lambda m, u: torch.sin(30 * m.a(u)).sum(1), a=nn.Linear(N, 16)),
    "snake": lambda: Of(lambda m, u: total((h := m.a(u)) + torch.sin(h * 2) ** 2 / 2), a=nn.Linear(N, 16)),
    "maxout": lambda: Of(lambda m, u: m.a(u).reshape(-1, 8, 4).amax(-1).sum(1), a=nn.Linear(N, 32)),
    "gated": lambda: Of(lambda m, u: total(F.glu(m.a(u))), a=nn.Linear(N, 32)),
    "SwiGLU": lambda: Of(lambda m, u: total(F.silu(m.a(u)) * m.b(u)), a=nn.Linear(N, 16), b=nn.Linear(N, 16)),
    "residual": lambda: Of(lambda m, u: total(u + m.a(u) ** 2), a=mlp(N, 16, N)),
    "input-convex": lambda: Of(
        lambda m, u: total(F.softplus(F.linear(F.softplus(m.a(u)), m.b.weight.exp()) + m.c(u))),
        a=nn.Linear(N, 8),
        b=nn.Linear(8, 8),
        c=nn.Linear(N, 8),
    ),
    "bilinear layer": lambda: Of(lambda m, u: total(m.a(u[:, :6], u[:, 6:])), a=nn.Bilinear(6, 6, 4)),
    "radial basis": lambda: Of(
        lambda m, u: torch.exp(-(torch.cdist(u, m.c) ** 2) / 9).sum(1), c=nn.Parameter(torch.randn(8, N))
    ),
    "polynomial": lambda: Of(
        lambda m, u: (torch.stack([u**k for k in range(5)], -1) * m.c).sum((1, 2)), c=nn.Parameter(torch.randn(N, 5))
    ),
    "Kolmogorov-Arnold": Spline,
    "layer norm": lambda: nn.Sequential(nn.Linear(N, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1)),
    "RMS norm": lambda: nn.Sequential(nn.Linear(N, 16), nn.RMSNorm(16), nn.Tanh(), nn.Linear(16, 1)),
    "group norm": lambda: nn.Sequential(nn.Linear(N, 16), nn.GroupNorm(4, 16), nn.Tanh(), nn.Linear(16, 1)),
    "batch norm in evaluation": lambda: nn.Sequential(
        nn.Linear(N, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1)
    ).eval(),
    "instance norm": lambda: convolution(nn.Conv1d(1, 4, 3, padding=1), nn.InstanceNorm1d(4), nn.Tanh()),
    "dropout in evaluation": lambda: nn.Sequential(nn.Linear(N, 16), nn.Dropout(), nn.Tanh(), nn.Linear(16, 1)).eval(),
    "spectral norm in training": lambda: normed(parametrizations.spectral_norm),
    "spectral norm in evaluation": lambda: normed(parametrizations.spectral_norm, False),
    "old spectral norm in training": lambda: normed(nn.utils.spectral_norm),
    "weight norm": lambda: normed(parametrizations.weight_norm),
    "orthogonal": lambda: normed(parametrizations.orthogonal),
    "pruned": lambda: normed(lambda m: prune.random_unstructured(m, "weight", 0.5)),
    "own parametrization": lambda: normed(lambda m: parametrize.register_parametrization(m, "weight", nn.Softplus())),
    "compiled": lambda: torch.compile(mlp(N, 8, 1), backend="eager"),
    "part compiled": lambda: nn.Sequential(torch.compile(mlp(N, 8, 8), backend="eager"), nn.Linear(8, 1)),
    "scripted part": lambda: nn.Sequential(torch.jit.script(mlp(N, 8, 8)), nn.Linear(8, 1)),
    "scripted": lambda: torch.jit.script(mlp(N, 8, 1)),
    "checkpointed": lambda: Of(
        lambda m, u: torch.utils.checkpoint.checkpoint(m.a, u, use_reentrant=False)[:, 0], a=mlp(N, 8, 1)
    ),
    "functional call": lambda: Of(
        lambda m, u: torch.func.functional_call(m.a, {k: 2 * p for k, p in m.a.named_parameters()}, (u,)),
        a=mlp(N, 8, 1),
    ),
    "ensemble": lambda: Of(
        lambda m, u: torch.stack([a(u)[:, 0] for a in m.a]).logsumexp(0), a=nn.ModuleList([mlp(N, 8, 1), mlp(N, 8, 1)])
    ),
    "mixture of experts": lambda: Of(
        lambda m, u: (m.g(u).softmax(-1) * torch.cat([a(u) for a in m.a], 1)).sum(1),
        g=nn.Linear(N, 2),
        a=nn.ModuleList([mlp(N, 8, 1), mlp(N, 8, 1)]),
    ),
    "LSTM": lambda: recurrent(nn.LSTM),
    "GRU": lambda: recurrent(nn.GRU),
    "RNN": lambda: recurrent(nn.RNN),
    "embedding of positions": lambda: Of(
        lambda m, u: total(m.a(torch.cat([bodies(u), m.e.weight.expand(len(u), 6, 4)], -1))),
        e=nn.Embedding(6, 4),
        a=mlp(6, 8, 1),
    ),
    # attention
    "attention": attended,
    "attention with a mask": lambda: attended(attn_mask=torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)),
    "attention with padding": lambda: attended(attn_mask=torch.zeros(6, 6).masked_fill(torch.eye(6) == 0, -1.0)),
    "encoder": encoder,
    "encoder, norm first": lambda: encoder(norm_first=True, activation="gelu"),
    "encoder in evaluation": lambda: encoder().eval(),
    "causal attention": lambda: Of(
        lambda m, u: total(F.scaled_dot_product_attention(*m.a(bodies(u)).chunk(3, -1), is_causal=True)),
        a=nn.Linear(2, 24),
    ),
    "linear attention": lambda: Of(
        lambda m, u: (
            total(q @ (k.softmax(1).mT @ v)) if (q := m.q(bodies(u)), k := m.k(bodies(u)), v := m.v(bodies(u))) else u
        ),
        q=nn.Linear(2, 8),
        k=nn.Linear(2, 8),
        v=nn.Linear(2, 8),
    ),
    "Hopfield": lambda: Of(
        lambda m, u: -torch.logsumexp(u @ m.w, 1) + u.square().sum(1) / 2, w=nn.Parameter(torch.randn(N, 8))
    ),
    # grids
    "convolution": lambda: convolution(
        nn.Conv1d(1, 4, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Conv1d(4, 1, 3)
    ),
    "strided convolution": lambda: convolution(
        nn.Conv1d(1, 4, 3, stride=2, dilation=2), nn.Tanh(), nn.ConvTranspose1d(4, 1, 3)
    ),
    "depthwise convolution": lambda: convolution(nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 3, groups=4), nn.Tanh()),
    "convolution in two dimensions": lambda: convolution(
        nn.Conv2d(1, 4, 2), nn.SiLU(), nn.Conv2d(4, 1, 2), shape=image
    ),
    "replicated pad": lambda: convolution(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="replicate"), nn.Tanh(), shape=image
    ),
    "max pool": lambda: convolution(nn.Conv1d(1, 4, 3), nn.MaxPool1d(2), nn.Tanh()),
    "max pool in two dimensions": lambda: convolution(nn.Conv2d(1, 4, 2), nn.MaxPool2d(2), nn.Tanh(), shape=image),
    "mean pool": lambda: convolution(nn.Conv1d(1, 4, 3), nn.AvgPool1d(2), nn.Tanh()),
    "mean pool in two dimensions": lambda: convolution(nn.Conv2d(1, 4, 2), nn.AvgPool2d(2, padding=1), shape=image),
    "adaptive pool": lambda: convolution(nn.Conv1d(1, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool1d(3)),
    "adaptive max pool": lambda: convolution(nn.Conv1d(1, 4, 3), nn.Tanh(), nn.AdaptiveMaxPool1d(3)),
    "power pool": lambda: convolution(nn.Softplus(), nn.LPPool1d(2, 2)),
    "U-net": lambda: Of(
        lambda m, u: total(
            m.b(torch.cat([h := m.a(line(u)), F.interpolate(F.avg_pool1d(h, 2), scale_factor=2, mode="linear")], 1))
        ),
        a=nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.GELU()),
        b=nn.Conv1d(8, 1, 3),
    ),
    "unfolded patches": lambda: Of(lambda m, u: total(m.a(F.unfold(image(u), 2).mT)), a=mlp(4, 8, 1)),
    "folded patches": lambda: Of(lambda m, u: total(F.fold(F.unfold(image(u), 2).square(), (3, 4), 2) ** 2)),
    "sampled grid": lambda: Of(
        lambda m, u: total(F.grid_sample(image(u), m.g.expand(len(u), 2, 2, 2), align_corners=True).square()),
        g=nn.Parameter(torch.rand(1, 2, 2, 2) - 0.5),
    ),
    "Fourier operator": lambda: Fourier(1),
    "Fourier operator in two dimensions": lambda: Fourier(2),
    "spectral gradient": lambda: (
        lambda u: (torch.fft.ifft(1j * torch.fft.fftfreq(N) * torch.fft.fft(u)).real ** 2).sum(1)
    ),
    "power spectrum": lambda: lambda u: torch.fft.rfft(u).abs().square().sum(1),
    "modulus of a spectrum": lambda: lambda u: torch.fft.fft(u).abs().sum(1),
    "Korteweg-de Vries": lambda: lambda u: (u**3 - (u.roll(-1, 1) - u) ** 2 / 2).sum(1),
    "Cahn-Hilliard": lambda: lambda u: ((u**2 - 1) ** 2 / 4 + (u.roll(-1, 1) - u) ** 2).sum(1),
    "gradient of a field": lambda: (
        lambda u: sum(g.square().sum((1, 2)) for g in torch.gradient(u.reshape(-1, 3, 4), dim=(1, 2)))
    ),
    "trapezoid": lambda: lambda u: torch.trapezoid(u**2, dx=0.1),
    # mechanics
    "inverse mass": lambda: robot(
        lambda m, a, p: (p.unsqueeze(1) @ torch.linalg.inv(a) @ p.unsqueeze(2)).flatten() / 2
    ),
    "solved mass": lambda: robot(lambda m, a, p: (p * torch.linalg.solve(a, p)).sum(1) / 2),
    "Cholesky of the mass": lambda: robot(
        lambda m, a, p: (p * torch.cholesky_solve(p.unsqueeze(2), torch.linalg.cholesky(a)).squeeze(2)).sum(1)
    ),
    "triangular solve": lambda: robot(
        lambda m, a, p: (
            torch.linalg.solve_triangular(torch.linalg.cholesky(a), p.unsqueeze(2), upper=False).square().sum((1, 2))
        )
    ),
    "determinant of the mass": lambda: robot(lambda m, a, p: torch.linalg.det(a) / 100 + p.square().sum(1)),
    "log of the determinant": lambda: robot(lambda m, a, p: torch.logdet(a) + p.square().sum(1)),
    "slogdet": lambda: robot(lambda m, a, p: torch.linalg.slogdet(a).logabsdet + p.square().sum(1)),
    "pseudo-inverse": lambda: robot(lambda m, a, p: torch.einsum("bi,bij,bj->b", p, torch.linalg.pinv(a), p)),
    "matrix power": lambda: robot(
        lambda m, a, p: torch.einsum("bi,bij,bj->b", p, torch.linalg.matrix_power(a / 9, 3), p)
    ),
    "matrix exponential": lambda: robot(
        lambda m, a, p: torch.einsum("bi,bij,bj->b", p, torch.linalg.matrix_exp(a / 9), p)
    ),
    "eigenvalues": lambda: robot(lambda m, a, p: torch.linalg.eigvalsh(a).sqrt().sum(1) + p.square().sum(1)),
    "singular values": lambda: lambda u: torch.linalg.svdvals(u.reshape(-1, 3, 4)).sum(1),
    "nuclear norm": lambda: lambda u: torch.linalg.matrix_norm(u.reshape(-1, 3, 4), "nuc"),
    "Frobenius norm": lambda: lambda u: torch.linalg.matrix_norm(u.reshape(-1, 3, 4)),
    "QR": lambda: lambda u: torch.linalg.qr(u.reshape(-1, 3, 4).mT).R.diagonal(dim1=1, dim2=2).abs().log().sum(1),
    "Kepler": lambda: lambda u: u[:, :6].square().sum(1) / 2 - 1 / (u[:, 6:].norm(dim=1) + 0.1),
    "relativistic": lambda: lambda u: (1 + u[:, :6].square().sum(1)).sqrt() + u[:, 6:].square().sum(1),
    "magnetic": lambda: lambda u: (u[:, :6] - torch.sin(u[:, 6:])).square().sum(1) / 2,
    "double pendulum": lambda: (
        lambda u: (
            (u[:, 0] ** 2 + 2 * u[:, 1] ** 2 - 2 * u[:, 0] * u[:, 1] * torch.cos(u[:, 2] - u[:, 3]))
            / (1 + torch.sin(u[:, 2] - u[:, 3]) ** 2)
            - torch.cos(u[:, 2])
            + u[:, 4:].square().sum(1)
        )
    ),
    "Toda": lambda: lambda u: torch.exp((u[:, :6].diff(dim=1)).clamp(-5, 5)).sum(1) + u[:, 6:].square().sum(1),
    "Henon-Heiles": lambda: lambda u: u.square().sum(1) / 2 + u[:, 0] ** 2 * u[:, 1] - u[:, 1] ** 3 / 3,
    "Lennard-Jones": lambda: lambda u: (distances(u) ** -6 - distances(u) ** -3).sum((1, 2)),
    "Morse": lambda: lambda u: (1 - torch.exp(-(distances(u).sqrt() - 1))).square().sum((1, 2)),
    "Coulomb in a loop": lambda: _loop,
    "Coulomb over pairs": lambda: upper,
    "Yukawa": lambda: lambda u: total(torch.exp(-(d := torch.cdist(bodies(u), bodies(u)) + torch.eye(6))) / d),
    "smallest distance": lambda: (
        lambda u: torch.pdist(bodies(u)[0]).amin() if len(u) == 1 else distances(u).flatten(1).amin(1)
    ),
    "learned exponent": lambda: Of(lambda m, u: (u.square() + 0.1).pow(m.k).sum(1), k=nn.Parameter(torch.tensor(1.3))),
    "angles": lambda: lambda u: torch.atan2(u[:, :6], u[:, 6:] + 0.1).square().sum(1),
    "periodic box": lambda: (
        lambda u: (
            (bodies(u)[:, 0] - bodies(u)[:, 1] - torch.round(bodies(u)[:, 0] - bodies(u)[:, 1])).square().sum(1)
            + u.square().sum(1)
        )
    ),
    "cross product": lambda: lambda u: torch.linalg.cross(u[:, :3], u[:, 3:6]).square().sum(1) + u.square().sum(1),
    "quaternion": lambda: (
        lambda u: (F.normalize(u[:, :4], dim=1) * torch.arange(4.0)).square().sum(1) + u.square().sum(1)
    ),
    "spherical": lambda: lambda u: total(torch.acos(0.99 * F.normalize(u.reshape(-1, 4, 3), dim=2)[..., 0]) ** 2),
    "volume": lambda: lambda u: torch.linalg.det(u[:, :9].reshape(-1, 3, 3)).square() + u.square().sum(1),
    "Mooney-Rivlin": lambda: (
        lambda u: (
            (c := (f := u[:, :9].reshape(-1, 3, 3) / 9 + torch.eye(3)).mT @ f).diagonal(dim1=1, dim2=2).sum(1)
            + torch.linalg.matrix_norm(c)
        )
    ),
    # graphs
    "message passing by index_add": lambda: messages(lambda m, e: e.new_zeros(len(e), 6, 4).index_add(1, EDGES[0], e)),
    "message passing by scatter_add": lambda: messages(
        lambda m, e: e.new_zeros(len(e), 6, 4).scatter_add(1, _index(e), e)
    ),
    "message passing by index_put": lambda: messages(
        lambda m, e: (
            e.new_zeros(6, len(e), 4).index_put((EDGES[0],), e.transpose(0, 1), accumulate=True).transpose(0, 1)
        )
    ),
    "message passing in place": lambda: messages(lambda m, e: torch.zeros(len(e), 6, 4).index_add_(1, EDGES[0], e)),
    "message passing by matmul": lambda: messages(lambda m, e: F.one_hot(EDGES[0], 6).to(e.dtype).T @ e),
    "largest message": lambda: messages(
        lambda m, e: e.new_zeros(len(e), 6, 4).scatter_reduce(1, _index(e), e, "amax", include_self=False)
    ),
    "mean message": lambda: messages(
        lambda m, e: e.new_zeros(len(e), 6, 4).scatter_reduce(1, _index(e), e, "mean", include_self=False)
    ),
    "message passing by index_reduce": lambda: messages(
        lambda m, e: e.new_zeros(len(e), 6, 4).index_reduce(1, EDGES[0], e, "mean", include_self=False)
    ),
    "graph convolution": Convolution,
    "graph attention": Attention,
    "equivariant": Equivariant,
    "sparse matrix": lambda: sparse,
    "deep set": lambda: Of(lambda m, u: m.b(m.a(bodies(u)).sum(1))[:, 0], a=mlp(2, 8, 8), b=mlp(8, 8, 1)),
    "sorted": lambda: Of(lambda m, u: (u.sort(1).values * m.w).square().sum(1), w=nn.Parameter(torch.randn(N))),
    "largest three": lambda: lambda u: u.topk(3, 1).values.square().sum(1),
    "median": lambda: lambda u: u.median(1).values ** 2 + u.square().sum(1),
    "softmin of distances": lambda: lambda u: -torch.logsumexp(-distances(u).flatten(1), 1),
    # writing
    "in place": lambda: _in_place,
    "assigned": lambda: _assigned,
    "masked": lambda: lambda u: (u.masked_fill(~MASK, 0.0) ** 4).sum(1),
    "index arithmetic": lambda: lambda u: (u[:, (torch.arange(N) + 1) % N] - u).pow(4).sum(1),
    "signs of places": lambda: lambda u: ((-1.0) ** torch.arange(N) * u**3).sum(1),
    "one-hot of places": lambda: lambda u: (F.one_hot(torch.arange(N) % 3, 3).to(u) * u[..., None] ** 2).sum((1, 2)),
    "boolean index": lambda: lambda u: u[:, MASK].square().sum(1),
    "masked select": lambda: lambda u: torch.masked_select(u, MASK).square().sum(),
    "where": lambda: lambda u: torch.where(u > 0, u**2, u**4).sum(1),
    "product": lambda: lambda u: torch.tanh(u).prod(1) + u.square().sum(1),
    "cumulative product": lambda: lambda u: torch.tanh(u).cumprod(1).sum(1),
    "log-cumsum-exp": lambda: lambda u: u.logcumsumexp(1).sum(1),
    "cumulative maximum": lambda: lambda u: u.cummax(1).values.square().sum(1),
    "complex": lambda: lambda u: (z := torch.complex(u[:, :6], u[:, 6:])).abs().square().sum(1) + (z**2).real.sum(1),
    "phase": lambda: lambda u: (torch.complex(u[:, :6], u[:, 6:]) * torch.exp(torch.tensor(0.3j))).real.square().sum(1),
    "einsum of three": lambda: Of(
        lambda m, u: torch.einsum("bi,ijk,bj,bk->b", u, m.w, u, u), w=nn.Parameter(torch.randn(N, N, N))
    ),
    "Kronecker": lambda: lambda u: torch.stack([torch.kron(x[:3], x[3:6]) for x in u]).square().sum(1),
    "one number": lambda: lambda u: (u**4).sum(),
    "column": lambda: lambda u: (u**4).sum(1, keepdim=True),
    "p-norm": lambda: lambda u: u.norm(p=3, dim=1),
    "largest entry": lambda: lambda u: u.norm(p=float("inf"), dim=1),
    "Gaussian mixture": lambda: Of(
        lambda m, u: -torch.logsumexp(-(torch.cdist(u, m.c) ** 2) / 2 + m.w.log_softmax(0), 1),
        c=nn.Parameter(torch.randn(4, N)),
        w=nn.Parameter(torch.randn(4)),
    ),
    "distribution": lambda: lambda u: -torch.distributions.Normal(0.0, 2.0, validate_args=False).log_prob(u).sum(1),
    "multivariate normal": lambda: Of(
        lambda m, u: (
            -torch.distributions.MultivariateNormal(torch.zeros(N), torch.eye(N) * 2, validate_args=False).log_prob(u)
        )
    ),
    "gamma function": lambda: lambda u: torch.lgamma(u.square() + 1).sum(1),
    "error function": lambda: lambda u: torch.erf(u).square().sum(1),
    "Bessel function": lambda: lambda u: torch.special.i0(u.tanh()).sum(1),
    "entropy": lambda: lambda u: torch.special.entr(u.softmax(1)).sum(1),
    "cross entropy": lambda: lambda u: F.cross_entropy(u, torch.zeros(len(u), dtype=torch.long), reduction="none"),
    "binary cross entropy": lambda: (
        lambda u: F.binary_cross_entropy_with_logits(u, torch.full_like(u, 0.3), reduction="none").sum(1)
    ),
    "divergence of Kullback and Leibler": lambda: (
        lambda u: F.kl_div(u.log_softmax(1), torch.full_like(u, 1 / N), reduction="none").sum(1)
    ),
    "inner gradient": lambda: lambda u: torch.func.vmap(torch.func.grad(lambda x: (x**3).sum()))(u).square().sum(1),
    "inner vmap": lambda: lambda u: torch.func.vmap(lambda x: (x**3).sum())(u),
}
