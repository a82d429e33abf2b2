"""More places for fields: a channel, an annulus, and walls at which the field stands still.

A domain of your own: derive from `FreeSpace` (or `Box`, `Ball`), a frozen dataclass, and write

    inside(x)        which points lie in it
    walls            True, if there are any
    wall(x)          a smooth function, positive inside, zero on the boundary, at most 1, and its gradient
    wall_bend(x)     its second derivatives, for `DivergenceFree.jacobian`
    place(unit)      points of the unit cube to points spread evenly, and `volume`; for drawing points
    periods          lengths along periodic axes, None along the others

`check_walls` compares the derivatives with autograd's and looks at the boundary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.fields.domain import Box, FreeSpace


@dataclass(frozen=True)
class Channel(Box):
    """A box whose first `open` axes are periodic: a duct, or two plates. Points along them stand for their class."""

    open: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.open < self.d:
            raise PhysicsError(f"open={self.open}: a channel in {self.d} dimensions has 1 to {self.d - 1} open axes")

    @property
    def periods(self) -> tuple[float | None, ...]:
        return (*self.lengths[: self.open], *[None] * (self.d - self.open))

    def inside(self, x: Tensor) -> Tensor:
        low, _ = self.ends(x)
        return super().inside(torch.cat([low[: self.open].expand_as(x[..., : self.open]), x[..., self.open :]], -1))

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f, slope, bend = super().factors(x)
        walled = (torch.arange(self.d, device=x.device) >= self.open).to(x.dtype)
        return f * walled + (1 - walled), slope * walled, bend * walled

    def to_wall(self, x: Tensor) -> Tensor:
        low, high = self.ends(x)
        middle = torch.where(torch.arange(self.d, device=x.device) < self.open, (low + high) / 2, x)
        moved = super().to_wall(middle)
        return torch.cat([x[..., : self.open], moved[..., self.open :]], -1)


@dataclass(frozen=True)
class Annulus(FreeSpace):
    """Between two circles (in d dimensions, spheres) about the origin, with impermeable walls."""

    inner: float = 0.5
    outer: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.inner < self.outer or self.d < 2:
            raise PhysicsError(
                f"radii {self.inner} and {self.outer} in {self.d} dimensions: expected 0 < inner < outer, d >= 2"
            )

    @property
    def volume(self) -> float:
        ball = math.pi ** (self.d / 2) / math.gamma(self.d / 2 + 1)
        return float(ball * (self.outer**self.d - self.inner**self.d))

    @property
    def walls(self) -> bool:
        return True

    def inside(self, x: Tensor) -> Tensor:
        r, slack = x.square().sum(-1), 16 * torch.finfo(x.dtype).eps
        return (r >= self.inner**2 * (1 - slack)) & (r <= self.outer**2 * (1 + slack))

    def _scale(self) -> float:
        return 4 / (self.outer**2 - self.inner**2) ** 2

    def wall(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r = x.square().sum(-1)
        value = self._scale() * (r - self.inner**2) * (self.outer**2 - r)
        slope = self._scale() * (self.inner**2 + self.outer**2 - 2 * r)
        return value, 2 * slope.unsqueeze(-1) * x

    def wall_bend(self, x: Tensor) -> Tensor:
        r = x.square().sum(-1)
        slope = self._scale() * (self.inner**2 + self.outer**2 - 2 * r)
        one = torch.eye(self.d, dtype=x.dtype, device=x.device)
        return 2 * slope[..., None, None] * one - 8 * self._scale() * x.unsqueeze(-1) * x.unsqueeze(-2)

    def to_wall(self, x: Tensor) -> Tensor:
        r = x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        moved: Tensor = x / r * torch.where(r < (self.inner + self.outer) / 2, self.inner, self.outer)
        return moved

    def place(self, unit: Tensor) -> Tensor:
        low, high = self.inner**self.d, self.outer**self.d
        r = (low + (high - low) * unit[:, :1]) ** (1 / self.d)
        if self.d == 2:
            angle = 2 * math.pi * unit[:, 1:]
            x = torch.cat([angle.cos(), angle.sin()], -1)
        else:
            x = torch.randn_like(unit)
        placed: Tensor = r * x / x.norm(dim=-1, keepdim=True)
        return placed


@dataclass(frozen=True, init=False)
class NoSlip(FreeSpace):
    """A domain at whose walls the field vanishes altogether: what vanishes there, squared.

    With a speed of the walls of your own: `DivergenceFree(..., base=...)`.
    """

    within: FreeSpace

    def __init__(self, within: FreeSpace) -> None:
        if not isinstance(within, FreeSpace) or not within.walls:
            raise PhysicsError(f"{within!r} has no walls to stand still at: expected a Box, Ball, Channel or Annulus")
        object.__setattr__(self, "d", within.d)
        object.__setattr__(self, "within", within)

    @property
    def periods(self) -> tuple[float | None, ...]:
        return self.within.periods

    @property
    def volume(self) -> float:
        return self.within.volume

    @property
    def walls(self) -> bool:
        return True

    def inside(self, x: Tensor) -> Tensor:
        return self.within.inside(x)

    def wall(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = self.within.wall(x)
        return value**2, 2 * value.unsqueeze(-1) * slope

    def wall_bend(self, x: Tensor) -> Tensor:
        (value, slope), bend = self.within.wall(x), self.within.wall_bend(x)
        return 2 * (value[..., None, None] * bend + slope.unsqueeze(-1) * slope.unsqueeze(-2))

    def gates(self, x: Tensor, before: int = 0) -> tuple[Tensor, Tensor]:
        gate, steep = self.within.gates(x, before)
        return gate**2, 2 * gate * steep

    def gate_bends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate = self.within.gates(x)[0]
        steep, bend = self.within.gate_bends(x)
        square = 2 * (gate[:, None, None] * bend + steep.unsqueeze(1) * steep.unsqueeze(2))
        return 2 * gate[:, None] * steep, square

    def to_wall(self, x: Tensor) -> Tensor:
        return self.within.to_wall(x)

    def place(self, unit: Tensor) -> Tensor:
        return self.within.place(unit)


def check_walls(domain: FreeSpace, count: int = 64) -> None:
    """Raise `PhysicsError` unless a domain of your own keeps what fields ask of it, at random points."""
    x = domain.sample(count, dtype=torch.float64)
    if x.shape != (count, domain.d) or not bool(domain.inside(x).all()):
        raise PhysicsError(f"{domain}: place() puts points of the unit cube outside, or gives {list(x.shape)}")
    if not domain.walls:
        return
    value, slope = domain.wall(x)
    if value.shape != x.shape[:1] or slope.shape != x.shape:
        raise PhysicsError(
            f"{domain}: wall() of points [{count}, {domain.d}] gives {list(value.shape)} and {list(slope.shape)}; "
            f"expected [{count}] and [{count}, {domain.d}], a function and its gradient"
        )
    wanted = torch.func.vmap(torch.func.grad(lambda y: domain.wall(y.unsqueeze(0))[0][0]))(x)
    bend = torch.func.vmap(torch.func.jacrev(lambda y: domain.wall(y.unsqueeze(0))[1][0]))(x)
    for name, found, right in (("gradient of wall()", slope, wanted), ("wall_bend()", domain.wall_bend(x), bend)):
        off = float((found - right).abs().max())
        if not off <= 1e-8 * (1 + float(right.abs().max())):
            raise PhysicsError(f"{domain}: the {name} is off by {off:.2g} from autograd's")
    on_wall = float(domain.wall(domain.to_wall(x))[0].abs().max())
    if not (bool((value >= 0).all()) and bool((value <= 1 + 1e-12).all()) and on_wall < 1e-12):
        raise PhysicsError(
            f"{domain}: wall() is {float(value.min()):.2g} to {float(value.max()):.2g} inside and {on_wall:.2g} on the "
            "wall; expected 0 to 1, and 0 there (to_wall(x) moves points to it)"
        )
