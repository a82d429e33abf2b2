"""What moves a mixture: a network of time with its rate, and a flux that turns without moving mass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuromech.physics.fields.divergence_free import DivergenceFree
from neuromech.physics.fields.layers import stack_of
from neuromech.physics.fields.taylor import tangents


class Clock(nn.Module):
    """A network of time and its derivative: t [B] -> value [B, k], rate [B, k]. It starts at zero."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net
        end = net[-1]
        assert isinstance(end, nn.Linear)
        with torch.no_grad():
            end.weight.mul_(0.0)
            end.bias.mul_(0.0)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value, rate = tangents(stack_of(self.net), t.unsqueeze(-1), 1)
        return value, rate.squeeze(1)


class Swirl(nn.Module):
    """sum_j d_j (rho B_ij), B antisymmetric, of time and space: divergence-free, and as small as rho is."""

    def __init__(self, potential: nn.Module, d: int) -> None:
        super().__init__()
        self.field = DivergenceFree(potential, d, conditions=1)

    def forward(self, t: Tensor, x: Tensor, density: Tensor, slope: Tensor) -> Tensor:
        """`density` [B] and its gradient `slope` [B, d] at t [B], x [B, d]: [B, d]. With slope = grad log rho and
        density 1 it is the velocity."""
        b, d = self.field.derivatives(torch.cat([t.unsqueeze(-1), x], -1))
        return density.unsqueeze(-1) * d.sum(-1) + (b * slope.unsqueeze(1)).sum(-1)


def swirl_of(potential: nn.Module | None, d: int) -> Swirl | None:
    return None if potential is None else Swirl(potential, d)
