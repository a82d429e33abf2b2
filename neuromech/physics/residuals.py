"""What breaks a law, from the numbers: along a path, in the Jacobian of a field, on a grid. In float64 throughout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from neuromech.errors import PhysicsError

Channels = Literal["first", "last"]
# An axis as short as this may be one of channels (magnetohydrodynamics has 8), where nobody says so.
MANY_CHANNELS = 8


@dataclass(frozen=True)
class Residual:
    """One law: root mean square of what breaks it over the samples, its standard error, and the size it is relative to.

    `worst`: the largest over the samples. All in units of `size`. `curve`: the root mean square after each step.
    """

    name: str
    mean: float
    error: float
    worst: float
    size: float
    samples: int
    curve: tuple[float, ...] = ()


def residual(name: str, off: Tensor, size: float, over_time: Tensor | None = None) -> Residual:
    """`off` [B]: what breaks the law, of each sample; `over_time` [T, B]. Both in float64."""
    if not math.isfinite(size):
        raise PhysicsError(f"the {name} is too large for float64: scale the states")
    unit = size or 1.0  # where there is nothing, nothing is broken
    x = off / unit
    mean = float(x.square().mean().sqrt())
    spread = float(x.square().std()) / math.sqrt(len(x)) / (2 * mean or 1) if len(x) > 1 else math.nan
    curve = () if over_time is None else tuple((over_time / unit).square().mean(1).sqrt().tolist())
    return Residual(name, mean, spread, float(x.abs().max()), size, len(x), curve)


def drift(name: str, values: Tensor) -> Residual:
    """The largest change of [T, B, k] since the start, relative to the size of what is followed."""
    off = (values - values[0]).norm(dim=2)
    return residual(name, off.amax(0), float(values.norm(dim=2).square().mean().sqrt()), off)


def of_field(model: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Residual, ...]:
    """Of a force or velocity at points [B, n]: how far its Jacobian is from symmetric, and its divergence."""
    if x.ndim != 2 or not x.numel():
        raise PhysicsError(
            f"a field is asked at points [B, n], not {tuple(x.shape)}: flatten a grid by .flatten(0, -2)"
        )
    point = x.clone().requires_grad_()
    with torch.enable_grad():
        value = model(point.clone())  # which a field may write to
        if not isinstance(value, Tensor) or value.shape != x.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise PhysicsError(f"the field maps {tuple(x.shape)} to {found}; expected one vector a point")
        if not value.requires_grad:
            raise PhysicsError(
                "no gradient leads from the field to the points: it is constant, detached or computed outside torch"
            )

        def pulled(row: Tensor) -> Tensor:
            found: Any = torch.autograd.grad(row, point, retain_graph=True, allow_unused=True)[0]
            return torch.zeros_like(x) if found is None else found

        rows = [pulled(value[:, k].sum()) for k in range(x.shape[1])]
        # Weights without a pattern: a plain sum of the components may be constant where they are not.
        alone = pulled(value[0] @ torch.linspace(1.0, 2.3, x.shape[1], dtype=x.dtype, device=x.device).sin())
    jacobian = torch.stack(rows, 1).detach().double()
    if not bool(torch.isfinite(jacobian).all()):
        bad = (~torch.isfinite(jacobian.flatten(1)).all(1)).nonzero()[:8, 0].tolist()
        raise PhysicsError(f"the Jacobian of the field is not finite at points {bad}")
    if bool((alone[1:] != 0).any()):
        raise PhysicsError(
            "the field at one point depends on the others, as batch statistics make it: call .eval(); of particles "
            "that act on one another, the positions of all are one point"
        )
    size = float(jacobian.square().sum((1, 2)).mean().sqrt())
    apart = ((jacobian - jacobian.mT) / 2).flatten(1).norm(dim=1)
    return (
        residual("curl (Jacobian not symmetric)", apart, size),
        residual("divergence", jacobian.diagonal(dim1=1, dim2=2).sum(1).abs(), size),
    )


def on_grid(path: Tensor, dx: float | Sequence[float], channels: Channels | None) -> tuple[Tensor, list[float]]:
    """Fields [T, B, n, ..., C] of states [T, B, ...], and a spacing an axis."""
    shape = tuple(path.shape[2:])
    try:
        spacings = np.atleast_1d(np.asarray(dx, dtype=float)).tolist()
    except (TypeError, ValueError) as error:
        raise PhysicsError(f"dx={dx!r} is neither a spacing nor one an axis") from error
    if not spacings or not all(isinstance(h, float) and 0 < h < math.inf for h in spacings):
        raise PhysicsError(f"spacings are positive numbers; found {spacings}")
    if np.ndim(dx) == 0:
        channels = channels or _guess(shape)
        spacings *= len(shape) - (channels is not None)
    axes = len(spacings)
    if axes == len(shape) and channels is None:
        return path.unsqueeze(-1), spacings
    if not 1 <= axes == len(shape) - 1:
        told = "" if channels is None else f" with channels {channels}"
        raise PhysicsError(f"a grid of {axes} axes, as many as spacings, does not fit fields of shape {shape}{told}")
    if channels is None and not shape[-1] <= MANY_CHANNELS < shape[0]:
        raise PhysicsError(f"the channels of fields of shape {shape} may come first or last: give channels=")
    return path.movedim(2, -1) if channels == "first" else path, spacings


def _guess(shape: tuple[int, ...]) -> Channels | None:
    """Where the channels are of fields of one spacing, if it is plain."""
    if len(shape) == 1 or min(shape[0], shape[-1]) > MANY_CHANNELS:
        return None
    if shape[-1] == len(shape) - 1 and shape[0] > MANY_CHANNELS:
        return "last"  # one an axis
    raise PhysicsError(
        f"fields of shape {shape} may have channels, or one more axis: give channels='first' or 'last', or a spacing "
        "for each axis"
    )


def of_grid(path: Tensor, spacings: list[float], periodic: bool) -> list[Residual]:
    """Of fields [T, B, n, ..., C]: their total, and the divergence of those with one channel an axis."""
    axes = len(spacings)
    volume = math.prod(spacings)
    totals, contents = [], []
    for u in path:  # one by one, as copies in float64 of all are large
        cells = volume * u.double().flatten(1, -2)
        totals.append(cells.sum(1))
        contents.append(cells.abs().sum(1).norm(dim=1))
    total = torch.stack(totals)
    off = (total - total[0]).norm(dim=2)
    found = [residual("total", off.amax(0), float(torch.stack(contents).mean()), off)]
    if path.shape[-1] != axes or axes == 1:
        return found
    if min(path.shape[2:-1]) < 3:
        raise PhysicsError(f"central differences take 3 cells an axis; the grid has {tuple(path.shape[2:-1])}")
    sizes, divergences = [], []
    for u in path:
        slopes = _slopes(u.double(), spacings, periodic)
        sizes.append(slopes.square().sum(0).mean())
        divergences.append(slopes.sum(0).square().mean(1).sqrt())
    divergence = torch.stack(divergences)
    size = float(torch.stack(sizes).mean().sqrt())
    return [*found, residual("divergence", divergence.amax(0), size, divergence)]


def _slopes(u: Tensor, spacings: list[float], periodic: bool) -> Tensor:
    """du_k/dx_k of [B, n, ..., C] to second order, [C, B, cells]; without the rim of a grid that is not periodic."""
    inner = (slice(None), *[slice(None) if periodic else slice(1, -1)] * len(spacings))
    parts = [
        (u[..., k].roll(-1, 1 + k) - u[..., k].roll(1, 1 + k))[inner].flatten(1) / (2 * h)
        for k, h in enumerate(spacings)
    ]
    return torch.stack(parts)
