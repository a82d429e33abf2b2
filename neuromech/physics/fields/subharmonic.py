"""A positive density as the Laplacian of a subharmonic function, exactly and in any dimension.

Richter-Powell et al. 2022, sec. 4.2: rho = Lap b_0 with b_0 a mixture of functions whose Laplacian is a Gaussian (in
two dimensions (log r^2 + E1(r^2/2)) / 4 pi). What enters density and flux is only the gradient of b_0, the field E
with div E = N(0, I):

    E(x) = c x G_a(|x|^2 / 2),    a = d/2,    c = Gamma(a) / (2 (2 pi)^a)

Its radial factor is Tricomi's entire function G_a(q) = P(a, q) / q^a, P the regularised incomplete gamma function. As
G_a' = -a G_(a+1), all its derivatives are at hand.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from neuromech.compat import apply
from neuromech.physics.fields.construction import Construction, DensityFlux, check_positive
from neuromech.physics.fields.domain import FreeSpace
from neuromech.physics.fields.layers import mlp
from neuromech.physics.fields.motion import Clock, swirl_of

SERIES = 24  # terms; for q <= 2 the last one is below the rounding of float64


class _Tricomi(torch.autograd.Function):
    """G_a(q); `torch.special.gammainc` has no forward derivative, and P / q^a loses its digits near 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, a: float) -> Tensor:
        large = q.clamp_min(1.0)
        quotient = torch.special.gammainc(torch.full_like(large, a), large) * large**-a
        small = q.clamp_max(2.0)
        series = torch.zeros_like(q)
        for k in reversed(range(SERIES)):  # exp(-q) sum_k q^k / Gamma(a + k + 1)
            series = series * small + math.exp(-math.lgamma(a + k + 1))
        return torch.where(q < 2.0, series * torch.exp(-small), quotient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.a = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (q,) = ctx.saved_tensors
        return -ctx.a * tricomi(ctx.a + 1, q) * grads[0], None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (q,) = ctx.saved_tensors
        tangent: Tensor = -ctx.a * tricomi(ctx.a + 1, q) * tangents[0]
        return tangent


def tricomi(a: float, q: Tensor) -> Tensor:
    """G_a(q) = P(a, q) / q^a for q >= 0, differentiable to any order."""
    value: Tensor = apply(_Tricomi, q, a)
    return value


def gauss_field(x: Tensor) -> Tensor:
    """E(x) with div E = N(0, I) in any dimension: [..., d] -> [..., d]."""
    d = x.shape[-1]
    c = math.gamma(d / 2) / (2 * (2 * math.pi) ** (d / 2))
    field: Tensor = c * x * tricomi(d / 2, x.square().sum(-1, keepdim=True) / 2)
    return field


class Subharmonic(Construction):
    """rho = Lap b_0 > 0 in free space, flux = -grad d_t b_0: round Gaussians whose weights, too, may change in time.

    Where weights change, mass flows through all of space as an electric field would (flux ~ r^-d), so that far out the
    velocity is large: `MovingMixture` is the better model of transport, this one of the paper.
    `components`, `width`, `depth`: of the mixture, and of the network that moves it. `spread`, `size`: the standard
    deviations of the means and of each Gaussian, at the start. `swirl`: a potential [B, 1 + d] -> [B, d(d-1)/2] that
    adds sum_j d_j (rho B_ij) to the flux, which moves nothing but turns.
    """

    def __init__(
        self,
        d: int,
        components: int = 32,
        width: int = 64,
        depth: int = 2,
        spread: float = 1.0,
        size: float = 0.5,
        mass: float = 1.0,
        swirl: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_positive(components=components, mass=mass, size=size)
        self.domain, self.total_mass, self.components = FreeSpace(d), mass, components
        self.means = nn.Parameter(spread * torch.randn(components, d))
        self.logits = nn.Parameter(torch.zeros(components))
        self.log_sizes = nn.Parameter(torch.full((components,), math.log(size)))
        self.clock = Clock(mlp(1, components * (d + 2), width, depth))
        self.swirl = swirl_of(swirl, d)

    def forward(self, t: Tensor, x: Tensor) -> DensityFlux:
        d, k = self.domain.d, self.components
        a = d / 2
        value, rate = self.clock(t)
        mean, mean_rate = self.means + value[:, : k * d].unflatten(-1, (k, d)), rate[:, : k * d].unflatten(-1, (k, d))
        w = self.total_mass * torch.softmax(self.logits + value[:, k * d : -k], -1)
        w_rate = w * (rate[:, k * d : -k] - (w / self.total_mass * rate[:, k * d : -k]).sum(-1, keepdim=True))
        s, s_rate = torch.exp(self.log_sizes + value[:, -k:]), rate[:, -k:]  # of the logarithm of s

        y = x.unsqueeze(1) - mean
        q = y.square().sum(-1) / (2 * s * s)
        bell = torch.exp(-q)
        g_next = tricomi(a + 1, q)
        g = q * g_next + bell / math.gamma(a + 1)
        q_rate = -(y * mean_rate).sum(-1) / (s * s) - 2 * q * s_rate
        c = math.gamma(a) / (2 * (2 * math.pi) ** a) * s**-d
        of_y = w_rate * g - w * (d * s_rate * g + a * g_next * q_rate)
        flux = -((c * of_y).unsqueeze(-1) * y - (c * w * g).unsqueeze(-1) * mean_rate).sum(1)
        parts = w * bell * s**-d / (2 * math.pi) ** a
        density = parts.sum(1)
        if self.swirl is not None:
            flux = flux + self.swirl(t, x, density, -(parts / (s * s)).unsqueeze(-1).mul(y).sum(1))
        return DensityFlux(density, flux)
