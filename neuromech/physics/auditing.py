"""`audit`: what a model keeps, of any kind: a force field, a neural operator, a rollout, data on a grid.

Every quantity comes with its size, so that it says something, and with a standard error over the samples. Nothing is
judged that was not asked for: what has no answer for this kind of model is left out, and said why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.energy import EnergyModel, Gridded, Rollout, Trajectories

if TYPE_CHECKING:
    import pandas as pd

Quantity = Callable[[Tensor], Tensor]


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


@dataclass(frozen=True)
class Audit:
    """What was found, and what could not be asked."""

    residuals: tuple[Residual, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    about: str = ""  # what the states were taken for

    def __getitem__(self, name: str) -> Residual:
        for residual in self.residuals:
            if residual.name == name:
                return residual
        why = f": {self.left_out[name]}" if name in self.left_out else ""
        raise PhysicsError(f"the audit has no {name!r}{why}; it has {', '.join(r.name for r in self.residuals)}")

    def table(self) -> pd.DataFrame:
        """One row a law."""
        import pandas as pd

        return pd.DataFrame([{k: v for k, v in vars(r).items() if k != "curve"} for r in self.residuals])

    def __str__(self) -> str:
        width = max(len(name) for name in (*(r.name for r in self.residuals), *self.left_out, ""))
        rows = [
            f"{r.name:{width}s} {r.mean:9.2e} +- {r.error:7.1e}   worst {r.worst:9.2e}   of {r.size:9.2e} ({r.samples})"
            for r in self.residuals
        ]
        return "\n".join(
            [
                *([self.about] if self.about else []),
                *rows,
                *(f"{name:{width}s} left out: {why}" for name, why in self.left_out.items()),
            ]
        )


def audit(
    model: Callable[[Tensor], Tensor] | None,
    states: Tensor | Trajectories | Rollout | Gridded | np.ndarray,
    *,
    energy: Quantity | None = None,
    momentum: Quantity | None = None,
    steps: int = 20,
    kind: str = "step",
    dx: float | Sequence[float] | None = None,
    channels: Literal["first", "last"] | None = None,
    periodic: bool = True,
) -> Audit:
    """Measure what `model` conserves, from `states` [B, ...].

    `kind` says what the model is:
        step      states to the states a step later (a neural operator, an integrator): `steps` of them are made
        field     positions [B, n] to a velocity or force [B, n]: symmetry of its Jacobian, divergence
        path      no model: `states` are [T, B, ...], or a `Rollout`, `Trajectories`, or what `load_pdebench` reads
    `energy`, `momentum`: functions of states [B, ...] to [B] and [B] or [B, k]. `dx`: states are fields on a grid with
    this spacing, one number or one an axis, as [B, n] or [B, n, m], with `channels` first (as convolutions have them)
    or last: their total is followed; of data of one channel an axis the divergence too, by central differences.
    Raises `PhysicsError` for shapes that do not fit, or that can be read in two ways.
    """
    if kind not in ("step", "field", "path"):
        raise PhysicsError(f"kind {kind!r} is not one of 'step', 'field', 'path'")
    if channels not in (None, "first", "last"):
        raise PhysicsError(f"channels={channels!r} is not one of None, 'first', 'last'")
    if isinstance(states, Gridded):
        dx = states.dx if dx is None else dx
        channels = channels or ("first" if len(states.names) > 1 else None)
    u = states_of(states)
    if (kind == "path") != (model is None):
        raise PhysicsError("a path is audited without a model, a step and a field with one")
    for name, given in (("model", model), ("energy", energy), ("momentum", momentum)):
        if given is not None and not callable(given):
            raise PhysicsError(f"the {name} is {type(given).__name__}; expected a function of states")
    if kind == "field":
        assert model is not None
        asked = {"energy": energy, "momentum": momentum, "total": dx}
        moved = {k: "nothing moves in a field: ask kind='step' or 'path'" for k, v in asked.items() if v is not None}
        return replace(_of_field(model, u), left_out=moved, about=f"a field at {len(u)} points")
    path = u if model is None else _path(model, u, steps)
    if path.ndim < 3 or len(path) < 2 or not path.numel():
        raise PhysicsError(f"a path has states [T, B, ...], T at least 2, B at least 1; not {tuple(path.shape)}")
    about = f"{path.shape[1]} samples, {len(path) - 1} steps of each, states of shape {tuple(path.shape[2:])}"
    found: list[Residual] = []
    left_out: dict[str, str] = {}
    for name, quantity in (("energy", energy), ("momentum", momentum)):
        if quantity is None:
            left_out[name] = f"no function {name}= was given"
            continue
        with torch.no_grad():
            rows = [quantity(u) for u in path]
        if not all(isinstance(row, Tensor) and row.shape[:1] == path.shape[1:2] for row in rows):
            shape = tuple(rows[0].shape) if isinstance(rows[0], Tensor) else type(rows[0]).__name__
            raise PhysicsError(f"{name} gives {shape} of {path.shape[1]} states; expected one row each")
        values = torch.stack(rows)
        if not bool(torch.isfinite(values).all()):
            k, i = (~torch.isfinite(values.flatten(2) if values.ndim > 2 else values)).nonzero()[0, :2].tolist()
            raise PhysicsError(f"the {name} of sample {i} after {k} steps is not finite")
        found.append(_drift(name, values.flatten(2) if values.ndim > 2 else values.unsqueeze(2)))
    if dx is None:
        left_out["total"] = "no spacing dx= was given, so the states are not fields"
    else:
        path, spacings = _on_grid(path, dx, channels)
        grid, count = " x ".join(map(str, path.shape[2:-1])), path.shape[-1]
        about += f", read as fields on a grid of {grid}" + (f" with {count} channels" if count > 1 else "")
        found += _of_grid(path, spacings, periodic)
    return Audit(tuple(found), left_out, about)


def states_of(states: object) -> Tensor:
    """The tensor of what is audited, of trajectories with time first."""
    states = states.trajectories if isinstance(states, Gridded) else states
    u = states.u.transpose(0, 1) if isinstance(states, Trajectories) else states
    u = u.u if isinstance(u, Rollout) else torch.as_tensor(u) if isinstance(u, np.ndarray) else u
    if not isinstance(u, Tensor):
        raise PhysicsError(f"states are {type(u).__name__}; expected a tensor, or a Rollout, Trajectories or Gridded")
    if not u.is_floating_point() or not bool(torch.isfinite(u).all()):
        found = (
            f"{int((~torch.isfinite(u)).sum())} of them are not" if u.is_floating_point() else f"these are {u.dtype}"
        )
        raise PhysicsError(f"states are finite floating-point numbers; {found}")
    return u.detach()


def _path(model: Callable[[Tensor], Tensor], u: Tensor, steps: int) -> Tensor:
    if not isinstance(steps, int) or steps < 1:
        raise PhysicsError(f"a path has at least one step, not {steps!r}")
    if isinstance(model, EnergyModel):
        raise PhysicsError(
            "an EnergyModel has no step of its own, as its steps have any size: audit what it predicts, "
            "audit(None, rollout(model, states, dt=..., steps=...).u, kind='path', energy=model.energy)"
        )
    path = [u]
    with torch.no_grad():
        for k in range(steps):
            after = model(path[-1].clone())  # which a step in place would change
            if not isinstance(after, Tensor) or after.shape != u.shape:
                found = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
                raise PhysicsError(f"a step maps {tuple(u.shape)} to {found}; expected states like those it was given")
            if not bool(torch.isfinite(after).all()):
                raise PhysicsError(f"the states are not finite after {k + 1} of {steps} steps: ask for fewer")
            path.append(after)
    return torch.stack(path)


def _residual(name: str, off: Tensor, size: float, over_time: Tensor | None = None) -> Residual:
    """`off` [B]: what breaks the law, of each sample; `over_time` [T, B]."""
    unit = max(size, torch.finfo(off.dtype).tiny)
    x = off.double() / unit
    mean = float(x.square().mean().sqrt())
    spread = float(x.square().std()) / math.sqrt(len(x)) / (2 * mean or 1) if len(x) > 1 else math.nan
    curve = () if over_time is None else tuple((over_time.double() / unit).square().mean(1).sqrt().tolist())
    return Residual(name, mean, spread, float(x.abs().max()), size, len(x), curve)


def _drift(name: str, values: Tensor) -> Residual:
    """The largest change of [T, B, k] since the start, relative to the size of what is followed."""
    off = (values - values[0]).norm(dim=2)
    return _residual(name, off.amax(0), float(values.norm(dim=2).square().mean().sqrt()), off)


def _of_field(model: Callable[[Tensor], Tensor], x: Tensor) -> Audit:
    if x.ndim != 2:
        raise PhysicsError(
            f"a field is asked at points [B, n], not {tuple(x.shape)}: flatten a grid by .flatten(0, -2)"
        )
    n = x.shape[1]
    point = x.clone().requires_grad_()
    with torch.enable_grad():
        value = model(point)
        if not isinstance(value, Tensor) or value.shape != x.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise PhysicsError(f"the field maps {tuple(x.shape)} to {found}; expected one vector a point")
        if not value.requires_grad:
            raise PhysicsError(
                "no gradient leads from the field to the points: it is constant, detached or computed outside torch"
            )
        alone = torch.autograd.grad(value[0].sum(), point, retain_graph=True, allow_unused=True)[0]
        if alone is not None and bool((alone[1:] != 0).any()):
            raise PhysicsError(
                "the field at one point depends on the others, as batch statistics make it: call .eval(), or ask "
                "point by point"
            )
        rows: list[Any] = [
            torch.autograd.grad(value[:, k].sum(), point, retain_graph=True, allow_unused=True)[0] for k in range(n)
        ]
    jacobian = torch.stack([torch.zeros_like(x) if row is None else row for row in rows], 1).detach()
    if not bool(torch.isfinite(jacobian).all()):
        bad = (~torch.isfinite(jacobian.flatten(1)).all(1)).nonzero()[:8, 0].tolist()
        raise PhysicsError(f"the Jacobian of the field is not finite at points {bad}")
    size = float(jacobian.square().sum((1, 2)).mean().sqrt())
    apart = ((jacobian - jacobian.mT) / 2).flatten(1).norm(dim=1)
    return Audit((
        _residual("curl (Jacobian not symmetric)", apart, size),
        _residual("divergence", jacobian.diagonal(dim1=1, dim2=2).sum(1).abs(), size),
    ))  # fmt: skip


def _on_grid(
    path: Tensor, dx: float | Sequence[float], channels: Literal["first", "last"] | None
) -> tuple[Tensor, list[float]]:
    """Fields [T, B, n, ..., C], and a spacing an axis."""
    shape = tuple(path.shape[2:])
    try:
        spacings = np.atleast_1d(np.asarray(dx, dtype=float)).tolist()
    except (TypeError, ValueError) as error:
        raise PhysicsError(f"dx={dx!r} is neither a spacing nor one an axis") from error
    if not spacings or not all(0 < h < math.inf for h in spacings):
        raise PhysicsError(f"spacings are positive; found {spacings}")
    same = np.ndim(dx) == 0
    if same and channels is None and len(shape) > 2:
        if shape[-1] == len(shape) - 1 != shape[0]:
            channels = "last"  # one an axis
        elif min(shape[0], shape[-1]) <= 4:
            raise PhysicsError(
                f"states of shape {shape} may have channels or one more axis: give channels='first', 'last', or dx= one "
                "an axis"
            )
    axes = len(shape) - (channels is not None) if same else len(spacings)
    spacings = spacings * axes if same else spacings
    if not 1 <= axes <= len(shape) or len(spacings) != axes or axes + (channels is not None) > len(shape):
        raise PhysicsError(f"there are {len(spacings)} spacings for fields of shape {shape}")
    if len(shape) == axes:
        return path.unsqueeze(-1), spacings
    if len(shape) > axes + 1:
        raise PhysicsError(f"fields of shape {shape} on a grid of {axes} axes have more than one axis of channels")
    if channels is None and shape[0] <= 4 < shape[-1]:
        raise PhysicsError(f"states of shape {shape} look as if their channels came first: give channels='first'")
    return path.movedim(2, -1) if channels == "first" else path, spacings


def _of_grid(path: Tensor, spacings: list[float], periodic: bool) -> list[Residual]:
    """`path` [T, B, n, ..., C]."""
    axes, count = len(spacings), path.shape[-1]
    cells = math.prod(spacings) * path.flatten(2, -2)
    total, content = cells.sum(2), cells.abs().sum(2)
    off = (total - total[0]).norm(dim=2)
    found = [_residual("total", off.amax(0), float(content.norm(dim=2).mean()), off)]
    if count == axes > 1:
        if min(path.shape[2:-1]) < 3:
            raise PhysicsError(f"central differences take 3 cells an axis; the grid has {tuple(path.shape[2:-1])}")
        slopes = [_central(path[..., k], 2 + k, h) for k, h in enumerate(spacings)]
        inner = [slice(None) if periodic else slice(1, -1)] * axes
        slopes = [s[(slice(None), slice(None), *inner)] for s in slopes]
        size = float(torch.stack(slopes).square().sum(0).mean().sqrt())
        divergence = torch.stack(slopes).sum(0).flatten(2).square().mean(2).sqrt()
        found.append(_residual("divergence", divergence.amax(0), size, divergence))
    return found


def _central(u: Tensor, axis: int, h: float) -> Tensor:
    """du/dx to second order, around the edge: of a grid that is not periodic the rim means nothing."""
    return (u.roll(-1, axis) - u.roll(1, axis)) / (2 * h)
