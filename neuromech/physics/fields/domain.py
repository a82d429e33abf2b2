"""Where a field lives: its points, its walls, how to draw points in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuromech.compat import dispatch_modes, is_transformed
from neuromech.errors import PhysicsError


def inspecting(x: Tensor) -> bool:
    """False where values cannot be looked at: in torch.func transforms, compiled regions and recordings."""
    watched = torch.compiler.is_compiling() or dispatch_modes() > 0
    return not watched and not is_transformed(x)


def check_points(x: object, columns: int, who: str, single: bool = False) -> None:
    """Raise `PhysicsError` unless x is a floating-point tensor of points [B, columns] ([columns] too if `single`)."""
    shape = f"[B, {columns}]" + (f" or [{columns}]" if single else "")
    if not isinstance(x, Tensor):
        raise PhysicsError(f"{who}: expected a tensor of points {shape}, got {type(x).__name__}")
    if x.ndim not in ((1, 2) if single else (2,)) or x.shape[-1] != columns:
        raise PhysicsError(f"{who}: points have shape {list(x.shape)}, expected {shape}")
    if not x.dtype.is_floating_point:
        raise PhysicsError(f"{who}: points are {x.dtype}, expected float32 or float64: use x.float()")


Side = float | tuple[float, ...]


def _sides(value: object, d: int, what: str) -> tuple[float, ...]:
    """One number for every axis, or one an axis."""
    given = (value,) * d if isinstance(value, int | float) else value
    if not isinstance(given, Sequence) or len(given) != d or not all(isinstance(v, int | float) for v in given):
        raise PhysicsError(f"{what}={value!r}: expected a number, or one for each of {d} axes")
    return tuple(float(v) for v in given)


@dataclass(frozen=True)
class FreeSpace:
    """All of R^d; what the other domains share."""

    d: int

    def __post_init__(self) -> None:
        if not isinstance(self.d, int) or self.d < 1:
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
        """Which points lie in the domain, up to rounding: [B], of bool."""
        return torch.isfinite(x).all(-1)

    def wall(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A smooth function, positive inside, zero on the boundary and at most 1, and its gradient: [B], [B, d]."""
        return torch.ones_like(x[..., 0]), torch.zeros_like(x)

    def wall_bend(self, x: Tensor) -> Tensor:
        """The second derivatives of that function: [B, d, d]."""
        return x.new_zeros(*x.shape, self.d)

    def gates(self, x: Tensor, before: int = 0) -> tuple[Tensor, Tensor]:
        """What the entries of an antisymmetric matrix are multiplied with, so that its field does not cross the wall.

        g_ij and d_j g_ij, symmetric: [B, m, m] each, m = before + d; `before` coordinates (time) come first.
        """
        m = before + self.d
        gate, steep = self.wall(x)
        steep = torch.nn.functional.pad(steep, (before, 0))
        return gate[..., None, None].expand(*gate.shape, m, m), steep.unsqueeze(-2).expand(*gate.shape, m, m)

    def gate_bends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivatives of these by all coordinates: [B, d, d, d], [B, d, d, d, d], last i and j."""
        steep, bend = self.wall(x)[1], self.wall_bend(x)
        d = self.d
        return steep[..., None, None].expand(*steep.shape, d, d), bend[..., None, None].expand(*bend.shape, d, d)

    def to_wall(self, x: Tensor) -> Tensor:
        """Points moved out to the wall; where there is none, they stay: [B, d]."""
        return x

    def place(self, unit: Tensor) -> Tensor:
        """Map points spread evenly over the unit cube, [B, d], to points spread evenly over the domain."""
        if type(self) is not FreeSpace:
            raise PhysicsError(
                f"{type(self).__name__} has no place(unit), which maps the unit cube to the domain: give it"
            )
        raise PhysicsError("free space has no uniform distribution: draw points from the density instead")

    def sample(self, count: int, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
        """Uniform random points, [count, d]."""
        return self.place(torch.rand(count, self.d, dtype=dtype, device=device))


@dataclass(frozen=True)
class Torus(FreeSpace):
    """[0, period) an axis with opposite faces identified; any real point stands for its class.

    `period`: one number, or one an axis.
    """

    period: Side = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 < p < math.inf for p in self.lengths):
            raise PhysicsError(f"period={self.period}: expected a positive length")

    @property
    def lengths(self) -> tuple[float, ...]:
        return _sides(self.period, self.d, "period")

    @property
    def periods(self) -> tuple[float | None, ...]:
        return self.lengths

    @property
    def volume(self) -> float:
        return math.prod(self.lengths)

    def place(self, unit: Tensor) -> Tensor:
        return unit * unit.new_tensor(self.lengths)


@dataclass(frozen=True)
class Box(FreeSpace):
    """The closed box from `low` to `high` (numbers, or one an axis), with impermeable walls."""

    low: Side = 0.0
    high: Side = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(length > 0 for length in self.lengths):
            raise PhysicsError(f"a box from {self.low} to {self.high} is empty: expected low < high")

    @property
    def lengths(self) -> tuple[float, ...]:
        low, high = _sides(self.low, self.d, "low"), _sides(self.high, self.d, "high")
        return tuple(b - a for a, b in zip(low, high, strict=True))

    @property
    def volume(self) -> float:
        return math.prod(self.lengths)

    def ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and the highest corner: [d], [d]."""
        return x.new_tensor(_sides(self.low, self.d, "low")), x.new_tensor(_sides(self.high, self.d, "high"))

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One function an axis, zero on its two faces and at most 1, with its two derivatives: [B, d] each."""
        low, high = self.ends(x)
        scale = 4 / (high - low) ** 2
        return scale * (x - low) * (high - x), scale * (low + high - 2 * x), (-2 * scale).expand_as(x)

    @property
    def walls(self) -> bool:
        return True

    def inside(self, x: Tensor) -> Tensor:
        low, high = self.ends(x)
        slack = 8 * torch.finfo(x.dtype).eps * torch.maximum(low.abs(), high.abs())
        return ((x >= low - slack) & (x <= high + slack)).all(-1)

    def wall(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f, slope, _ = self.factors(x)
        # On the wall a factor is 0: the product of the others is formed without division.
        others = [torch.cat([f[..., :i], f[..., i + 1 :]], -1).prod(-1) for i in range(self.d)]
        return f.prod(-1), slope * torch.stack(others, -1)

    def wall_bend(self, x: Tensor) -> Tensor:
        f, slope, bend = self.factors(x)

        def entry(i: int, j: int) -> Tensor:
            others = f[..., [k for k in range(self.d) if k not in (i, j)]].prod(-1)
            return others * (bend[..., i] if i == j else slope[..., i] * slope[..., j])

        return torch.stack([torch.stack([entry(i, j) for j in range(self.d)], -1) for i in range(self.d)], -2)

    def gates(self, x: Tensor, before: int = 0) -> tuple[Tensor, Tensor]:
        """g_ij = f_i f_j with f_i zero on the two faces across axis i: A_ij need not vanish on the others."""
        f, slope, _ = self._factors(x, before)
        return f.unsqueeze(-1) * f.unsqueeze(-2), f.unsqueeze(-1) * slope.unsqueeze(-2)

    def gate_bends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f, slope, bend = self._factors(x)
        one = torch.eye(self.d, dtype=x.dtype, device=x.device)
        # d_l g_ij = [l = i] f'_i f_j + [l = j] f_i f'_j, and once more; entries with i = j are not used.
        half = torch.einsum("li,...i,...j->...lij", one, slope, f)
        square = torch.einsum("li,mi,...i,...j->...lmij", one, one, bend, f)
        cross = torch.einsum("li,mj,...i,...j->...lmij", one, one, slope, slope)
        return half + half.mT, square + square.mT + cross + cross.mT

    def _factors(self, x: Tensor, before: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """`factors`, and 1 for the coordinates before."""
        f, slope, bend = self.factors(x)
        pad = torch.nn.functional.pad
        return pad(f, (before, 0), value=1.0), pad(slope, (before, 0)), pad(bend, (before, 0))

    def to_wall(self, x: Tensor) -> Tensor:
        """To the nearest face, in lengths of its axis."""
        low, high = self.ends(x)
        side = (x - (low + high) / 2) / (high - low)
        axis = side.abs().argmax(-1, keepdim=True)
        face = torch.where(side < 0, low, high).gather(-1, axis)
        return x.scatter(-1, axis, face)

    def place(self, unit: Tensor) -> Tensor:
        low, high = self.ends(unit)
        return low + (high - low) * unit


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
        volume: float = math.pi ** (self.d / 2) / math.gamma(self.d / 2 + 1) * self.radius**self.d
        return volume

    @property
    def walls(self) -> bool:
        return True

    def inside(self, x: Tensor) -> Tensor:
        return x.square().sum(-1) <= self.radius**2 * (1 + 16 * torch.finfo(x.dtype).eps)

    def wall(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - x.square().sum(-1) / self.radius**2, -2 / self.radius**2 * x

    def wall_bend(self, x: Tensor) -> Tensor:
        return (-2 / self.radius**2 * torch.eye(self.d, dtype=x.dtype, device=x.device)).expand(len(x), -1, -1)

    def to_wall(self, x: Tensor) -> Tensor:
        nearest: Tensor = self.radius * x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        return nearest

    def place(self, unit: Tensor) -> Tensor:
        """In 2 and 3 dimensions by formula; in others a cube's points have no simple even image, and are drawn anew."""
        r = unit[:, :1] ** (1 / self.d)
        if self.d == 1:
            return self.radius * (2 * unit - 1)
        if self.d <= 3:
            angle = 2 * math.pi * unit[:, 1:2]
            around = torch.cat([angle.cos(), angle.sin()], -1)
            if self.d == 3:
                height = 2 * unit[:, 2:] - 1
                around = torch.cat([(1 - height * height).sqrt() * around, height], -1)
            return self.radius * r * around
        x = torch.randn_like(unit)
        point: Tensor = self.radius * r * x / x.norm(dim=-1, keepdim=True)
        return point


