"""`audit`: what a model keeps, of any kind: a force field, a neural operator, a rollout, data on a grid.

Every quantity comes with its size, so that it says something, and with a standard error over the samples. Nothing is
judged that was not asked for: what has no answer for this kind of model is left out, and said why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from neuromech.errors import PhysicsError
from neuromech.physics.energy import EnergyModel, Gridded, Rollout, Trajectories
from neuromech.physics.residuals import Channels, Residual, drift, of_field, of_grid, on_grid

if TYPE_CHECKING:
    import pandas as pd

Quantity = Callable[[Tensor], Tensor]
AuditKind = Literal["step", "field", "path"]


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
        there = ", ".join(r.name for r in self.residuals) or "nothing"
        raise PhysicsError(f"the audit has no {name!r}{why}; it has {there}")

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
        left_out = [f"{name:{width}s} left out: {why}" for name, why in self.left_out.items()]
        return "\n".join([*([self.about] if self.about else []), *rows, *left_out])


def audit(
    model: Callable[[Tensor], Tensor] | None,
    states: Tensor | np.ndarray | Trajectories | Rollout | Gridded,
    *,
    energy: Quantity | None = None,
    momentum: Quantity | None = None,
    steps: int = 20,
    kind: AuditKind = "step",
    dx: float | Sequence[float] | None = None,
    channels: Channels | None = None,
    periodic: bool = True,
) -> Audit:
    """Measure what `model` conserves, from `states` [B, ...].

    `kind` says what the model is:
        step      states to the states a step later (a neural operator, an integrator): `steps` of them are made
        field     positions [B, n] to a velocity or force [B, n]: symmetry of its Jacobian, divergence
        path      no model: `states` are [T, B, ...], a rollout or data, as they are
    `states` may also be a `Rollout`, `Trajectories`, or what `load_pdebench` reads: a path; the first states of each
    are where a step starts, and all of them are points of a field. `energy`, `momentum`: functions of states [B, ...]
    to [B] and [B] or [B, k]. `dx`: states are fields on a grid of cells with this spacing, one number or one an axis,
    as [B, n] or [B, n, m], with `channels` first (as convolutions have them) or last. Their total is followed; of
    one channel an axis the divergence too, by central differences, around the edge if the grid is `periodic`.
    Raises `PhysicsError` for shapes that do not fit, or that can be read in two ways.
    """
    for name, value, among in (("kind", kind, AuditKind), ("channels", channels, Channels)):
        if value not in get_args(among) and not (name == "channels" and value is None):
            raise PhysicsError(f"{name} {value!r} is not one of {', '.join(map(repr, get_args(among)))}")
    for name, given in (("model", model), ("energy", energy), ("momentum", momentum)):
        if given is not None and not callable(given):
            raise PhysicsError(f"the {name} is {type(given).__name__}; expected a function of states")
    if (kind == "path") != (model is None):
        raise PhysicsError(
            "a path is audited without a model, audit(None, ..., kind='path'), a step and a field with one"
        )
    if isinstance(states, Gridded):
        dx = states.dx if dx is None and kind != "field" else dx
        channels = channels or ("first" if len(states.fields) > 1 else None)
    u = _tensor(states)
    is_path = not isinstance(states, Tensor | np.ndarray)
    if kind == "field":
        assert model is not None
        asked = {"energy": energy, "momentum": momentum, "total": dx}
        still = {k: "nothing moves in a field: ask a step or a path" for k, v in asked.items() if v is not None}
        points = u.flatten(0, 1) if is_path else u
        return Audit(of_field(model, points), still, f"A field at {len(points)} points")
    path = u if model is None else _path(model, u[0] if is_path else u, steps)
    if path.ndim < 3 or len(path) < 2 or not path.numel():
        raise PhysicsError(f"a path has states [T, B, ...], T at least 2, B at least 1; not {tuple(path.shape)}")
    about = f"Samples: {path.shape[1]}; steps: {len(path) - 1}; states of shape {tuple(path.shape[2:])}"
    found: list[Residual] = []
    left_out: dict[str, str] = {}
    for name, quantity in (("energy", energy), ("momentum", momentum)):
        if quantity is None:
            left_out[name] = f"no function {name}= was given"
        else:
            found.append(drift(name, _values(name, quantity, path)))
    if dx is None:
        left_out["total"] = "no spacing dx= was given, so the states are not fields"
    else:
        fields, spacings = on_grid(path, dx, channels)
        grid, count = " x ".join(map(str, fields.shape[2:-1])), fields.shape[-1]
        about += f", read as fields on a grid of {grid}" + (f" with {count} channels" if count > 1 else "")
        about += ", taken for a vector" if count == len(spacings) > 1 else ""
        found += of_grid(fields, spacings, periodic)
    return Audit((*found,), left_out, about)


def _tensor(states: object) -> Tensor:
    """The numbers of what is audited, of trajectories with time first."""
    states = states.trajectories if isinstance(states, Gridded) else states
    u: object = states
    if isinstance(states, Rollout | Trajectories):
        u = states.u.transpose(0, 1) if isinstance(states, Trajectories) else states.u
    elif isinstance(states, np.ndarray):
        native = states.dtype.newbyteorder("=")
        u = torch.from_numpy(states.astype(native)) if native.kind in "fiubc" else states
    if not isinstance(u, Tensor):
        kind = f"an array of {u.dtype}" if isinstance(u, np.ndarray) else type(u).__name__
        raise PhysicsError(f"states are {kind}; expected a tensor, an array, or a Rollout, Trajectories or Gridded")
    if not u.is_floating_point():
        raise PhysicsError(f"states are floating-point numbers, not {u.dtype}")
    if bad := int((~torch.isfinite(u)).sum()):
        raise PhysicsError(f"states are finite numbers; {bad} of {u.numel()} are not")
    return u.detach()


def _path(model: Callable[[Tensor], Tensor], u: Tensor, steps: int) -> Tensor:
    if not isinstance(steps, int | np.integer) or isinstance(steps, bool) or steps < 1:
        raise PhysicsError(f"a path has at least one step, not {steps!r}")
    if isinstance(model, EnergyModel):
        raise PhysicsError(
            "an EnergyModel has no step of its own, as its steps have any size: audit what it predicts, "
            "audit(None, rollout(model, states, dt=..., steps=...), kind='path', energy=model.energy)"
        )
    path = [u]
    with torch.no_grad():
        for k in range(steps):
            after = model(path[-1].clone())  # which a step in place may change
            if not isinstance(after, Tensor) or after.shape != u.shape:
                found = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
                raise PhysicsError(f"a step maps {tuple(u.shape)} to {found}; expected states like those it was given")
            if not bool(torch.isfinite(after).all()):
                raise PhysicsError(f"the states are not finite after {k + 1} of {steps} steps: ask for fewer")
            path.append(after.clone())  # a step may write to the same place every time
    return torch.stack(path)


def _values(name: str, quantity: Quantity, path: Tensor) -> Tensor:
    """The quantity along the path, [T, B, k] in float64."""
    rows = []
    with torch.no_grad():
        for k, u in enumerate(path):
            row = quantity(u.clone())
            if not isinstance(row, Tensor) or row.shape[:1] != u.shape[:1] or row.is_complex():
                found = tuple(row.shape) if isinstance(row, Tensor) and not row.is_complex() else type(row).__name__
                raise PhysicsError(f"the {name} is {found} of {len(u)} states; expected one row each, of real numbers")
            rows.append(row.double().reshape(len(u), -1))
            if not bool(torch.isfinite(row).all()):
                sample = int((~torch.isfinite(rows[-1]).all(1)).nonzero()[0])
                raise PhysicsError(f"the {name} of sample {sample} after {k} steps is not finite")
    return torch.stack(rows)
