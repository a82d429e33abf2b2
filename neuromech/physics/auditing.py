"""`audit`: what a model keeps, of any kind: a force field, a neural operator, a rollout, data on a grid.

Every quantity comes with its size, so that it says something, and with a standard error over the samples. Nothing is
judged that was not asked for: what has no answer for this kind of model is left out, and said why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.energy import EnergyModel

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
        return "\n".join([*rows, *(f"{name:{width}s} left out: {why}" for name, why in self.left_out.items())])


def audit(
    model: Callable[[Tensor], Tensor] | None,
    states: Tensor,
    *,
    energy: Quantity | None = None,
    momentum: Quantity | None = None,
    steps: int = 20,
    kind: str = "step",
    dx: float | Sequence[float] | None = None,
    periodic: bool = True,
) -> Audit:
    """Measure what `model` conserves, from `states` [B, ...].

    `kind` says what the model is:
        step      states to the states a step later (a neural operator, an integrator): `steps` of them are made
        field     positions [B, n] to a velocity or force [B, n]: symmetry of its Jacobian, divergence
        path      no model: `states` are [T, B, ...], a rollout or data, as they are
    `energy`, `momentum`: functions of states [B, ...] to [B] and [B] or [B, k]. `dx`: states are fields on a grid with
    this spacing, [B, n] or [B, n, m] (or with channels last): their total is followed; of data of one channel an axis,
    [B, n, m, 2], the divergence too, by central differences. Raises `PhysicsError` for shapes that do not fit.
    """
    if kind not in ("step", "field", "path"):
        raise PhysicsError(f"kind {kind!r} is not one of 'step', 'field', 'path'")
    if not isinstance(states, Tensor) or not states.is_floating_point() or not bool(torch.isfinite(states).all()):
        raise PhysicsError("states are a tensor of finite floating-point numbers")
    if (kind == "path") != (model is None):
        raise PhysicsError("a path is audited without a model, a step and a field with one")
    if model is not None and not callable(model):
        raise PhysicsError(f"the model is {type(model).__name__}; expected a function of states")
    if kind == "field":
        assert model is not None
        return _of_field(model, states)
    path = states if model is None else _path(model, states, steps)
    if path.ndim < 3 or len(path) < 2:
        raise PhysicsError(f"a path has states [T, B, ...], T at least 2; not {tuple(path.shape)}")
    found, left_out = [], {}
    for name, quantity in (("energy", energy), ("momentum", momentum)):
        if quantity is None:
            left_out[name] = f"no function {name}= was given"
            continue
        with torch.no_grad():
            values = torch.stack([quantity(u) for u in path])
        if values.shape[:2] != path.shape[:2]:
            raise PhysicsError(
                f"{name} gives {tuple(values.shape[1:])} of {path.shape[1]} states; expected one row each"
            )
        found.append(_drift(name, values.flatten(2) if values.ndim > 2 else values.unsqueeze(2)))
    if dx is None:
        left_out["total"] = "no spacing dx= was given, so the states are not fields"
    else:
        spacings = [float(dx)] if isinstance(dx, int | float) else [float(h) for h in dx]
        found += _of_grid(path, spacings, isinstance(dx, int | float), periodic)
    return Audit(tuple(found), left_out)


def _path(model: Callable[[Tensor], Tensor], u: Tensor, steps: int) -> Tensor:
    if steps < 1:
        raise PhysicsError(f"a path has at least one step, not {steps}")
    if isinstance(model, EnergyModel):
        raise PhysicsError(
            "an EnergyModel has no step of its own, as its steps have any size: audit what it predicts, "
            "audit(None, rollout(model, states, dt=..., steps=...).u, kind='path', energy=model.energy)"
        )
    path = [u]
    with torch.no_grad():
        for k in range(steps):
            after = model(path[-1])
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
    point = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = model(point)
        if value.shape != x.shape:
            raise PhysicsError(f"the field maps {tuple(x.shape)} to {tuple(value.shape)}; expected one vector a point")
        rows: list[Any] = [
            torch.autograd.grad(value[:, k].sum(), point, retain_graph=True, allow_unused=True)[0] for k in range(n)
        ]
    jacobian = torch.stack([torch.zeros_like(x) if row is None else row for row in rows], 1).detach()
    size = float(jacobian.square().sum((1, 2)).mean().sqrt())
    apart = ((jacobian - jacobian.mT) / 2).flatten(1).norm(dim=1)
    return Audit((
        _residual("curl (Jacobian not symmetric)", apart, size),
        _residual("divergence", jacobian.diagonal(dim1=1, dim2=2).sum(1).abs(), size),
    ))  # fmt: skip


def _of_grid(path: Tensor, spacings: list[float], same: bool, periodic: bool) -> list[Residual]:
    if min(spacings) <= 0:
        raise PhysicsError(f"spacings are positive; found {spacings}")
    axes = path.ndim - 2 if same else len(spacings)
    if same and path.ndim > 3 and path.shape[-1] == path.ndim - 3:
        axes -= 1  # one channel an axis stands last
    if not 1 <= axes <= path.ndim - 2:
        raise PhysicsError(f"there are {len(spacings)} spacings for fields of shape {tuple(path.shape[2:])}")
    spacings = spacings * axes if same else spacings
    channels = 1 if path.ndim == 2 + axes else path.shape[-1]
    cells = math.prod(spacings) * path.reshape(*path.shape[:2], -1, channels)
    total, content = cells.sum(2), cells.abs().sum(2)
    off = (total - total[0]).norm(dim=2)
    found = [_residual("total", off.amax(0), float(content.norm(dim=2).mean()), off)]
    if path.ndim == 3 + axes and path.shape[-1] == axes and axes > 1:
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