def check_domain(domain: object) -> None:
    """Raise `PhysicsError` unless it is a domain."""
    if not isinstance(domain, FreeSpace):
        raise PhysicsError(
            f"domain={domain!r}: expected a FreeSpace, Torus, Box, Ball, Channel or Annulus, as in domain=Ball(3), or "
            "one of your own derived from FreeSpace"
        )


def check_dtype(module: nn.Module, x: Tensor, who: str) -> None:
    """Raise `PhysicsError` if the module's parameters are of another floating-point type than x."""
    like = next(module.parameters(), x)
    if like.dtype != x.dtype:
        raise PhysicsError(
            f"{who}: points are {x.dtype}, the parameters {like.dtype}: make them agree, with model.to(x.dtype) or "
            "x.to(...)"
        )


def check_inside(domain: FreeSpace, x: Tensor, who: str) -> None:
    """Raise `PhysicsError` if a point lies outside the domain."""
    if not inspecting(x) or bool((ok := domain.inside(x)).all()):
        return
    bad = int((~ok).sum())
    first: Sequence[float] = [round(v, 6) for v in x[~ok][0].tolist()]
    raise PhysicsError(f"{who}: {bad} of {len(x)} points lie outside {domain}, the first at {first}: move them inside")


@torch.no_grad()
def check_periodic(
    potential: Callable[[Tensor], Tensor], domain: FreeSpace, x: Tensor, t: Tensor | None = None
) -> None:
    """Raise `PhysicsError` if the potential, of [t, x], is not periodic where the domain is; looks at three points."""
    x = x[:3].detach()
    before = x[:, :0] if t is None else t[:3].detach()
    value = potential(torch.cat([before, x], -1))
    for axis, period in enumerate(domain.periods):
        if period is not None:
            there = x.clone()
            there[:, axis] += period
            jump = (potential(torch.cat([before, there], -1)) - value).abs().max()
            if not jump <= 1e4 * torch.finfo(x.dtype).eps * (1 + value.abs().max()):
                raise PhysicsError(
                    f"the potential jumps by {float(jump):.2g} across the seam of {domain} along axis {axis}: it must "
                    f"have the period {period}. Begin it with neuromech.physics.Periodic, or use mlp(periods=...)"
                )
