"""Where a field lives: its points, its walls, how to draw points in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuromech.errors import PhysicsError


def inspecting(x: Tensor) -> bool:
    """False inside a torch.func transform or a compiled region, where values cannot be looked at."""
    return not (torch._C._functorch.is_functorch_wrapped_tensor(x) or torch.compiler.is_compiling())


def check_points(x: object, columns: int, who: str, single: bool = False) -> None:
    """Raise `PhysicsError` unless x is a floating-point tensor of points [B, columns] ([columns] too if `single`)."""
    shape = f"[B, {columns}]" + (f" or [{columns}]" if single else "")
    if not isinstance(x, Tensor):
        raise PhysicsError(f"{who}: expected a tensor of points {shape}, got {type(x).__name__}")
    if x.ndim not in ((1, 2) if single else (2,)) or x.shape[-1] != columns:
        raise PhysicsError(f"{who}: points have shape {list(x.shape)}, expected {shape}")
    if not x.dtype.is_floating_point:
        raise PhysicsError(f"{who}: points are {x.dtype}, expected float32 or float64: use x.float()")


@dataclass(frozen=True)
class FreeSpace:
    """All of R^d."""

    d: int

    def __post_init__(self) -> None:
        if self.d < 1:
            raise PhysicsError(f"d={self.d}: expected 1 or more space dimensions")

    @property
    def periods(self) -> tuple[float | None, ...]:
        return (None,) * self.d

    @property
    def volume(self) -> float:
        return math.inf

    @property
    def walls(self) -> bool:
        return False

    def inside(self, x: Tensor) -> Tensor:
        return torch.isfinite(x).all(-1)

    def wall(self, x: Tensor) -> Tensor:
        """A smooth function, positive inside and zero on the boundary: [B]."""
        return torch.ones_like(x[..., 0])

    def sample(self, count: int, **options: object) -> Tensor:
        raise PhysicsError("free space has no uniform distribution: draw points from the density instead")


@dataclass(frozen=True)
class Torus(FreeSpace):
    """[0, period)^d with opposite faces identified; any real point stands for its class."""

    period: float = 1.0

    @property
    def periods(self) -> tuple[float | None, ...]:
        return (self.period,) * self.d

    @property
    def volume(self) -> float:
        return self.period**self.d

    def sample(self, count: int, **options: object) -> Tensor:
        return self.period * torch.rand(count, self.d, **options)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Box(FreeSpace):
    """The closed box from `low` to `high` (the same for every axis), with impermeable walls."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise PhysicsError(f"a box from {self.low} to {self.high} is empty: expected low < high")

    @property
    def volume(self) -> float:
        return (self.high - self.low) ** self.d

    @property
    def walls(self) -> bool:
        return True

    def inside(self, x: Tensor) -> Tensor:
        slack = 8 * torch.finfo(x.dtype).eps * max(abs(self.low), abs(self.high))
        return ((x >= self.low - slack) & (x <= self.high + slack)).all(-1)

    def wall(self, x: Tensor) -> Tensor:
        width = self.high - self.low
        return ((x - self.low) * (self.high - x) * (4 / width**2)).prod(-1)

    def sample(self, count: int, **options: object) -> Tensor:
        return self.low + (self.high - self.low) * torch.rand(count, self.d, **options)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Ball(FreeSpace):
    """The closed ball about the origin, with an impermeable wall."""

    radius: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.radius > 0:
            raise PhysicsError(f"radius={self.radius}: expected a positive radius")

    @property
    def volume(self) -> float:
        return math.pi ** (self.d / 2) / math.gamma(self.d / 2 + 1) * self.radius**self.d

    @property
    def walls(self) -> bool:
        return True

    def inside(self, x: Tensor) -> Tensor:
        return x.square().sum(-1) <= self.radius**2 * (1 + 16 * torch.finfo(x.dtype).eps)

    def wall(self, x: Tensor) -> Tensor:
        return 1 - x.square().sum(-1) / self.radius**2

    def sample(self, count: int, **options: object) -> Tensor:
        x = torch.randn(count, self.d, **options)  # type: ignore[call-overload]
        r = torch.rand(count, 1, **options) ** (1 / self.d)  # type: ignore[call-overload]
        return self.radius * r * x / x.norm(dim=-1, keepdim=True)  # type: ignore[no-any-return]


def check_inside(domain: FreeSpace, x: Tensor, who: str) -> None:
    """Raise `PhysicsError` if a point lies outside the domain."""
    if not inspecting(x) or bool((ok := domain.inside(x)).all()):
        return
    bad = int((~ok).sum())
    first: Sequence[float] = [round(v, 6) for v in x[~ok][0].tolist()]
    raise PhysicsError(f"{who}: {bad} of {len(x)} points lie outside {domain}, the first at {first}: move them inside")
