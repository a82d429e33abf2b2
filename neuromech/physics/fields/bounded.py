"""Mixtures on a torus or in a box: Gaussians along the axes, and their images behind the walls."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neuromech.errors import PhysicsError
from neuromech.physics.fields.channel import Channel
from neuromech.physics.fields.construction import Construction, DensityFlux, check_positive
from neuromech.physics.fields.domain import Box, FreeSpace, Torus
from neuromech.physics.fields.layers import mlp
from neuromech.physics.fields.motion import Clock

WIDEST = 0.5  # standard deviation over period: such a wrapped Gaussian is uniform to 2e-2, and needs 11 images
IMAGES = 5  # on each side: beyond 4.5 periods / WIDEST = 9 standard deviations a Gaussian is below float64's rounding


class BoundedMixture(Construction):
    """A positive density on a `Torus` or in a `Box`, of constant mass: a mixture moved by a network of time.

    Every component is a product over the axes of one-dimensional Gaussians, wrapped around the torus or reflected at
    the walls (method of images), which then let nothing through: flux . normal = 0, exactly.
    """

    def __init__(
        self,
        domain: FreeSpace,
        components: int = 32,
        width: int = 64,
        depth: int = 2,
        size: float = 0.15,
        mass: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(domain, Torus | Box) or isinstance(domain, Channel):
            raise PhysicsError(f"{domain}: expected a Torus or a Box; in free space use MovingMixture")
        if not 0 < size < WIDEST:
            raise PhysicsError(f"size={size}: expected the width of a Gaussian over the period, between 0 and {WIDEST}")
        check_positive(components=components, mass=mass)
        self.domain: Torus | Box = domain
        self.total_mass, self.components = mass, components
        self.means = nn.Parameter(torch.rand(components, domain.d))  # in lengths
        ratio = size / WIDEST
        self.shapes = nn.Parameter(torch.full((components, domain.d), math.log(ratio / (1 - ratio))))
        self.logits = nn.Parameter(torch.zeros(components))
        self.clock = Clock(mlp(1, 2 * components * domain.d, width, depth))

    def forward(self, t: Tensor, x: Tensor) -> DensityFlux:
        value, rate = (v.unflatten(-1, (2, self.components, self.domain.d)) for v in self.clock(t))
        mean, mean_rate = self.means + value[:, 0], rate[:, 0]
        share = torch.sigmoid(self.shapes + value[:, 1])
        s, log_rate = WIDEST * share, (1 - share) * rate[:, 1]  # width, and the rate of its logarithm

        length = x.new_tensor(self.domain.lengths)
        low = self.domain.ends(x)[0] if isinstance(self.domain, Box) else torch.zeros_like(length)
        y = ((x - low) / length).unsqueeze(1)
        period = 1.0
        centres = [(mean, 1.0)]
        if isinstance(self.domain, Box):
            period, centres = 2.0, [(mean, 1.0), (-mean, -1.0)]
        p, f = torch.zeros_like(mean), torch.zeros_like(mean)
        for centre, sign in centres:
            nearest = y - centre - period * torch.round((y - centre).detach() / period)
            for m in range(-IMAGES, IMAGES + 1):
                z = (nearest - m * period) / s
                bell = torch.exp(-0.5 * z * z) / (s * math.sqrt(2 * math.pi))
                p, f = p + bell, f + bell * (sign * mean_rate + log_rate * s * z)
        weights = self.total_mass * torch.softmax(self.logits, -1) / self.domain.volume
        axes = range(self.domain.d)
        flux = [f[..., i] * torch.cat([p[..., :i], p[..., i + 1 :]], -1).prod(-1) for i in axes]
        density = (weights * p.prod(-1)).sum(1)
        return DensityFlux(density, length * (weights.unsqueeze(-1) * torch.stack(flux, -1)).sum(1))
